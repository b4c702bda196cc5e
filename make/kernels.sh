#!/usr/bin/env bash
# Compiles the kernels of the HBM tier with NVRTC, which needs no GPU and is kept in .kvtier/nvrtc (23 MB, fetched once).
#   make/kernels.sh            writes tiers/hbm/kernels/kernels.ptx, which is committed
#   make/kernels.sh --check    fails when the kernels do not compile, when the committed PTX is another, or when NVIDIA's
#                              assembler (40 MB, fetched once) makes no machine code of it that keeps everything in registers
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# An old one: drivers read the PTX of compilers no newer than themselves. This one's is read by drivers from 530 on.
wanted="nvidia-cuda-nvrtc-cu12==12.1.105"
# A newer one, as a driver brings its own: it knows the chips that came later.
wanted_assembler="nvidia-cuda-nvcc-cu12==12.8.93"
# Ampere, Hopper, Blackwell.
chips="sm_80 sm_90 sm_100 sm_120"
folder=.kvtier/nvrtc
kernels=tiers/hbm/kernels
library=$folder/nvidia/cuda_nvrtc/lib/libnvrtc.so.12
assembler=$folder/ptxas

if [[ $(cat "$folder/stamp" 2> /dev/null) != "$wanted $wanted_assembler" || ! -e $library || ! -e $assembler ]]; then
  # Beside its place first, so that two at a time cannot spoil each other's.
  mkdir -p .kvtier
  part=$(mktemp -d .kvtier/nvrtc.XXXXXX)
  trap 'rm -rf "$part"' EXIT
  python3 -m venv "$part/venv"
  pip="$part/venv/bin/pip --quiet --disable-pip-version-check"
  $pip install --no-deps --target "$part/nvrtc" "$wanted"
  $pip download --no-deps --dest "$part/wheel" "$wanted_assembler"
  python3 -m zipfile -e "$part"/wheel/*.whl "$part/nvcc"
  install -m 755 "$part/nvcc/nvidia/cuda_nvcc/bin/ptxas" "$part/nvrtc/ptxas"
  echo "$wanted $wanted_assembler" > "$part/nvrtc/stamp"
  rm -rf "$folder"
  mv "$part/nvrtc" "$folder"
fi

made=$(mktemp)
trap 'rm -rf "$made" "${part:-}"' EXIT
# The compiler opens its second library by name.
LD_LIBRARY_PATH=$PWD/$(dirname "$library") python3 "$kernels/compile.py" "$library" "$kernels/kernels.cu" > "$made"
if [[ ${1:-} != --check ]]; then
  cp "$made" "$kernels/kernels.ptx"
  echo "$kernels/kernels.ptx written"
  exit
fi
cmp "$made" "$kernels/kernels.ptx" || { echo "kernels.ptx is not what kernels.cu compiles to; run make/kernels.sh" >&2; exit 1; }
echo "kernels.cu compiles to the committed kernels.ptx"
for chip in $chips; do
  "$assembler" --gpu-name "$chip" --warn-on-spills --warn-on-local-memory-usage --warning-as-error \
    --output-file /dev/null "$kernels/kernels.ptx" || { echo "kernels.ptx is not good for $chip" >&2; exit 1; }
  echo "kernels.ptx is machine code for $chip, without spilling registers"
done
