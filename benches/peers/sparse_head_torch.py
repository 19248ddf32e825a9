"""The step of kernels/examples/sparse_head.rs in PyTorch eager, the two programs in turn, one thread each.

    cargo build --release -p genret-kernels --example sparse_head
    python benches/peers/sparse_head_torch.py PROGRAM [rounds] [width] [vocabulary] [batch] [tokens]

Prints medians of CPU milliseconds, the ratio PyTorch / genret, and how much PyTorch's peak of resident memory grows in
its steps. Needs torch from PyPI.
"""

import os
import resource
import statistics
import subprocess
import sys
import time

import torch

PROGRAM = sys.argv[1]
ROUNDS, WIDTH, VOCAB, BATCH, SEQ = [int(x) for x in sys.argv[2:]] + [5, 256, 131072, 8, 128][len(sys.argv) - 2 :]
SCALE = WIDTH**-0.25

torch.set_num_threads(1)


def inputs(down):
    """As the program's: hidden states end in 1, rows of the weight in a constant that takes their logits down."""
    hidden, weight = torch.rand(BATCH * SEQ, WIDTH) * 2 - 1, torch.rand(VOCAB, WIDTH) * 2 - 1
    hidden[:, -1], weight[:, -1] = 1, -down * WIDTH**0.5 / 3
    mask = torch.ones(BATCH, SEQ, dtype=torch.bool)
    mask[3::4, SEQ // 2 :] = False
    return hidden.requires_grad_(), weight.requires_grad_(), mask


def step(hidden, weight, mask):
    hidden.grad = weight.grad = None
    start = time.process_time()
    logits = (hidden @ weight.T * SCALE).view(BATCH, SEQ, VOCAB).masked_fill(~mask[..., None], torch.finfo(torch.float32).min)
    out = logits.max(1).values.relu().log1p()
    del logits
    middle = time.process_time()
    out.square().sum().backward()
    end = time.process_time()
    return (middle - start) * 1e3, (end - middle) * 1e3


def ours():
    """Forward and backward for each of the program's two models, of a single round after a first."""
    arguments = [str(x) for x in (3, WIDTH, VOCAB, BATCH, SEQ, 1)]
    environment = os.environ | {"RAYON_NUM_THREADS": "1"}
    lines = subprocess.run([PROGRAM, *arguments], env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.split() for line in lines if line.startswith("fused")]
    return [(float(words[2]), float(words[5])) for words in found]


before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
cases = [inputs(0.0), inputs(3.8)]
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
times = {"genret": [[], []], "PyTorch": [[], []]}
for _ in range(ROUNDS):
    for place, measured in enumerate(ours()):
        times["genret"][place].append(measured)
    for place, case in enumerate(cases):
        times["PyTorch"][place].append(step(*case))
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024
for place, name in enumerate(("all terms active", "one in a hundred active")):
    medians = {who: [statistics.median(t[i] for t in of[place]) for i in (0, 1)] for who, of in times.items()}
    for who, (forward, backward) in medians.items():
        print(f"{name}: {who} forward {forward:.1f} ms, backward {backward:.1f} ms")
    print(f"{name}: PyTorch / genret {sum(medians['PyTorch']) / sum(medians['genret']):.2f}")
print(f"PyTorch's peak grows by {grown:.0f} MiB (gradients of {(WIDTH * (VOCAB + BATCH * SEQ)) * 8 / 2**20:.0f} MiB among it)")
