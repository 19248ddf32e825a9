#!/usr/bin/env bash
# Checks and times genret on a device. Builds nothing; wants the program that pack.sh made beside it.
#
#   benches/gpu/run.sh LOGS [PART...]      PART: check train-small train-large decode kernels memory (default: all, in this order)
#
# LOGS is a folder for everything that is printed. A short table comes last. Each part ends within ten minutes.
# Environment: DEVICE (cuda:0), PROGRAM (the packed program beside this script), PYTHON (python3, with PyTorch), and
# to try it on a small machine SMALL=1, which shrinks all sizes.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
logs=${1:?usage: run.sh LOGS [PART...]}
shift
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(check train-small train-large decode kernels memory)
device=${DEVICE:-cuda:0}
python=${PYTHON:-python3}
mkdir -p "$logs"
logs=$(cd "$logs" && pwd)
export GENRET_KERNELS=${GENRET_KERNELS:-$logs/kernels}

program=${PROGRAM:-$here/gpu}
if [ ! -x "$program" ] && [ -e "$here/gpu.zst" ]; then
  program=$logs/gpu
  zstd -qdf "$here/gpu.zst" -o "$program" && chmod +x "$program"
elif [ ! -x "$program" ] && [ -e "$here/gpu.gz" ]; then
  program=$logs/gpu
  gzip -dc "$here/gpu.gz" > "$program" && chmod +x "$program"
fi
[ -x "$program" ] || { echo "run.sh: no program at $program; make one with benches/gpu/pack.sh, or set PROGRAM" >&2; exit 2; }

# Kernels are linked with CUDA's libdevice; where there is no toolkit, Python's triton carries one.
if [ -z "${CUDA_PATH:-}" ] && ! ls /usr/local/cuda/nvvm/libdevice /opt/cuda/nvvm/libdevice /usr/lib/cuda/nvvm/libdevice > /dev/null 2>&1; then
  carried=$("$python" -c 'import triton, os; print(os.path.dirname(triton.__file__))' 2> /dev/null)/backends/nvidia/lib/libdevice.10.bc
  if [ -e "$carried" ]; then
    mkdir -p "$logs/cuda/nvvm/libdevice"
    cp "$carried" "$logs/cuda/nvvm/libdevice/"
    export CUDA_PATH=$logs/cuda
  fi
fi

if [ -n "${SMALL:-}" ]; then
  export VOCAB=512 SCALE=0.002
  size=s0.03m steps=20 hypotheses=2000 memory_steps=20 secs=2
  export OMP_NUM_THREADS=1
  small=("s0.03m 2 16") large=("s0.1m 2 16")
  decodes=("s0.03m 2 2 4" "s0.03m 5 2 4")
else
  size=s1m steps=200 hypotheses=100000 memory_steps=1000 secs=20
  # size, batch, tokens
  small=("s10m 64 512" "s100m 32 512") large=("s350m 16 512" "s1b 8 512")
  # size, beam, queries, tokens
  decodes=("s10m 10 32 10" "s10m 100 32 10" "s10m 300 16 10" "s1b 10 32 10" "s1b 100 16 10" "s1b 300 4 10")
fi

table=$logs/table.txt
: > "$table"
failed=0
# note NAME LIMIT COMMAND...: runs it with its output in a log; lines that belong in the table go there.
note() {
  local name=$1 limit=$2
  shift 2
  local log=$logs/$name.log
  echo "== $name: $*" >&2
  timeout "$limit" "$@" > "$log" 2>&1
  local code=$?
  grep -E '^(check|train|decode|kernel|memory|torch|training loss) |^(copy|valid):' "$log" >> "$table"
  [ $code = 0 ] || { failed=1; echo "FAILED ($code) $name: $(tail -n 1 "$log")" | tee -a "$table" >&2; }
}

{
  date -u
  "$program" genret --version
  command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
  uptime
} > "$logs/machine.log" 2>&1

for part in "${parts[@]}"; do
  case $part in
    check)
      note check 280 "$program" check "$device" "$size"
      note valid 150 "$program" valid "$device" "$hypotheses"
      # The program itself: a small model from the embedded corpus.
      cat > "$logs/small.toml" <<TOML
name = "small"
out = "$logs/small"
seed = 1
[data]
synth = { passages = 300, queries_per_passage = 8 }
[tokenizer]
kind = "bpe"
vocab = 1024
[model]
size = "$([ -n "${SMALL:-}" ] && echo s0.03m || echo s10m)"
[objective.span]
draws = 1
[train]
batch_size = 32
learning_rate = 1e-3
epochs = $(awk "BEGIN { print $steps * 32 / 1878 }")
TOML
      rm -rf "$logs/small"
      note program 150 "$program" genret train --config "$logs/small.toml" --device "$device"
      ;;
    train-small | train-large)
      trains=("${small[@]}")
      [ "$part" = train-small ] || trains=("${large[@]}")
      for spec in "${trains[@]}"; do
        read -r model batch seq <<< "$spec"
        for precision in bf16 f32; do
          note "train-$model-$precision" 100 "$program" train "$device" "$model" "$precision" "$secs" "$batch" "$seq"
        done
        if "$python" -c 'import torch' 2> /dev/null; then
          for mode in eager compile; do
            note "torch-$model-$mode" 45 "$python" "$here/train_torch.py" \
              "$("$program" shape cpu "$model" "$seq")" "$device" "$mode" "$secs" "$batch" "$seq"
          done
        fi
      done
      ;;
    decode)
      for spec in "${decodes[@]}"; do
        read -r model beam queries new <<< "$spec"
        note "decode-$model-$beam" 95 "$program" decode "$device" "$model" "$beam" "$queries" "$new"
      done
      ;;
    kernels) note kernels 400 "$program" kernels "$device" ;;
    memory) note memory 500 "$program" memory "$device" "$size" "$memory_steps" ;;
    *) echo "run.sh: no part named $part" >&2; exit 2 ;;
  esac
done
rm -f "$logs/gpu"
cat "$logs/machine.log" "$table"
exit $failed
