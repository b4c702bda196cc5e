#!/usr/bin/env bash
# Builds the bundle that verifies the HBM tier on a machine with a GPU, proves its harness on the simulated device and on the
# stand-in for NVIDIA's driver, and runs it here if there is a GPU. The bundle needs nothing but an NVIDIA driver: copy the folder there and start run.sh.
#   make/gpu-check.sh           the bundle is .kvtier/gpu-check
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bundle=.kvtier/gpu-check
bundle_bytes_max=$((64 << 20))

make/beat.sh "build" cargo build --release --workspace --locked --bins
make/kernels.sh --check

rm -rf "$bundle"
mkdir -p "$bundle"
for binary in kvtier-bench kvtierd; do
  cp "target/release/$binary" "$bundle/$binary"
  strip --strip-debug "$bundle/$binary"
done
# The Python package, for any CPython from 3.11 on: what the stand-in worker reaches kvtierd with.
maturin=.kvtier/venv/bin/maturin
[[ -x $maturin ]] || maturin=.kvtier/vllm-venv/bin/maturin
if [[ ! -x $maturin ]]; then
  python3 -m venv .kvtier/maturin
  .kvtier/maturin/bin/pip install --quiet --disable-pip-version-check 'maturin>=1.9,<2'
  maturin=.kvtier/maturin/bin/maturin
fi
make/beat.sh "python package" "$maturin" build --release --locked --manifest-path client/python/Cargo.toml --out "$bundle/wheel"
python3 -m zipfile -e "$bundle"/wheel/*.whl "$bundle/python"
rm -rf "$bundle/wheel" "$bundle"/python/*.dist-info
cp make/gpu-bundle/run.sh make/gpu-bundle/standin_worker.py "$bundle/"
bytes=$(du -sb "$bundle" | cut -f 1)
if ((bytes > bundle_bytes_max)); then
  echo "gpu-check: the bundle has $bytes bytes, more than $bundle_bytes_max" >&2
  exit 1
fi
echo "== $bundle: $bytes bytes"

echo "== the harness on the simulated device"
"$bundle/kvtier-bench" gpu --simulated --rounds 1 --out "$bundle/simulated"
echo "== the harness with a planted fault, which must fail"
status=0
"$bundle/kvtier-bench" gpu --simulated --plant-fault --out "$bundle/planted" > "$bundle/planted.log" 2>&1 || status=$?
if ((status != 1)) || ! grep -q '^FAILED' "$bundle/planted.log"; then
  cat "$bundle/planted.log" >&2
  echo "gpu-check: a run with a planted fault ended with $status and should have ended with 1" >&2
  exit 1
fi
echo "== as it should: $(grep ' checks, ' "$bundle/planted.log")"

# The calls of the driver, too, as far as its documentation goes: device memory is host memory and the kernels run on the CPU.
stand_in=$(mktemp -d)
trap 'rm -rf "$stand_in"' EXIT
make/driver-stand-in.sh "$stand_in/good"
make/driver-stand-in.sh "$stand_in/wrong" -DPLANT_WRONG_BYTE
echo "== the harness on the stand-in for the driver, which is NO HARDWARE"
LD_LIBRARY_PATH=$stand_in/good KVTIER_DRIVER_LEAKS=tell "$bundle/kvtier-bench" gpu --rounds 1 --out "$bundle/on-stand-in"
echo "== the same with kernels that are wrong by a bit, which must fail"
status=0
LD_LIBRARY_PATH=$stand_in/wrong "$bundle/kvtier-bench" gpu --checks-only --out "$bundle/wrong" > "$bundle/wrong.log" 2>&1 || status=$?
if ((status != 1)) || ! grep -q '^FAILED' "$bundle/wrong.log"; then
  cat "$bundle/wrong.log" >&2
  echo "gpu-check: a run with wrong kernels ended with $status and should have ended with 1" >&2
  exit 1
fi
echo "== as it should: $(grep ' checks, ' "$bundle/wrong.log")"

for python in .kvtier/vllm-venv/bin/python python3; do
  if "$python" -c 'import torch, transformers' 2> /dev/null; then
    echo "== the stand-in worker through kvtierd on the simulated device"
    PYTHONPATH=$bundle/python "$python" "$bundle/standin_worker.py" "$bundle/kvtierd" --daemon --simulated | tee "$bundle/standin-simulated.log"
    echo "== the same on the stand-in for the driver, which is NO HARDWARE"
    KVTIER_DRIVER_STAND_IN=$stand_in/good PYTHONPATH=$bundle/python "$python" "$bundle/standin_worker.py" "$bundle/kvtierd" --daemon --simulated
    break
  fi
done

status=0
"$bundle/run.sh" "$bundle/report" || status=$?
case $status in
  0) echo "== verified on this machine's GPU: $bundle/report/gpu.md" ;;
  4) echo "== no GPU was found here. The bundle is ready: copy $bundle to a machine with one and start run.sh there" ;;
  *) exit "$status" ;;
esac
