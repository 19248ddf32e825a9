"""Writes tests/parity/objectives.json: retrieval losses and their gradients as PyTorch computes them.

    python tests/parity/make_objectives.py

Three queries, each with a group of three passages (the positive first), so a pool of nine; representations of six
numbers, `sparse` (not negative, with zeros) and `dense` (of either sign). Inputs have four decimals; everything is
computed in 64-bit floats. Scores are inner products divided by the temperature. Made with torch 2.13.0.

    cl          cross-entropy of a query's own positive over the pool, mean over queries; where `masked` is true a
                passage is left out for that query
    margin_mse  mean over queries of ((s+ - s-) - (t+ - t-))^2, with the positive and the first negative
    kl          KL(softmax(teacher) || softmax(s)) over the query's own group, mean over queries
    cl_kl       1/2 cl + 1/2 kl
    flops       sum over terms of (mean over rows of |x|)^2
    l1          mean over rows of the sum over terms of |x|
    ramp        lambda * min(step / until, 1)^2 * regulariser of the queries plus the same of the passages
"""

import json
import random
import re
from pathlib import Path

import torch

QUERIES, GROUP, WIDTH = 3, 3, 6
LAMBDAS = {"queries": 0.05, "passages": 0.04}
UNTIL = 8

rng = random.Random(5)


def draw(rows, low, high, zeros):
    return [[0.0 if rng.random() < zeros else round(rng.uniform(low, high), 4) for _ in range(WIDTH)] for _ in range(rows)]


inputs = {
    "sparse": {"queries": draw(QUERIES, 0.05, 1.5, 0.4), "passages": draw(QUERIES * GROUP, 0.05, 1.5, 0.4)},
    "dense": {"queries": draw(QUERIES, -0.2, 0.2, 0.0), "passages": draw(QUERIES * GROUP, -0.2, 0.2, 0.0)},
}
teacher = [[round(rng.uniform(0, 4), 4) for _ in range(GROUP)] for _ in range(QUERIES)]
# Passages 4 and 6 are relevant to query 0, 8 to query 1.
masked = [[(query, passage) in [(0, 4), (0, 6), (1, 8)] for passage in range(QUERIES * GROUP)] for query in range(QUERIES)]


def cl(queries, passages, temperature, leave_out):
    scores = queries @ passages.T / temperature
    if leave_out:
        scores = scores.masked_fill(torch.tensor(masked), float("-inf"))
    return torch.nn.functional.cross_entropy(scores, torch.arange(QUERIES) * GROUP)


def own(queries, passages, temperature):
    return torch.einsum("qd,qgd->qg", queries, passages.view(QUERIES, GROUP, WIDTH)) / temperature


def margin_mse(queries, passages, temperature):
    scores, wanted = own(queries, passages, temperature), torch.tensor(teacher, dtype=torch.float64)
    return torch.nn.functional.mse_loss(scores[:, 0] - scores[:, 1], wanted[:, 0] - wanted[:, 1])


def kl(queries, passages, temperature):
    wanted = torch.tensor(teacher, dtype=torch.float64).softmax(1)
    scores = own(queries, passages, temperature).log_softmax(1)
    return torch.nn.functional.kl_div(scores, wanted, reduction="batchmean")


def flops(x):
    return x.abs().mean(0).square().sum()


def l1(x):
    return x.abs().sum(1).mean()


def ramp(regulariser, queries, passages, step):
    factor = min(step / UNTIL, 1.0) ** 2
    return factor * (LAMBDAS["queries"] * regulariser(queries) + LAMBDAS["passages"] * regulariser(passages))


cases = []


def case(kind, representations, compute, **settings):
    leaves = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in inputs[representations].items()}
    value = compute(leaves["queries"], leaves["passages"])
    value.backward()
    gradients = {k: (torch.zeros_like(v) if v.grad is None else v.grad).tolist() for k, v in leaves.items()}
    cases.append({"kind": kind, "representations": representations} | settings | {"value": value.item(), "gradients": gradients})


for representations, temperature in (("sparse", 1.0), ("dense", 0.01), ("dense", 0.05)):
    given = {"temperature": temperature}
    for leave_out in (False, True):
        settings = given | {"masked": leave_out}
        case("cl", representations, lambda q, p: cl(q, p, temperature, leave_out), **settings)
        case("cl_kl", representations, lambda q, p: (cl(q, p, temperature, leave_out) + kl(q, p, temperature)) / 2, **settings)
    case("margin_mse", representations, lambda q, p: margin_mse(q, p, temperature), **given)
    case("kl", representations, lambda q, p: kl(q, p, temperature), **given)
for name, regulariser in (("flops", flops), ("l1", l1)):
    for representations in ("sparse", "dense"):
        for step in (0, UNTIL // 2, UNTIL, 2 * UNTIL):
            case(name, representations, lambda q, p: ramp(regulariser, q, p, step), step=step)

everything = {
    "torch": torch.__version__.split("+")[0], "group": GROUP, "lambdas": LAMBDAS, "until": UNTIL,
    "teacher": teacher, "masked": masked, "representations": inputs, "cases": cases,
}
text = json.dumps(everything, indent=1)
# Lists of numbers on one line.
text = re.sub(r"\[[^][{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text)
Path(__file__).with_name("objectives.json").write_text(text + "\n")
for c in cases:
    print(c["kind"], c["representations"], {k: c[k] for k in ("temperature", "masked", "step") if k in c}, round(c["value"], 6))
