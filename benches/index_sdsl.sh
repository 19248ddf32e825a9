#!/bin/sh
# Compares the n-gram index with the field's one (sdsl-lite csa_wt_int; Debian: libsdsl-dev, g++).
# Builds the peer in a temporary folder and runs both in the same rounds.
#   benches/index_sdsl.sh [--corpus humanqa|phrases] [--tokens N] [--beam W] [--rounds R]
set -eu
cd "$(dirname "$0")/.."
peer="${GENRET_SHARED:-../shared}/bench/sdsl/peer.cpp"
if [ ! -f "$peer" ]; then
    echo "skipped: $peer is absent"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
g++ -O3 -march=native -std=c++17 "$peer" -lsdsl -ldivsufsort -ldivsufsort64 -o "$folder/peer"
cargo bench --bench index -- --peer "$folder/peer" "$@"
