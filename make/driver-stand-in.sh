#!/usr/bin/env bash
# Compiles the stand-in for NVIDIA's driver (tests/hbm/driver) into a folder that LD_LIBRARY_PATH may name. It is no hardware:
# what runs on it has followed the driver's documentation, and nothing more is shown.
#   make/driver-stand-in.sh FOLDER [OPTION ...]     options are the compiler's: tests/hbm/driver/faults.cc says which mean something
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$1
shift
mkdir -p "$folder"
g++ -std=c++20 -O2 -g1 -U_FORTIFY_SOURCE -fPIC -shared -fvisibility=hidden -pthread -Wl,-soname,libcuda.so.1 "$@" \
  -o "$folder/libcuda.so.1" tests/hbm/driver/libcuda.cc
# Looked for first, and a machine with a driver has one of its own.
ln -f "$folder/libcuda.so.1" "$folder/libcuda.so"
