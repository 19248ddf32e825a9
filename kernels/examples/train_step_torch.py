"""The training step of `train_step.rs` in PyTorch eager, the two run in turn on the same weights and batches.

    cargo build --release -p genret-kernels --example train_step
    python kernels/examples/train_step_torch.py target/release/examples/train_step [rounds] [steps]

Prints the first losses of both, then medians of each round and the ratio PyTorch / genret of the medians over all rounds.
"""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

D, LAYERS, H, KV, FFN, V, B, S, BATCHES = 256, 4, 4, 2, 688, 8192, 16, 64, 4
HD = D // H
layer = [(D,), (D, D), (KV * HD, D), (KV * HD, D), (D, D), (D,), (FFN, D), (FFN, D), (D, FFN)]
SHAPES = [(V, D)] + layer * LAYERS + [(D,)]

binary = sys.argv[1]
rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
steps = int(sys.argv[3]) if len(sys.argv) > 3 else 30
torch.set_num_threads(os.cpu_count())

with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "export")
    subprocess.run([binary, "1", path], check=True, stdout=subprocess.DEVNULL)
    raw = bytearray(open(path, "rb").read())
count = sum(math.prod(s) for s in SHAPES)
flat = torch.frombuffer(raw, dtype=torch.float32, count=count)
batches = torch.frombuffer(raw, dtype=torch.int32, offset=4 * count).long().view(BATCHES, B, S + 1)

params, at = [], 0
for shape in SHAPES:
    params.append(flat[at : at + math.prod(shape)].clone().view(shape).requires_grad_())
    at += math.prod(shape)
optimiser = torch.optim.AdamW(params, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
angle = torch.outer(torch.arange(S, dtype=torch.float64), 10000.0 ** (-2 * torch.arange(HD // 2, dtype=torch.float64) / HD))
cos, sin = (torch.cat([f(angle)] * 2, -1).float() for f in (torch.cos, torch.sin))


def rotate(x):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def forward(ids, targets):
    x = F.embedding(ids, params[0])
    for i in range(LAYERS):
        n1, q, k, v, o, n2, gate, up, down = params[1 + 9 * i : 10 + 9 * i]
        n = F.rms_norm(x, (D,), n1, 1e-5)
        heads = lambda w, h: F.linear(n, w).view(B, S, h, HD).transpose(1, 2)
        a = F.scaled_dot_product_attention(rotate(heads(q, H)), rotate(heads(k, KV)), heads(v, KV), is_causal=True, enable_gqa=True)
        x = x + F.linear(a.transpose(1, 2).reshape(B, S, D), o)
        n = F.rms_norm(x, (D,), n2, 1e-5)
        x = x + F.linear(F.silu(F.linear(n, gate)) * F.linear(n, up), down)
    x = F.rms_norm(x, (D,), params[-1], 1e-5)
    return F.cross_entropy(F.linear(x, params[0]).view(-1, V), targets.reshape(-1))


done = 0


def run(count, report):
    global done
    times = {"forward": [], "backward": [], "optimiser": [], "step": []}
    for _ in range(count):
        batch = batches[done % BATCHES]
        start = time.perf_counter()
        loss = forward(batch[:, :-1], batch[:, 1:])
        value = loss.item()
        forward_done = time.perf_counter()
        loss.backward()
        backward_done = time.perf_counter()
        norm = torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        end = time.perf_counter()
        done += 1
        if report and done <= 5:
            print(f"torch  step {done} loss {value:.6f} norm {norm:.6f}")
        for name, x in zip(times, (forward_done - start, backward_done - forward_done, end - backward_done, end - start)):
            times[name].append(x * 1e3)
    return times


all_torch, all_genret = {}, {}
run(5, True)
for round_ in range(rounds):
    ours = subprocess.run([binary, str(steps)], check=True, capture_output=True, text=True).stdout.splitlines()
    theirs = run(steps, False)
    if round_ == 0:
        print("\n".join("genret " + line for line in ours[:5]))
    line = []
    for name, x in theirs.items():
        mine = next(float(y.split()[1]) for y in ours if y.startswith(name + " ") and y.endswith("ms"))
        all_torch.setdefault(name, []).append(statistics.median(x))
        all_genret.setdefault(name, []).append(mine)
        line.append(f"{name} {mine:.1f} / {all_torch[name][-1]:.1f}")
    print(f"round {round_ + 1}, genret / torch ms: " + ", ".join(line) + f", load {os.getloadavg()[0]:.1f}")
for name in all_torch:
    a, b = statistics.median(all_genret[name]), statistics.median(all_torch[name])
    print(f"{name}: genret {a:.1f} ms, torch {b:.1f} ms, torch / genret {b / a:.2f}")
