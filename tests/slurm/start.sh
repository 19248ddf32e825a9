#!/usr/bin/env bash
# Starts a Slurm cluster of one node on this machine, for tests: Debian's slurmctld, slurmd, slurm-client and munge,
# as root, without systemd. Does nothing if one runs already; ends with an error if Slurm cannot be had.
#
#   tests/slurm/start.sh [--install]     --install: with apt-get if the programs are absent
#   tests/slurm/start.sh --stop
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
state=/var/lib/genret-slurm

if [ "${1:-}" = --stop ]; then
  for name in slurmd slurmctld; do
    if [ -f "$state/$name.pid" ]; then kill "$(cat "$state/$name.pid")" 2>/dev/null || true; fi
  done
  exit 0
fi
if command -v sinfo >/dev/null && timeout 5 sinfo -h -o %t 2>/dev/null | grep -qE 'idle|mix|alloc'; then
  echo "a Slurm cluster runs already"
  exit 0
fi
if [ "$(id -u)" != 0 ]; then echo "starting Slurm needs root" >&2; exit 1; fi
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
  if [ "${1:-}" != --install ] || ! command -v apt-get >/dev/null; then
    echo "slurmctld, slurmd or munged is absent: apt-get install slurmctld slurmd slurm-client munge" >&2
    exit 1
  fi
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurmctld slurmd slurm-client munge >/dev/null
fi

install -d -o munge -g munge /run/munge /var/log/munge
if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
  su -s /bin/sh munge -c munged
fi
for _ in $(seq 50); do
  if munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then break; fi
  sleep 0.1
done

install -d /etc/slurm "$state/controller" "$state/node"
sed -e "s|HOST|$(hostname -s)|g" -e "s|STATE|$state|g" -e "s|CPUS|$(nproc)|" \
  -e "s|MEMORY|$(awk '/MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo)|" \
  "$here/slurm.conf" > /etc/slurm/slurm.conf
slurmctld
slurmd
for _ in $(seq 100); do
  if sinfo -h -o %t 2>/dev/null | grep -q idle; then
    echo "a Slurm cluster of one node runs; its state is in $state"
    exit 0
  fi
  sleep 0.2
done
echo "Slurm did not come up: see $state/*.log" >&2
exit 1
