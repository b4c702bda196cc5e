#!/usr/bin/env bash
# Compiles the kernels of the HBM tier with NVRTC, which needs no GPU and is kept in .kvtier/nvrtc (23 MB, fetched once).
#   make/kernels.sh            writes tiers/hbm/kernels/kernels.ptx, which is committed
#   make/kernels.sh --check    fails when the kernels do not compile, or when the committed PTX is another
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# An old one: drivers read the PTX of compilers no newer than themselves. This one's is read by drivers from 530 on.
wanted="nvidia-cuda-nvrtc-cu12==12.1.105"
folder=.kvtier/nvrtc
kernels=tiers/hbm/kernels
library=$folder/nvidia/cuda_nvrtc/lib/libnvrtc.so.12

if [[ $(cat "$folder/stamp" 2> /dev/null) != "$wanted" || ! -e $library ]]; then
  # Beside its place first, so that two at a time cannot spoil each other's.
  mkdir -p .kvtier
  part=$(mktemp -d .kvtier/nvrtc.XXXXXX)
  trap 'rm -rf "$part"' EXIT
  python3 -m venv "$part/venv"
  "$part/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --target "$part/nvrtc" "$wanted"
  echo "$wanted" > "$part/nvrtc/stamp"
  rm -rf "$folder"
  mv "$part/nvrtc" "$folder"
fi

made=$(mktemp)
trap 'rm -rf "$made" "${part:-}"' EXIT
# The compiler opens its second library by name.
LD_LIBRARY_PATH=$PWD/$(dirname "$library") python3 "$kernels/compile.py" "$library" "$kernels/kernels.cu" > "$made"
if [[ ${1:-} == --check ]]; then
  cmp "$made" "$kernels/kernels.ptx" || { echo "kernels.ptx is not what kernels.cu compiles to; run make/kernels.sh" >&2; exit 1; }
  echo "kernels.cu compiles to the committed kernels.ptx"
else
  cp "$made" "$kernels/kernels.ptx"
  echo "$kernels/kernels.ptx written"
fi
