"""Compiles kernels.cu to PTX with NVRTC; needs no GPU and no driver.

    python3 compile.py NVRTC_LIBRARY SOURCE       prints the PTX

The target is a virtual architecture that every driver since 2020 compiles for its own device when it loads the module.
"""

import ctypes
import sys

ARCHITECTURE = "compute_80"


def compile_source(library, source):
    """The PTX of `source`; ends the process with the compiler's log if it does not compile."""
    nvrtc = ctypes.CDLL(library)
    program = ctypes.c_void_p()
    text = source.encode()
    created = nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None)
    if created != 0:
        sys.exit(f"nvrtcCreateProgram: error {created}")
    options = [f"--gpu-architecture={ARCHITECTURE}".encode(), b"--std=c++17"]
    compiled = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    log = answer(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
    if log.strip():
        print(log, file=sys.stderr)
    if compiled != 0:
        sys.exit(f"kernels.cu does not compile: error {compiled}")
    return answer(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)


def answer(size_of, get, program):
    """A string of NVRTC: its size, then itself."""
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    get(program, buffer)
    return buffer.value.decode()


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as file:
        print(compile_source(sys.argv[1], file.read()), end="")
