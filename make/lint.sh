#!/usr/bin/env bash
# Formatting and clippy. Warnings are errors under the toolchain the lints were settled with; under another one, whose
# clippy knows other lints, they are only shown. What the toolchain lacks is skipped and said.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

settled_with="1.95"

if cargo fmt --version > /dev/null 2>&1; then
  cargo fmt --all --check || { echo "lint: run cargo fmt --all" >&2; exit 1; }
else
  echo "lint: formatting not checked: no cargo fmt here (rustup component add rustfmt)"
fi
if ! cargo clippy --version > /dev/null 2>&1; then
  echo "lint: clippy skipped: no cargo clippy here (rustup component add clippy)"
  exit 0
fi
strict=()
case $(rustc --version) in
  "rustc $settled_with."*) strict=(-- -D warnings) ;;
  *) echo "lint: clippy's warnings do not fail this run: $(rustc --version), lints are settled with $settled_with" ;;
esac
make/beat.sh "clippy" cargo clippy --release --workspace --locked --all-targets "${strict[@]}"
