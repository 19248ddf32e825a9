#!/usr/bin/env python3
"""Corpus B of benches/index.rs: passages of Debian's documentation packages, as a BEIR folder.

    benches/debian_docs.py FOLDER [--max-words N]

Downloads the packages (apt-get download; those that are not available are left out), takes the text
out of their HTML, text, manual and dictionary files, drops paragraphs seen before, cuts what is left
into passages of at most 100 words and keeps those of which at least 22 % are English function words.
Writes FOLDER/corpus.jsonl; FOLDER/packages keeps the packages. About five minutes and 3 GB.
"""

import gzip
import hashlib
import html
import json
import pathlib
import re
import subprocess
import sys
import tempfile

PACKAGES = """
    linux-doc-6.1 linux-doc-6.12 rust-doc openjdk-17-doc python-pandas-doc dict-gcide wordnet-base
    ghc-doc erlang-doc perl-doc racket-doc python-scipy-doc python-sympy-doc python-statsmodels-doc
    python-sklearn-doc qtbase5-doc-html libboost1.81-doc sqlite3-doc maxima-doc octave-doc neutron-doc
    nova-doc cinder-doc debian-handbook python3.11-doc postgresql-doc-15 llvm-14-doc wx3.2-doc
    lilypond-doc-html nodejs-doc python-django-doc git-doc bash-doc apache2-doc groff manpages
    manpages-dev zsh-doc vim-doc tcl8.6-doc libgtk-4-doc libglib2.0-doc dict-jargon dict-foldoc
    bible-kjv-text debian-policy developers-reference debian-reference-en cmake-doc scilab-doc
    gnuplot-doc sbcl-doc gimp-help-en
""".split()
FUNCTION_WORDS = frozenset(
    """a about after all also an and any are as at be been but by can could do does each for from had
    has have he her him his how i if in into is it its may more most must no not of on one only or
    other our out over same set she should so some such than that the their them then there these
    they this those to two under up use used using was we were what when where which while who will
    with would you your""".split()
)
PASSAGE_WORDS = 100
LEAST_SHARE = 0.22

NO_TEXT = re.compile(r"(?is)<(script|style|head|nav|svg)\b.*?</\1\s*>|<!--.*?-->")
TITLE = re.compile(r"(?is)<title[^>]*>(.*?)</title>")
BREAK = re.compile(r"(?i)</?(p|div|h[1-6]|li|ul|ol|dl|dt|dd|tr|table|pre|br|section|article|td|th)\b[^>]*>")
TAG = re.compile(r"(?s)<[^>]*>")
PARAGRAPH = re.compile(r"\n\s*\n")
ROFF_LINE = re.compile(r"(?m)^[.'].*$")
ROFF_ESCAPE = re.compile(r"\\f.|\\[&|^]|\\\(..|\\-")


def text_of(path):
    """Title and paragraphs of a file; none if it holds no text that is understood."""
    name = path.name
    data = path.read_bytes()
    if name.endswith((".gz", ".dz")):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError):
            return "", []
        name = name.rsplit(".", 1)[0]
    if b"\0" in data[:4096]:
        return "", []
    text = data.decode("utf-8", errors="ignore")
    title = path.stem
    if name.endswith((".html", ".htm", ".xhtml")):
        found = TITLE.search(text)
        if found:
            title = html.unescape(TAG.sub("", found.group(1)))
        text = NO_TEXT.sub(" ", text)
        text = TAG.sub(" ", BREAK.sub("\n\n", text))
        text = html.unescape(text)
    elif re.search(r"\.[1-9][a-z]*$", name):
        text = ROFF_ESCAPE.sub("-", ROFF_LINE.sub("\n", text))
    elif re.match(r"data\.(noun|verb|adj|adv)$", name):
        text = "\n\n".join(line.partition(" | ")[2] for line in text.splitlines())
    elif not name.endswith((".txt", ".rst", ".dict", ".md", ".text", ".kjv")):
        return "", []
    return " ".join(title.split()), PARAGRAPH.split(text)


def passages(folder, seen):
    """Passages of all files of a package: title, words."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        title, paragraphs = text_of(path)
        words = []
        for paragraph in paragraphs:
            paragraph = paragraph.split()
            if len(paragraph) < 5:
                continue
            key = hashlib.blake2b(" ".join(paragraph).encode(), digest_size=8).digest()
            if key in seen:
                continue
            seen.add(key)
            words += paragraph
        for start in range(0, len(words), PASSAGE_WORDS):
            passage = words[start : start + PASSAGE_WORDS]
            known = sum(word.lower() in FUNCTION_WORDS for word in passage)
            if len(passage) >= 10 and known >= LEAST_SHARE * len(passage):
                yield title, passage


def main():
    target = pathlib.Path(sys.argv[1])
    most = int(sys.argv[sys.argv.index("--max-words") + 1]) if "--max-words" in sys.argv else 1 << 62
    packages = target / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    seen, count, total = set(), 0, 0
    with open(target / "corpus.jsonl", "w", encoding="utf-8") as out:
        for package in PACKAGES:
            if total >= most:
                break
            if not list(packages.glob(f"{package}_*.deb")):
                subprocess.run(["apt-get", "-qq", "download", package], cwd=packages, check=False)
            for deb in packages.glob(f"{package}_*.deb"):
                with tempfile.TemporaryDirectory() as folder:
                    subprocess.run(["dpkg-deb", "-x", deb, folder], check=True)
                    words = 0
                    for title, passage in passages(pathlib.Path(folder), seen):
                        row = {"_id": f"{package}-{count}", "title": title, "text": " ".join(passage)}
                        out.write(json.dumps(row, ensure_ascii=False) + "\n")
                        count, words = count + 1, words + len(passage)
                total += words
                print(f"{package}: {words} words, {total} in {count} passages", file=sys.stderr)


if __name__ == "__main__":
    main()
