"""The steps of benches/train.rs in PyTorch eager, the two programs in turn on the same weights and batches.

    cargo bench --bench train --no-run        # prints where the program is
    python benches/peers/train_torch.py PROGRAM llama|t5 [rounds] [steps]
    python benches/peers/train_torch.py PROGRAM llama|t5 memory [vocabulary]

The first prints the first losses of both, then medians of each round and the ratio PyTorch / genret of the
medians over all rounds. PyTorch is written by hand with its fused operations where it has them (RMSNorm,
scaled-dot-product attention where no gradient of a bias is asked for, AdamW); the T5 of the transformers package
is slower. The second compares peaks of resident memory of 5 steps, each in a process of its own. Needs torch and
safetensors from PyPI.
"""

import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

BATCH, SEQ, HEADS, KV, DIM, WIDTH = 16, 64, 4, 2, 64, 256
RMS = {"llama": 1e-5, "t5": 1e-6}


def heads(x, weight, count=HEADS):
    return F.linear(x, weight).view(BATCH, -1, count, DIM).transpose(1, 2)


def joined(x):
    return x.transpose(1, 2).reshape(BATCH, -1, HEADS * DIM)


def rotary_tables():
    angle = torch.outer(torch.arange(SEQ, dtype=torch.float64), 10000.0 ** (-2 * torch.arange(DIM // 2, dtype=torch.float64) / DIM))
    return [torch.cat([f(angle)] * 2, -1).float() for f in (torch.cos, torch.sin)]


COS, SIN = rotary_tables()


def rotate(x):
    a, b = x.chunk(2, -1)
    return x * COS + torch.cat([-b, a], -1) * SIN


def llama(p, batch):
    ids, targets = batch[:, :-1], batch[:, 1:]
    x = F.embedding(ids, p["model.embed_tokens.weight"])
    layer = 0
    while f"model.layers.{layer}.input_layernorm.weight" in p:
        w = lambda name: p[f"model.layers.{layer}.{name}.weight"]
        n = F.rms_norm(x, (WIDTH,), w("input_layernorm"), 1e-5)
        q, k, v = heads(n, w("self_attn.q_proj")), heads(n, w("self_attn.k_proj"), KV), heads(n, w("self_attn.v_proj"), KV)
        a = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True, enable_gqa=True)
        x = x + F.linear(joined(a), w("self_attn.o_proj"))
        n = F.rms_norm(x, (WIDTH,), w("post_attention_layernorm"), 1e-5)
        x = x + F.linear(F.silu(F.linear(n, w("mlp.gate_proj"))) * F.linear(n, w("mlp.up_proj")), w("mlp.down_proj"))
        layer += 1
    x = F.rms_norm(x, (WIDTH,), p["model.norm.weight"], 1e-5)
    logits = F.linear(x, p["model.embed_tokens.weight"])
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def buckets(both_ways):
    """Bucket of each (query, key), as in transformers."""
    distance = torch.arange(SEQ)[None] - torch.arange(SEQ)[:, None]
    count = 16 if both_ways else 32
    first = (distance > 0) * count if both_ways else torch.zeros_like(distance)
    far = distance.abs() if both_ways else -distance.clamp(max=0)
    exact = count // 2
    log = exact + (torch.log(far.float() / exact) / torch.log(torch.tensor(128 / exact)) * (count - exact)).long()
    return first + torch.where(far < exact, far, log.clamp(max=count - 1))


BOTH_WAYS, BACK = buckets(True), buckets(False)
LATER = torch.ones(SEQ, SEQ).triu(1).bool()


def t5(p, batch):
    prompts, targets = batch[:BATCH], batch[BATCH:]
    inputs = torch.cat([torch.zeros(BATCH, 1, dtype=torch.long), targets[:, :-1]], 1)

    def norm(x, name):
        return F.rms_norm(x, (WIDTH,), p[name + ".weight"], 1e-6)

    def feed_forward(x, place):
        n = norm(x, place + ".layer_norm")
        w = lambda name: p[f"{place}.DenseReluDense.{name}.weight"]
        gate = F.gelu(F.linear(n, w("wi_0")), approximate="tanh")
        return x + F.linear(gate * F.linear(n, w("wi_1")), w("wo"))

    def self_attention(x, place, bias):
        n = norm(x, place + ".layer_norm")
        w = lambda name: p[f"{place}.SelfAttention.{name}.weight"]
        q, k, v = (heads(n, w(name)) for name in "qkv")
        scores = q @ k.transpose(2, 3) + bias
        return x + F.linear(joined(scores.softmax(-1) @ v), w("o"))

    def bias(stack, of):
        table = p[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        return F.embedding(of, table).permute(2, 0, 1)[None]

    shared = p["shared.weight"]
    x, added, block = F.embedding(prompts, shared), bias("encoder", BOTH_WAYS), 0
    while f"encoder.block.{block}.layer.0.layer_norm.weight" in p:
        x = self_attention(x, f"encoder.block.{block}.layer.0", added)
        x = feed_forward(x, f"encoder.block.{block}.layer.1")
        block += 1
    memory = norm(x, "encoder.final_layer_norm")
    x, added, block = F.embedding(inputs, shared), bias("decoder", BACK).masked_fill(LATER, -torch.inf), 0
    while f"decoder.block.{block}.layer.0.layer_norm.weight" in p:
        x = self_attention(x, f"decoder.block.{block}.layer.0", added)
        place = f"decoder.block.{block}.layer.1"
        w = lambda name: p[f"{place}.EncDecAttention.{name}.weight"]
        q = heads(norm(x, place + ".layer_norm"), w("q"))
        a = F.scaled_dot_product_attention(q, heads(memory, w("k")), heads(memory, w("v")), scale=1.0)
        x = x + F.linear(joined(a), w("o"))
        x = feed_forward(x, f"decoder.block.{block}.layer.2")
        block += 1
    x = norm(x, "decoder.final_layer_norm") * WIDTH**-0.5
    logits = F.linear(x, shared)
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


class Training:
    def __init__(self, family, folder):
        folder = pathlib.Path(folder)
        self.params = {k: v.clone().requires_grad_() for k, v in load_file(folder / "model.safetensors").items()}
        self.batches = [torch.tensor(batch) for batch in json.loads((folder / "batches.json").read_text())]
        self.loss = {"llama": llama, "t5": t5}[family]
        groups = [
            {"params": [p for p in self.params.values() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in self.params.values() if p.dim() == 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)
        self.done = 0

    def run(self, count, report):
        times = {"forward": [], "backward": [], "optimiser": [], "step": []}
        for _ in range(count):
            start = time.perf_counter()
            loss = self.loss(self.params, self.batches[self.done % len(self.batches)])
            value = loss.item()
            forward_done = time.perf_counter()
            loss.backward()
            del loss
            backward_done = time.perf_counter()
            norm = torch.nn.utils.clip_grad_norm_(self.params.values(), 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            end = time.perf_counter()
            self.done += 1
            if report and self.done <= 5:
                print(f"torch  step {self.done} loss {value:.6f} norm {norm:.6f}")
            spans = (forward_done - start, backward_done - forward_done, end - backward_done, end - start)
            for name, span in zip(times, spans):
                times[name].append(span * 1e3)
        return times


def genret(program, family, *args):
    command = [program, family, *map(str, args)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def figure(lines, name):
    return float(next(line.split()[1] for line in lines if line.startswith(name + " ")))


def compare_times(program, family, rounds, steps):
    with tempfile.TemporaryDirectory() as folder:
        genret(program, family, "--steps", 1, "--export", folder)
        training = Training(family, folder)
    training.run(5, True)
    theirs, ours = {}, {}
    for round_ in range(rounds):
        lines = genret(program, family, "--steps", steps)
        times = training.run(steps, False)
        if round_ == 0:
            print("\n".join("genret " + line for line in lines[:5]))
        report = []
        for name, spans in times.items():
            theirs.setdefault(name, []).append(statistics.median(spans))
            ours.setdefault(name, []).append(figure(lines, name))
            report.append(f"{name} {ours[name][-1]:.1f} / {theirs[name][-1]:.1f}")
        print(f"round {round_ + 1}, genret / torch ms: " + ", ".join(report) + f", load {os.getloadavg()[0]:.1f}")
    for name in theirs:
        a, b = statistics.median(ours[name]), statistics.median(theirs[name])
        ratios = statistics.median(y / x for x, y in zip(ours[name], theirs[name]))
        print(f"{name}: genret {a:.1f} ms, torch {b:.1f} ms, torch / genret {b / a:.2f} (median of rounds {ratios:.2f})")


def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare_memory(program, family, vocab):
    with tempfile.TemporaryDirectory() as folder:
        genret(program, family, "--steps", 1, "--vocab", vocab, "--export", folder)
        ours = figure(genret(program, family, "--steps", 5, "--vocab", vocab), "peak")
        child = [sys.executable, __file__, program, family, "peak", folder]
        before, theirs = map(float, subprocess.run(child, check=True, capture_output=True, text=True).stdout.split())
    print(
        f"{family}, vocabulary {vocab}, peak of resident memory: genret {ours:.0f} MiB, torch {theirs:.0f} MiB"
        f" ({before:.0f} before the model was read), genret / torch {ours / theirs:.2f},"
        f" without the program itself {ours / (theirs - before):.2f}"
    )


torch.set_num_threads(os.cpu_count())
program, family = sys.argv[1:3]
if sys.argv[3:4] == ["memory"]:
    compare_memory(program, family, int(sys.argv[4]) if len(sys.argv) > 4 else 32768)
elif sys.argv[3:4] == ["peak"]:
    before = resident()
    Training(family, sys.argv[4]).run(5, False)
    print(before, resident())
else:
    compare_times(program, family, *(int(x) for x in (sys.argv[3:5] + ["5", "30"][len(sys.argv) - 3 :])))
