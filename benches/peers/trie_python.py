"""A step of constrained decoding over identifiers: genret's tree beside a dictionary of dictionaries.

    cargo bench --bench trie --no-run          prints where PROGRAM is
    python benches/peers/trie_python.py PROGRAM [N [LEVELS [CODES]]]

The dictionary tree and its look-up are what `prefix_allowed_tokens_fn` of transformers' `generate` is given by GENRE and RIPOR: nested
dicts, walked from the root for every prefix, a list of keys returned. Both programs hold the same identifiers and answer for 100
prefixes of the same depth, in turn; CPU time. pygtrie, where it is installed, shows what its tree takes of memory.
"""

import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

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
        for depth in sorted({0, 1, 2, 3, 4, levels // 2, levels - 1}):
            ours, theirs = [], []
            for _ in range(ROUNDS):
                sets = [[identifier(some.randrange(n))[:depth] for _ in range(100)] for _ in range(SETS)]
                begun = time.process_time()
                for prefixes in sets:
                    for prefix in prefixes:
                        get(trie, prefix)
                theirs.append((time.process_time() - begun) / SETS * 1e6)
                peer.stdin.write(f"{depth}\n")
                peer.stdin.flush()
                ours.append(float(peer.stdout.readline()))
            a, b = statistics.median(ours), statistics.median(theirs)
            print(f"depth {depth:>3}: {a:>9.2f} us, dictionaries {b:>9.1f} us, {b / a:>6.0f} x")
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
