#!/usr/bin/env bash
# Installs what the build and the tests need and the machine lacks. Says what it does; does nothing when nothing is
# missing.
set -euo pipefail

need_rust="1.95.0"

missing=()
want() { # package, and a command that succeeds when it is there
  local package=$1
  shift
  "$@" > /dev/null 2>&1 || missing+=("$package")
}

# Not libclang-cpp, which Debian keeps beside it: bindgen cannot use that one.
has_libclang() {
  ldconfig -p | grep -E '/libclang(-[0-9.]+)?\.so' || compgen -G '/usr/lib/llvm-*/lib/libclang[.-][s0-9]*' > /dev/null
}

has_libnuma() {
  ldconfig -p | grep 'libnuma\.so\.1'
}

want g++ command -v g++             # RocksDB
want make command -v make
want libclang-dev has_libclang      # the bindings to RocksDB
want fio command -v fio             # benchmarks compare with it
want python3-venv python3 -c 'import venv, ensurepip, sys; sys.exit(sys.version_info < (3, 11))'
want libnuma1 has_libnuma           # vLLM on CPUs
want binutils command -v readelf    # the tests with vLLM
want redis-server command -v redis-server

if ((${#missing[@]} > 0)); then
  if ! command -v apt-get > /dev/null; then
    echo "setup: these are missing, install them with your package manager: ${missing[*]}" >&2
    exit 1
  fi
  as_root=()
  if ((EUID != 0)); then
    command -v sudo > /dev/null || { echo "setup: run as root: apt-get install -y ${missing[*]}" >&2; exit 1; }
    as_root=(sudo)
  fi
  echo "setup: installing ${missing[*]} with apt-get"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi

if ! command -v cargo > /dev/null; then
  echo "setup: cargo is missing; install Rust $need_rust or newer (https://rustup.rs)" >&2
  exit 1
fi
rust=$(rustc --version | awk '{ print $2 }')
if [[ $(printf '%s\n' "$need_rust" "$rust" | sort -V | head -n 1) != "$need_rust" ]]; then
  echo "setup: rustc $rust is too old; kvtier needs $need_rust or newer (rustup update)" >&2
  exit 1
fi
