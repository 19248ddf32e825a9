#!/usr/bin/env python3
"""Training steps of a LLaMA in plain PyTorch, bf16 autocast over 32-bit weights, fused AdamW.

    train_torch.py SHAPE DEVICE eager|compile SECS BATCH SEQ

SHAPE is JSON as `gpu shape DEVICE SIZE` prints it, so that both programs train the same shape. Random tokens; the
first three steps are left out; medians, device synchronised.
"""
import json
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.heads, self.kv_heads, self.dim = s["num_attention_heads"], s["num_key_value_heads"], s["head_dim"]
        d, f = s["hidden_size"], s["intermediate_size"]
        self.norm1, self.norm2 = nn.RMSNorm(d, eps=1e-5), nn.RMSNorm(d, eps=1e-5)
        self.q = nn.Linear(d, self.heads * self.dim, bias=False)
        self.k = nn.Linear(d, self.kv_heads * self.dim, bias=False)
        self.v = nn.Linear(d, self.kv_heads * self.dim, bias=False)
        self.o = nn.Linear(self.heads * self.dim, d, bias=False)
        self.gate, self.up = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False)
        self.down = nn.Linear(f, d, bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        h = self.norm1(x)

        def split(y, heads):
            return y.view(b, t, heads, self.dim).transpose(1, 2)

        def turn(y):
            first, second = y.chunk(2, dim=-1)
            return y * cos + torch.cat((-second, first), dim=-1) * sin

        q, k = turn(split(self.q(h), self.heads)), turn(split(self.k(h), self.kv_heads))
        v = split(self.v(h), self.kv_heads)
        y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, -1))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    def __init__(self, s, seq):
        super().__init__()
        self.embed = nn.Embedding(s["vocab_size"], s["hidden_size"])
        self.blocks = nn.ModuleList(Block(s) for _ in range(s["num_hidden_layers"]))
        self.norm = nn.RMSNorm(s["hidden_size"], eps=1e-5)
        self.head = nn.Linear(s["hidden_size"], s["vocab_size"], bias=False)
        if s["tie_word_embeddings"]:
            self.head.weight = self.embed.weight
        nn.init.normal_(self.embed.weight, std=0.02)
        angles = torch.outer(torch.arange(seq).float(), 10_000.0 ** (-torch.arange(0, s["head_dim"], 2) / s["head_dim"]))
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, ids, targets):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def main():
    shape, device, mode, secs, batch, seq = sys.argv[1:]
    s, secs, batch, seq = json.loads(shape), float(secs), int(batch), int(seq)
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = True
    cuda = device.startswith("cuda")
    model = Llama(s, seq).to(device)
    # Small models are timed too: what compiling takes is part of the first steps, which are left out.
    forward = torch.compile(model) if mode == "compile" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=cuda)

    def sync():
        if cuda:
            torch.cuda.synchronize()

    times, begun = [], time.perf_counter()
    at = 0
    while len(times) < 3 or time.perf_counter() - begun < secs:
        ids = torch.randint(s["vocab_size"], (batch, seq + 1), device=device)
        sync()
        start = time.perf_counter()
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
            loss = forward(ids[:, :-1], ids[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        sync()
        if at >= 3:
            times.append(time.perf_counter() - start)
        at += 1
    secs = statistics.median(times)
    peak = float(os.environ.get("PEAK_TFLOPS", 990)) * 1e12
    memory = f"{torch.cuda.max_memory_reserved() / 2**20:.0f} MiB" if cuda else "unknown"
    print(
        f"torch {mode} {s['num_hidden_layers']} x {s['hidden_size']} bf16 batch {batch} x {seq}: {1e3 * secs:.1f} ms, "
        f"{batch * seq / secs:.0f} tokens/s, MFU {batch * s['flops'] / secs / peak:.3f}, {memory}, {len(times)} steps, loss {value:.3f}"
    )


if __name__ == "__main__":
    main()
