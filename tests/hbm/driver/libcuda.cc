// All of the stand-in as one translation unit, which compiles in a few seconds.
#include "kernels.cc"

#include "calls.cc"
#include "faults.cc"
#include "memory.cc"
#include "streams.cc"
