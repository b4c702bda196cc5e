"""Lets a torch built for CUDA be imported where no NVIDIA library is installed, to run on the CPU alone.

    python stub_libraries.py VENV

PyPI's torch links against NVIDIA's libraries (3 GB). The loader wants every library and every symbol to be there, but
on a machine without a GPU none is ever called: each missing library becomes a shared object of functions that return an
error. Needs gcc and binutils. Running it again makes the same files.
"""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

#: Libraries that are replaced when they are missing.
NVIDIA = re.compile(r"lib(cu|nv|nccl)")
#: Symbols that come from them.
FOREIGN = re.compile(
    r"^(_*cu[A-Z]|_*cuda|cublas|cudnn|cufft|cuFile|cufile|curand|cusparse|cusolver|cupti|nccl|pnccl|nvrtc|nvshmem|nvtx"
    r"|nvJitLink|nvml)"
)
#: A CUDA error code nothing takes for success: cudaErrorNoDevice.
NO_DEVICE = 100
#: Called while torch is being imported, so their answers must make sense.
CALLED_AT_IMPORT = {
    "cudaGetErrorString": 'const char* cudaGetErrorString() { return "no CUDA here: stub library"; }',
    "cudaGetErrorName": 'const char* cudaGetErrorName() { return "cudaErrorNoDevice"; }',
    "__cudaRegisterFatBinary": "static void* slot[2]; void** __cudaRegisterFatBinary() { return slot; }",
}
#: The library that carries the symbols without a version; any one that torch loads will do.
CARRIER = "libcufile.so.0"
#: Symbol versions that are not the name of their library.
OWNERS = {"NVSHMEM": "libnvshmem_host.so.3"}


def lines(*command: str) -> list[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def symbols(library: Path, which: str) -> set[str]:
    return {line.split()[0] for line in lines("nm", "-D", which, "-P", str(library)) if line}


def build(target: Path, names: list[str], versions: dict[str, set[str]]) -> None:
    """One stub library: every name a function that fails, the versioned ones under their versions."""
    source = "\n".join(CALLED_AT_IMPORT.get(name, f"long {name}(void) {{ return {NO_DEVICE}; }}") for name in names)
    command = ["gcc", "-shared", "-fPIC", "-O1", "-w", f"-Wl,-soname,{target.name}", "-x", "c", "-", "-o", str(target)]
    if versions:
        script = target.with_suffix(".map")
        script.write_text(
            "\n".join(
                f"{version} {{ global: {' '.join(f'{n};' for n in sorted(held))} }};"
                for version, held in versions.items()
            )
        )
        command.append(f"-Wl,--version-script={script}")
    subprocess.run(command, check=True, input=source + "\n", text=True)


def main(venv: Path) -> None:
    (folder,) = venv.glob("lib/python3*/site-packages/torch/lib")
    for library in folder.iterdir():
        if NVIDIA.match(library.name):
            library.unlink()
    libraries = sorted(folder.glob("*.so*"))
    wanted = {
        match[1]
        for library in libraries
        for match in map(re.compile(r"NEEDED.*\[(.*?)\]").search, lines("readelf", "-d", str(library)))
        if match
    }
    missing = sorted(name for name in wanted if NVIDIA.match(name))
    undefined = set().union(*(symbols(library, "--undefined-only") for library in libraries))
    defined = {
        name.split("@")[0] for name in set().union(*(symbols(library, "--defined-only") for library in libraries))
    }

    plain: set[str] = set()
    versioned: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for symbol in filter(FOREIGN.match, undefined):
        name, _, version = symbol.partition("@")
        version = version.lstrip("@")
        if version:
            versioned[OWNERS.get(version, version)][version].add(name)
        elif name not in defined:
            plain.add(name)
    for library in missing:
        versions = versioned.pop(library, {})
        names = {name for held in versions.values() for name in held} | (plain if library == CARRIER else set())
        build(folder / library, sorted(names), versions)
    if versioned:
        sys.exit(f"stub_libraries: no library for the symbol versions {sorted(versioned)}; name their owner in OWNERS")
    print(f"stub_libraries: {len(missing)} libraries, {len(plain)} plain symbols")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
