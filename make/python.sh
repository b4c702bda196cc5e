#!/usr/bin/env bash
# Installs the Python package as a user would (pip install ./client/python) into a virtual environment of its own, and runs
# its tests against target/release/kvtierd (those with vLLM are make/vllm.sh's). The environment and what it needs are
# kept in .kvtier/venv.
#   make/python.sh              everything
#   make/python.sh -k views     what pytest is to run
#   BEAT_LOG=file make/python.sh    keeps what pytest printed
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=$PWD/.kvtier/venv
wanted=client/python/requirements-test.txt
log=${BEAT_LOG:-}
unset BEAT_LOG

# Anew when the interpreter or the tools changed.
stamp="$(python3 -c 'import sys; print(sys.version, sys.executable)') $(cat "$wanted")"
if [[ $(cat "$venv/stamp" 2> /dev/null) != "$stamp" ]]; then
  rm -rf "$venv"
  mkdir -p "$(dirname "$venv")"
  python3 -m venv "$venv"
  make/beat.sh "python tools" "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"
  echo "$stamp" > "$venv/stamp"
fi

# maturin is there already: without isolation nothing is fetched, and cargo's output is kept in target/.
PATH=$venv/bin:$PATH make/beat.sh "python package" "$venv/bin/pip" install --quiet --disable-pip-version-check --no-build-isolation \
  --no-deps --force-reinstall ./client/python

# A folder of its own for everything temporary, gone at the end. In /tmp, because paths of sockets are short.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd client/python
export PYTHONDONTWRITEBYTECODE=1 TMPDIR=$scratch
BEAT_LOG=$log ../../make/beat.sh "python test" "$venv/bin/python" -m pytest -q -p no:cacheprovider \
  --basetemp "$scratch/t" --ignore tests/vllm "$@"
