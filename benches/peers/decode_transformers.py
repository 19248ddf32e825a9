"""Constrained beam search of genret beside `generate` of transformers with `prefix_allowed_tokens_fn`.

    cargo build --release --bench decode
    python benches/peers/decode_transformers.py target/release/deps/decode-HASH [--sizes 1m,10m] [--beams 10,100]
        [--batches 1,32] [--new 20] [--rounds 3] [--ids 20000] [--threads N] [--json FILE]

Both read the same random weights (LLaMA, vocabulary 32,000, float32), prompts of 32 tokens and identifiers of NEW tokens,
the last of them the end token; transformers through a tree of Python dictionaries, as GENRE does. Runs
alternate; times are wall-clock and processor seconds. On a loaded machine take one thread: with more, PyTorch's threads
wait for each other. Sequences of the first round are compared.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

import numpy
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB, PROMPT, END = 32000, 32, 1
# Width, layers, heads, width of the feed-forward layer.
SIZES = {"1m": (128, 5, 4, 344), "10m": (320, 8, 5, 864), "50m": (640, 10, 10, 1712)}

parser = argparse.ArgumentParser()
parser.add_argument("binary")
parser.add_argument("--sizes", default="1m,10m,50m")
parser.add_argument("--beams", default="10,100")
parser.add_argument("--batches", default="1,32")
parser.add_argument("--new", type=int, default=20)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--ids", type=int, default=20000)
parser.add_argument("--length-penalty", type=float, default=0.0)
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--normalise", default="full", help="full: scores as in transformers; allowed: over the allowed tokens, which transformers has not")
parser.add_argument("--json")
args = parser.parse_args()
torch.set_num_threads(args.threads)
transformers.logging.set_verbosity_error()
print(f"torch {torch.__version__}, transformers {transformers.__version__}, {args.threads} threads on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


def identifiers(rng):
    """Random identifiers whose first tokens are few, so that beams share beginnings."""
    first = 2 + rng.zipf(1.3, (args.ids * 2, 3)) % 500
    rest = rng.integers(2, VOCAB, (args.ids * 2, args.new - 4))
    rows = numpy.unique(numpy.concatenate([first, rest], 1), axis=0)
    rows = rows[rng.permutation(len(rows))[: args.ids]]
    return [[int(t) for t in row] + [END] for row in rows]


def tree(ids):
    root = {}
    for tokens in ids:
        node = root
        for token in tokens:
            node = node.setdefault(token, {})
    return root


def allowed(root):
    def function(_, sequence):
        node = root
        for token in sequence[PROMPT:].tolist():
            node = node.get(token)
            if node is None:
                return [END]
        return list(node) or [END]

    return function


def generate(model, prompts, beam, function, scores=False):
    started, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        out = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            num_beams=beam,
            num_return_sequences=beam,
            max_new_tokens=args.new,
            do_sample=False,
            length_penalty=args.length_penalty,
            early_stopping="never",
            prefix_allowed_tokens_fn=function,
            return_dict_in_generate=True,
            output_scores=scores,
            pad_token_id=0,
            eos_token_id=END,
        )
    return out, time.perf_counter() - started, time.process_time() - cpu


def compare(ours, theirs, beam, batch):
    """Equal sequences at equal rank, how many were compared, and the largest difference of scores where there are any."""
    same, total, largest = 0, 0, 0.0
    for query in range(batch):
        for rank in range(beam):
            if rank >= len(ours[query]):
                continue
            tokens = theirs.sequences[query * beam + rank][PROMPT:].tolist()
            tokens = tokens[: tokens.index(END) + 1] if END in tokens else tokens
            mine, log_prob = ours[query][rank]
            total += 1
            same += mine == tokens
            if theirs.sequences_scores is not None:
                score = theirs.sequences_scores[query * beam + rank].item()
                largest = max(largest, abs(log_prob / len(mine) ** args.length_penalty - score))
    return same, total, largest


environment = {**os.environ, "RAYON_NUM_THREADS": str(args.threads)}
rows = []
for size in args.sizes.split(","):
    width, layers, heads, inner = SIZES[size]
    rng = numpy.random.default_rng(5)
    ids = identifiers(rng)
    function = allowed(tree(ids))
    prompts = rng.integers(2, VOCAB, (64, PROMPT))
    torch.manual_seed(3)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
            intermediate_size=inner, max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.05,
            eos_token_id=END, pad_token_id=0, bos_token_id=2,
        )
    ).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        json.dump(ids, open(os.path.join(folder, "identifiers.json"), "w"))
        json.dump(prompts.tolist(), open(os.path.join(folder, "prompts.json"), "w"))
        for beam in map(int, args.beams.split(",")):
            for batch in map(int, args.batches.split(",")):
                command = [args.binary, "serve", folder, str(beam), str(batch), str(args.new), args.normalise]
                ours = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

                def run(line):
                    ours.stdin.write(line + "\n")
                    ours.stdin.flush()
                    return json.loads(ours.stdout.readline())

                inputs = torch.tensor(prompts[:batch])
                # A round that does not count warms both up and compares what they find.
                found = run("sequences")
                # Scores come with the logits of all steps, which only fit for few hypotheses.
                out, secs, _ = generate(model, inputs, beam, function, scores=beam * batch <= 320)
                same, total, largest = compare(found["sequences"], out, beam, batch)
                mine, theirs = [], []
                for _ in range(args.rounds):
                    row = run("go")
                    mine.append((row["secs"], row["cpu_secs"]))
                    theirs.append(generate(model, inputs, beam, function)[1:])
                ours.stdin.close()
                ours.wait()
                mine, theirs = [[statistics.median(x) for x in zip(*times)] for times in (mine, theirs)]
                row = {
                    "size": size, "beam": beam, "batch": batch, "new": args.new, "normalise": args.normalise, "threads": args.threads,
                    "genret_queries_per_sec": batch / mine[0], "transformers_queries_per_sec": batch / theirs[0],
                    "ratio": theirs[0] / mine[0], "cpu_ratio": theirs[1] / max(mine[1], 0.01),
                    "same_sequences": same, "sequences": total, "largest_score_difference": largest,
                }
                rows.append(row)
                print(
                    f"{size:>4} beam {beam:>3} batch {batch:>2}: genret {batch / mine[0]:8.2f} q/s, transformers {batch / theirs[0]:7.2f} q/s: "
                    f"{row['ratio']:5.1f}x wall, {row['cpu_ratio']:5.1f}x cpu; {same} of {total} sequences equal, "
                    f"scores differ by {largest:.1e}; load {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
if args.json:
    json.dump(rows, open(args.json, "w"), indent=1)
