"""BM25 of genret beside bm25s, in turn: one thread, the same collection, queries and k.

    cargo build --release --bench search
    python benches/peers/bm25s.py target/release/deps/search-HASH FOLDER [--split test] [--rounds 3] [--k 10,100,1000]

Processor microseconds a query, of queries that are words already (bm25s.tokenize, PyStemmer); bm25s with its backends
numpy and numba (compiled before). k1 0.9, b 0.4, Snowball English, stop words `en`, as genret's defaults.
"""

import argparse
import glob
import gzip
import json
import statistics
import subprocess
import time

import bm25s
import Stemmer

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("folder")
parser.add_argument("--split", default="test")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--k", default="10,100,1000")
args = parser.parse_args()


def lines(name):
    path = glob.glob(f"{args.folder}/{name}*")[0]
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        yield from file


passages = [json.loads(line) for line in lines("corpus.jsonl")]
texts = {row["_id"]: row["text"] for row in map(json.loads, lines("queries.jsonl"))}
judged = dict.fromkeys(line.split("\t")[0] for line in list(lines(f"qrels/{args.split}.tsv"))[1:])
stemmer = Stemmer.Stemmer("english")
settings = dict(stopwords="en", stemmer=stemmer, show_progress=False)
corpus = bm25s.tokenize([f"{p.get('title', '')} {p['text']}" for p in passages], **settings)
queries = bm25s.tokenize([texts[query] for query in judged], **settings)
models = {}
for backend in ("numpy", "numba"):
    models[backend] = bm25s.BM25(k1=0.9, b=0.4, method="lucene", backend=backend)
    models[backend].index(corpus, show_progress=False)
    models[backend].retrieve(queries, k=10, show_progress=False, n_threads=1 if backend == "numba" else 0)
print(f"bm25s {bm25s.__version__}, {len(passages)} passages, {len(judged)} queries")
for k in map(int, args.k.split(",")):
    times = {"genret": [], "numpy": [], "numba": []}
    for _ in range(args.rounds):
        for backend, model in models.items():
            begun = time.process_time()
            model.retrieve(queries, k=k, show_progress=False, n_threads=1 if backend == "numba" else 0)
            times[backend].append((time.process_time() - begun) * 1e6 / len(judged))
        output = subprocess.run([args.program, "bm25", args.folder, args.split, str(k)], check=True, capture_output=True, text=True)
        times["genret"].append(float(output.stdout.split()[0]))
    median = {name: statistics.median(values) for name, values in times.items()}
    ratios = ", ".join(f"{median[name] / median['genret']:.1f}x of {name}" for name in ("numpy", "numba"))
    print(f"k {k}: " + ", ".join(f"{name} {value:.1f} us" for name, value in median.items()) + f"; queries/s {ratios}")
