#!/usr/bin/env bash
# Runs a command and, whenever it has been silent for 30 s, prints a line that says how long it has been at it and what
# it said last. The exit status is the command's.
#   make/beat.sh NAME COMMAND…
#   BEAT_LOG=file keeps what the command printed.
set -euo pipefail

name=$1
shift
log=${BEAT_LOG:-}
kept=$log
[[ -n $log ]] || log=$(mktemp)
: > "$log"
started=$SECONDS

# What this process group is at right now: crates being compiled, C++ files, test binaries.
doing() {
  local stat group own words
  own=$(awk '{ print $5 }' "/proc/$$/stat")
  for stat in /proc/[0-9]*/stat; do
    group=$(sed 's/.*) //' "$stat" 2> /dev/null | cut -d ' ' -f 3) || continue
    [[ $group == "$own" ]] || continue
    words=$(tr '\0' ' ' < "${stat%stat}cmdline" 2> /dev/null) || continue
    case $words in
      *rustc\ *--crate-name*) sed 's/.*--crate-name \([^ ]*\).*/\1/' <<< "$words" ;;
      *cc1plus*) grep -o '[^/ ]*\.cc' <<< "$words" | head -n 1 ;;
      */deps/*) basename "${words%% *}" | sed 's/-[0-9a-f]*$//' ;;
    esac
  done | sort -u | head -n 6 | paste -s -d ' '
}

beat() {
  local size=-1 now
  while sleep "${BEAT_SECONDS:-30}"; do
    now=$(stat -c %s "$log")
    if [[ $now == "$size" ]]; then
      printf '… %s: %d min %02d s; at %s; last: %s\n' "$name" $(((SECONDS - started) / 60)) \
        $(((SECONDS - started) % 60)) "$(doing | grep . || echo nothing of its own)" "$(tail -n 1 "$log" | tr -d '\r' | cut -c 1-80)"
    fi
    size=$now
  done
}
beat &
beating=$!
stop() {
  kill "$beating" 2> /dev/null || true
  wait "$beating" 2> /dev/null || true
  [[ -n $kept ]] || rm -f "$log"
}
trap stop EXIT

echo "== $name: $*"
status=0
"$@" 2>&1 | tee "$log" || status=${PIPESTATUS[0]}
printf '== %s: %s after %d min %02d s\n' "$name" "$( ((status == 0)) && echo done || echo "FAILED ($status)")" \
  $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60))
exit "$status"
