#!/bin/sh
# Compares the n-gram index with the field's one (sdsl-lite csa_wt_int; Debian: libsdsl-dev, g++).
# Builds the peer twice, with warm and with cold caches, and runs all in the same rounds.
#   benches/index_sdsl.sh [flags of benches/index/main.rs]
set -eu
cd "$(dirname "$0")/.."
peer="${GENRET_SHARED:-../shared}/bench/sdsl/peer.cpp"
if [ ! -f "$peer" ]; then
    echo "skipped: $peer is absent"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
compile() { g++ -O3 -march=native -std=c++17 "$@" "$peer" -lsdsl -ldivsufsort -ldivsufsort64; }
compile -o "$folder/peer"
compile -include benches/index/cold_clock.h -o "$folder/peer-cold"
cargo bench --bench index -- --peer "$folder" "$@"
