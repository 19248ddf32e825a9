#!/usr/bin/env bash
# Packs what a GPU machine needs into a folder: the program, stripped and compressed, and the scripts.
#
#   benches/gpu/pack.sh FOLDER             then, on the GPU machine: FOLDER/run.sh LOGS
#
# Builds with --features cuda (README says what that needs); CARGO_TARGET_DIR is best one of its own. FEATURES= packs a
# program for the CPU, to try the scripts.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:?usage: pack.sh FOLDER}
mkdir -p "$folder"
features=${FEATURES-cuda}
cargo build --release --bench gpu ${features:+--features "$features"}
deps=${CARGO_TARGET_DIR:-target}/release/deps
program=$(ls -t "$deps"/gpu-* | grep -v '\.d$' | head -n 1)
strip -o "$folder/gpu.raw" "$program"
zstd -q -f -19 -T0 --rm "$folder/gpu.raw" -o "$folder/gpu.zst"
cp benches/gpu/run.sh benches/gpu/train_torch.py "$folder/"
git rev-parse HEAD > "$folder/commit"
bytes=$(stat -c %s "$folder/gpu.zst")
echo "$((bytes / 1048576)) MiB in $folder"
[ "$bytes" -lt $((60 * 1048576)) ] || { echo "pack.sh: more than 60 MiB" >&2; exit 1; }
