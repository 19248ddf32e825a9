"""SciPy as the peer of `genret fit`: the same objective, L-BFGS-B with the analytic gradient.

    pip install scipy
    python benches/scaling_scipy.py POINTS.csv [--starts 40] [--bootstraps 40]

POINTS.csv has the columns `Model Size`, `Training FLOP` and `loss` (data/svg_extracted_data.csv of
github.com/epoch-research/analyzing-chinchilla); the five rows of highest loss are left out, as Besiroglu
et al. 2024 do. A sample of the 4,500 starts of Hoffmann et al. 2022 and of the bootstraps is timed on one
thread and scaled up, since the whole takes minutes.
"""

import argparse
import csv
import itertools
import os
import random
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import scipy
from scipy.optimize import minimize

DELTA = 1e-3


def objective(theta, ln_n, ln_d, ln_y):
    """Sum of Huber losses and its gradient; theta = (ln A, a, ln B, b, ln E)."""
    terms = np.stack([theta[0] - theta[1] * ln_n, theta[2] - theta[3] * ln_d, np.full_like(ln_n, theta[4])])
    top = terms.max(axis=0)
    parts = np.exp(terms - top)
    total = parts.sum(axis=0)
    residual = top + np.log(total) - ln_y
    size = np.abs(residual)
    value = np.where(size <= DELTA, 0.5 * residual**2, DELTA * (size - 0.5 * DELTA)).sum()
    slope = np.clip(residual, -DELTA, DELTA)
    share = slope * parts / total
    gradient = [share[0].sum(), -(share[0] * ln_n).sum(), share[1].sum(), -(share[1] * ln_d).sum(), share[2].sum()]
    return value, np.array(gradient)


def search(start, points):
    options = {"maxiter": 5000, "maxfun": 10000, "ftol": 1e-15, "gtol": 1e-10}
    return minimize(objective, start, args=points, jac=True, method="L-BFGS-B", options=options)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("points")
    parser.add_argument("--starts", type=int, default=40)
    parser.add_argument("--bootstraps", type=int, default=40)
    args = parser.parse_args()
    with open(args.points) as file:
        rows = [(float(r["Model Size"]), float(r["Training FLOP"]), float(r["loss"])) for r in csv.DictReader(file)]
    rows = sorted(rows, key=lambda r: r[2])[:-5]
    size, flops, loss = np.array(rows).T
    points = (np.log(size), np.log(flops / (6.0 * size)), np.log(loss))

    exponents, floors, scales = [0.0, 0.5, 1.0, 1.5, 2.0], [-1.0, -0.5, 0.0, 0.5, 1.0], range(0, 30, 5)
    grid = [(A, a, B, b, E) for a, b, E, A, B in itertools.product(exponents, exponents, floors, scales, scales)]
    sample = random.Random(0).sample(grid, args.starts)
    started = time.perf_counter()
    found = [search(np.array(start, dtype=float), points) for start in sample]
    per_start = (time.perf_counter() - started) / len(sample)
    best = min(found, key=lambda r: r.fun)
    print(f"scipy {scipy.__version__}, {len(rows)} points, {len(sample)} of {len(grid)} starts")
    print(f"best objective {best.fun:.12f}, gradient norm {np.linalg.norm(best.jac):.1e}")
    print(f"A {np.exp(best.x[0]):.2f}  a {best.x[1]:.5f}  B {np.exp(best.x[2]):.1f}  b {best.x[3]:.5f}  E {np.exp(best.x[4]):.5f}")
    share = sum(r.fun <= best.fun * (1 + 1e-6) for r in found) / len(found)
    near = sum(r.fun <= best.fun * 1.01 for r in found) / len(found)
    print(f"share of starts within 1e-6 of the best: {share:.2f}, within 1 %: {near:.2f}")

    rng = np.random.default_rng(0)
    started = time.perf_counter()
    for _ in range(args.bootstraps):
        draw = rng.integers(0, len(rows), len(rows))
        search(best.x, tuple(p[draw] for p in points))
    per_bootstrap = (time.perf_counter() - started) / args.bootstraps
    total = 4500 * per_start + 4000 * per_bootstrap
    print(f"{1e3 * per_start:.1f} ms a start, {1e3 * per_bootstrap:.1f} ms a bootstrap, one thread")
    print(f"4,500 starts + 4,000 bootstraps: {total:.0f} s")


if __name__ == "__main__":
    main()
