#!/usr/bin/env bash
# Builds, lints and runs every test of the workspace, and ends with one line that adds them up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Said before anything fails for want of it: the build and the tools are kept here, what tests need goes to /tmp.
df -h --output=avail,target . /tmp | awk 'NR > 1 { print "disk: " $1 " free on " $2 }'

make/beat.sh "build" cargo build --release --workspace --locked --all-targets
make/lint.sh

log=$(mktemp)
python_log=$(mktemp)
vllm_log=$(mktemp)
trap 'rm -f "$log" "$python_log" "$vllm_log"' EXIT
status=0
BEAT_LOG=$log make/beat.sh "test" cargo test --release --workspace --locked --no-fail-fast || status=$?
BEAT_LOG=$python_log make/python.sh || status=$?
BEAT_LOG=$vllm_log make/vllm.sh || status=$?

# "test result: ok. 12 passed; 0 failed; 0 ignored; …", one line a binary, and pytest's last, "1 failed, 96 passed in 3.39s".
awk '
  /^test result: / {
    for (i = 2; i <= NF; i++) {
      if ($i ~ /^passed/) passed += $(i - 1)
      if ($i ~ /^failed/) failed += $(i - 1)
      if ($i ~ /^ignored/) skipped += $(i - 1)
    }
    cargo = 1
  }
  /^(=+ )?[0-9]+ [a-z]+.* in [0-9.]+s/ {
    for (i = 2; i <= NF; i++) {
      if ($i ~ /^passed/) { passed += $(i - 1); python++ }
      if ($i ~ /^(failed|error)/) failed += $(i - 1)
      if ($i ~ /^skipped/) skipped += $(i - 1)
    }
  }
  END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped; exit !(cargo && python == 2) }
' "$log" "$python_log" "$vllm_log" || { echo "no test ran in cargo, in python or with vLLM" >&2; exit 1; }
exit "$status"
