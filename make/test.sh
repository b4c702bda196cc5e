#!/usr/bin/env bash
# Builds, lints and runs every test of the workspace, and ends with one line that adds them up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

make/beat.sh "build" cargo build --release --workspace --locked --all-targets
make/lint.sh

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
BEAT_LOG=$log make/beat.sh "test" cargo test --release --workspace --locked --no-fail-fast || status=$?

# "test result: ok. 12 passed; 0 failed; 0 ignored; …", one line a binary.
awk '
  /^test result: / {
    for (i = 2; i <= NF; i++) {
      if ($i ~ /^passed/) passed += $(i - 1)
      if ($i ~ /^failed/) failed += $(i - 1)
      if ($i ~ /^ignored/) skipped += $(i - 1)
    }
  }
  END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped; exit passed == 0 }
' "$log" || { echo "no test ran" >&2; exit 1; }
exit "$status"
