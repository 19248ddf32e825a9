"""A step of constrained decoding over identifiers: genret's tree beside a dictionary of dictionaries.

    cargo bench --bench trie --no-run          prints where PROGRAM is
    python benches/peers/trie_python.py PROGRAM [N [LEVELS [CODES]]]

The dictionary tree and its look-up are what `prefix_allowed_tokens_fn` of transformers' `generate` is given by GENRE and RIPOR: nested
dicts, walked from the root for every prefix, a list of keys returned. Both programs hold the same identifiers and answer for 100
prefixes of the same depth, in turn; CPU time. "In generate" is the step as generation does it, a mask over the vocabulary included: transformers'
PrefixConstrainedLogitsProcessor on one thread, and genret's rows of bits. pygtrie, where it is installed, shows what its tree takes of memory.
"""

import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from transformers import PrefixConstrainedLogitsProcessor

ROUNDS = 5
SETS = 20


def insert(root, tokens):
    node = root
    for token in tokens:
        node = node.setdefault(token, {})


def get(root, prefix):
    node = root
    for token in prefix:
        node = node.get(token)
        if node is None:
            return []
    return list(node.keys())


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main():
    torch.set_num_threads(1)
    program = sys.argv[1]
    n, levels, codes = (int(a) for a in (sys.argv[2:] + ["1000000", "32", "256"][len(sys.argv) - 2 :]))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/codes"
        peer = subprocess.Popen(
            [program, "serve", path, str(n), str(levels), str(codes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        print(f"{n} identifiers of {levels} codes below {codes}")
        print(f"genret builds in {float(peer.stdout.readline()):.1f} s")
        data = open(path, "rb").read()

        def identifier(i):
            return [level * codes + code for level, code in enumerate(data[i * levels : (i + 1) * levels])]

        before, begun = resident(), time.process_time()
        trie = {}
        for i in range(n):
            insert(trie, identifier(i))
        print(f"dictionaries build in {time.process_time() - begun:.1f} s, {(resident() - before) / n:.0f} bytes per identifier")
        some = random.Random(1)
        scores = torch.zeros(100, levels * codes)
        processor = PrefixConstrainedLogitsProcessor(lambda _, prefix: get(trie, prefix.tolist()), 100)
        for depth in sorted({0, 1, 2, 3, 4, levels // 2, levels - 1}):
            ours, theirs, ours_masked, theirs_masked = [], [], [], []
            for _ in range(ROUNDS):
                sets = [[identifier(some.randrange(n))[:depth] for _ in range(100)] for _ in range(SETS)]
                begun = time.process_time()
                for prefixes in sets:
                    for prefix in prefixes:
                        get(trie, prefix)
                theirs.append((time.process_time() - begun) / SETS * 1e6)
                if depth > 0:  # The processor refuses prefixes of nothing.
                    ids = [torch.tensor(prefixes) for prefixes in sets[:5]]
                    begun = time.process_time()
                    for prefixes in ids:
                        processor(prefixes, scores)
                    theirs_masked.append((time.process_time() - begun) / len(ids) * 1e6)
                peer.stdin.write(f"{depth}\n")
                peer.stdin.flush()
                bare, masked = map(float, peer.stdout.readline().split())
                ours.append(bare)
                ours_masked.append(masked)
            a, b = statistics.median(ours), statistics.median(theirs)
            line = f"depth {depth:>3}: {a:>6.2f} us, dictionaries {b:>6.1f} us, {b / a:>4.0f} x"
            if theirs_masked:
                a, b = statistics.median(ours_masked), statistics.median(theirs_masked)
                line += f"; in generate {a:>6.1f} and {b:>7.0f} us, {b / a:>4.0f} x"
            print(line)
        del trie
        try:
            import pygtrie
        except ImportError:
            return
        few = min(n, 100_000)
        before = resident()
        tree = pygtrie.Trie()
        for i in range(few):
            tree[tuple(identifier(i))] = True
        print(f"pygtrie: {(resident() - before) / few:.0f} bytes per identifier (of {few})")


main()
