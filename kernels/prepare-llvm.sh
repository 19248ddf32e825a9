#!/usr/bin/env bash
# Puts LLVM 22 where the build of `--features cuda` looks for it. Run once; builds after that need no network.
#
# CubeCL links LLVM statically. Its build script (tracel-llvm-bundler) downloads a build of LLVM unless it finds
# one in $XDG_DATA_HOME/tracel/tracel-llvm-<version>/: an empty file `.tracel-llvm-installed` and a program
# `bin/llvm-config`. This script lets Debian's LLVM take that place.
#
#   kernels/prepare-llvm.sh             use an installed llvm-config-22, or install it by apt (as root)
#   LLVM_CONFIG=/path/llvm-config-22 kernels/prepare-llvm.sh
set -euo pipefail
cd "$(dirname "$0")/.."

llvm_config=${LLVM_CONFIG:-llvm-config-22}
system_libraries="-lrt -ldl -lm -lz -lzstd -lxml2 -lz3"
ready() {
  command -v "$llvm_config" > /dev/null && [ -e "$("$llvm_config" --libdir)/libPolly.a" ] &&
    echo 'int main(void) { return 0; }' | c++ -xc++ - $system_libraries -o /dev/null 2> /dev/null
}
if ! ready; then
  packages="g++ llvm-22-dev libpolly-22-dev zlib1g-dev libzstd-dev libxml2-dev libz3-dev"
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "prepare-llvm: $llvm_config, its libPolly.a, a C++ compiler or one of $system_libraries is missing." >&2
    echo "  Debian 12 (bookworm-security) and later: apt-get install $packages" >&2
    exit 2
  fi
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends $packages
fi

# The version that Cargo.lock names, as the bundler writes it: 23.1.0-4 from 23.1.0-4.
version=$(sed -n '/^name = "tracel-llvm-bundler"$/{n;s/^version = "\(.*\)"$/\1/p}' Cargo.lock)
if [ -z "$version" ]; then
  echo "prepare-llvm: Cargo.lock names no tracel-llvm-bundler; does this version of CubeCL still need LLVM?" >&2
  exit 2
fi
folder=${XDG_DATA_HOME:-$HOME/.local/share}/tracel/tracel-llvm-$version
mkdir -p "$folder/bin"
# The bundler reads names of libraries; Debian answers with the path of one of them.
cat > "$folder/bin/llvm-config" <<WRAPPER
#!/bin/sh
case "\$*" in
  *--system-libs*) echo "$system_libraries" ;;
  *) exec "$(command -v "$llvm_config")" "\$@" ;;
esac
WRAPPER
chmod +x "$folder/bin/llvm-config"
touch "$folder/.tracel-llvm-installed"
echo "LLVM $("$llvm_config" --version) stands in for $folder"
