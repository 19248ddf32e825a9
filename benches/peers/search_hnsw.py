"""The graph of near vectors of genret beside usearch and hnswlib: one thread, the same vectors, queries and k.

    cargo build --release --bench search
    python benches/peers/search_hnsw.py target/release/deps/search-HASH [N [WIDTH]]

Random vectors around 1,000 centres (`benches/search.rs`), inner product, 32-bit numbers, 16 links and 200 candidates in
building; queries a second of processor time and the share of the exact ten that is found.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hnswlib
import numpy
import usearch
from usearch.index import Index

program, count, width = sys.argv[1], *(int(a) for a in (sys.argv[2:] + ["100000", "384"][len(sys.argv) - 2 :]))
EFFORTS = (10, 20, 50, 100, 200, 400)

with tempfile.TemporaryDirectory() as folder:
    print(subprocess.run([program, "dense", str(count), str(width), folder], check=True, capture_output=True, text=True).stdout)
    read = lambda name: numpy.fromfile(Path(folder) / name, dtype="<f4").reshape(-1, width)
    passages, queries = read("passages.f32"), read("queries.f32")

scores = queries @ passages.T
exact = numpy.argsort(-scores, axis=1, kind="stable")[:, :10]


def report(name, search):
    for effort in EFFORTS:
        times = []
        for _ in range(3):
            begun = time.process_time()
            found = search(effort)
            times.append(time.process_time() - begun)
        share = sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist())) / exact.size
        print(f"  {name}, effort {effort}: {len(queries) / min(times):.0f} queries/s, {share:.4f} found")


begun = time.process_time()
index = Index(ndim=width, metric="ip", dtype="f32", connectivity=16, expansion_add=200)
index.add(numpy.arange(count), passages, threads=1)
print(f"usearch {usearch.__version__}: built in {time.process_time() - begun:.1f} s CPU")


def with_usearch(effort):
    index.expansion_search = effort
    return index.search(queries, 10, threads=1).keys


report("usearch", with_usearch)

begun = time.process_time()
graph = hnswlib.Index(space="ip", dim=width)
graph.init_index(max_elements=count, ef_construction=200, M=16)
graph.add_items(passages, num_threads=1)
print(f"hnswlib: built in {time.process_time() - begun:.1f} s CPU")


def with_hnswlib(effort):
    graph.set_ef(max(effort, 10))
    return graph.knn_query(queries, k=10, num_threads=1)[0]


report("hnswlib", with_hnswlib)
