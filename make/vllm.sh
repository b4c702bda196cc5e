#!/usr/bin/env bash
# Runs the tests of kvtier.vllm against a real vLLM on CPUs. Its environment (2.6 GB) and three small models are kept in
# .kvtier; the first run installs them (about two minutes).
#   make/vllm.sh                  what make test runs
#   make/vllm.sh -m full          the full matrix
#   make/vllm.sh -k preempted     what pytest is to run
#   BEAT_LOG=file make/vllm.sh    keeps what pytest printed
#   KVTIER_PACKAGE=folder         takes the package kvtier from that folder as it is, instead of installing ./client/python
#   KVTIERD=file                  the daemon, instead of target/release/kvtierd
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=$PWD/.kvtier
venv=$folder/vllm-venv
models=$folder/models
wanted=client/python/tests/vllm/environment
log=${BEAT_LOG:-}
unset BEAT_LOG

# uv is quick, and compiles bytecode on the way.
uv() {
  [[ -x $folder/uv/bin/uv ]] || { python3 -m venv "$folder/uv" && "$folder/uv/bin/pip" install --quiet --disable-pip-version-check uv; }
  "$folder/uv/bin/uv" "$@"
}

# Without bytecode every start of an engine takes two minutes longer.
install_vllm() {
  uv venv --quiet --clear --python python3 "$venv"
  uv pip install --quiet --no-cache --compile-bytecode --python "$venv/bin/python" --no-deps \
    --requirement "$wanted/requirements.txt"
  "$venv/bin/python" "$wanted/stub_libraries.py" "$venv"
}

make_model() { # name in models.py, folder
  [[ -f $models/$2/tokenizer.json ]] && return
  mkdir -p "$models"
  rm -rf "$models/$2.part"
  "$venv/bin/python" "$wanted/models.py" "$1" "$models/$2.part" > "$models/$2.log" 2>&1 || { cat "$models/$2.log" >&2; return 1; }
  mv "$models/$2.part" "$models/$2"
}

# Anew when the interpreter or what is wanted changed.
stamp=$(python3 --version; cat "$wanted/requirements.txt" "$wanted/stub_libraries.py")
if [[ $(cat "$venv/stamp" 2> /dev/null) != "$stamp" ]]; then
  mkdir -p "$folder"
  export -f install_vllm uv
  export folder venv wanted
  make/beat.sh "vllm" bash -euo pipefail -c install_vllm
  echo "$stamp" > "$venv/stamp"
fi
make_model tiny tiny
make_model windows windows
make_model smollm smollm2-135m

if [[ -n ${KVTIER_PACKAGE:-} ]]; then
  PYTHONPATH=$(realpath "$KVTIER_PACKAGE")
  export PYTHONPATH
else
  # With maturin there and no isolation nothing is fetched, and cargo's output is kept in target/.
  PATH=$venv/bin:$PATH make/beat.sh "python package for vllm" "$folder/uv/bin/uv" pip install --quiet --no-cache \
    --python "$venv/bin/python" --no-build-isolation --no-deps --reinstall ./client/python
fi

[[ " $* " == *" -m "* ]] || set -- -m "not full" "$@"
# A folder of its own for everything temporary, gone at the end: pytest clears the shared one when others run tests, and
# engines that are killed leave theirs. In /tmp, because paths of sockets are short.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd client/python
export PYTHONDONTWRITEBYTECODE=1 KVTIER_MODELS=$models TMPDIR=$scratch
BEAT_LOG=$log ../../make/beat.sh "vllm test" "$venv/bin/python" -m pytest -q -p no:cacheprovider \
  --basetemp "$scratch/t" tests/vllm "$@"
