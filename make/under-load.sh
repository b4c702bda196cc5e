#!/usr/bin/env bash
# Runs a command while others want every core twice over and keep the disk syncing: what holds only on a quiet machine
# fails here.
#   make/under-load.sh cargo test --release --workspace --locked --no-fail-fast
#   make/under-load.sh make/python.sh
set -euo pipefail

folder=$(mktemp -d)
load=()
stop() {
  kill "${load[@]}" 2> /dev/null || true
  wait "${load[@]}" 2> /dev/null || true
  rm -rf "$folder"
}
trap stop EXIT

for _ in $(seq $((2 * $(nproc)))); do
  while :; do :; done &
  load+=($!)
done
while :; do dd if=/dev/zero of="$folder/written" bs=1M count=64 conv=fsync status=none; done &
load+=($!)

"$@"
