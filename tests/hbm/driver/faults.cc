// What the environment asks to go wrong, and what this machine pretends to be.
//
//   KVTIER_DRIVER_DEVICES=N         GPUs; 0: cuInit answers CUDA_ERROR_NO_DEVICE
//   KVTIER_DRIVER_BYTES=N           memory of each GPU
//   KVTIER_DRIVER_VERSION=12080     what cuDriverGetVersion answers; PTX 8.1 needs 12010
//   KVTIER_DRIVER_SEED=N            order and pauses
//   KVTIER_DRIVER_FAULTS=LIST       NAME:N=CODE, with commas: the Nth call of that function answers CODE. NAME:N=CODE+: every call
//                                   from the Nth on. NAME:N=CODE!: it takes the context with it. The name `work` means the Nth
//                                   piece of work of any stream, which then fails when its turn comes
//   KVTIER_DRIVER_HANG=STREAM:N     the stream of that number (in the order of their making) never does its Nth piece of work
//   KVTIER_DRIVER_LEAKS=abort       memory, streams, events or modules that are left when a context ends end the process; `tell`:
//                                   the end of a context is told of even when nothing is left
//   KVTIER_DRIVER_RACES=abort       work on two streams at a time that touches the same bytes, one of them writing, ends the process.
//                                   Not for the suite of the Tier port, which looks at a slot until a forgotten store has reached it
//
// At compile time: -DPLANT_WRONG_BYTE makes kernels wrong by a bit; -DcuEventCreate=absent leaves out that symbol, or any other.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "standin.h"

struct Fault {
  std::string call;
  u64 number;
  int code;
  bool every, loses;
};

static u64 number_of(const char* name, u64 otherwise) {
  const char* text = getenv(name);
  return text && *text ? strtoull(text, nullptr, 0) : otherwise;
}

static Settings read_settings() {
  Settings read;
  read.devices = int(number_of("KVTIER_DRIVER_DEVICES", read.devices));
  read.bytes = number_of("KVTIER_DRIVER_BYTES", read.bytes);
  read.version = int(number_of("KVTIER_DRIVER_VERSION", read.version));
  read.seed = number_of("KVTIER_DRIVER_SEED", read.seed);
  if (const char* text = getenv("KVTIER_DRIVER_HANG"); text && sscanf(text, "%d:%llu", &read.hang_stream, &read.hang_from) != 2)
    die("KVTIER_DRIVER_HANG is %s: write STREAM:N", text);
  const char* leaks = getenv("KVTIER_DRIVER_LEAKS");
  read.abort_on_leaks = leaks && !strcmp(leaks, "abort");
  const char* races = getenv("KVTIER_DRIVER_RACES");
  read.abort_on_races = races && !strcmp(races, "abort");
  read.tell_ends = leaks != nullptr;
  return read;
}

const Settings& settings() {
  static const Settings read = read_settings();
  return read;
}

static std::vector<Fault> read_faults() {
  std::vector<Fault> faults;
  const char* text = getenv("KVTIER_DRIVER_FAULTS");
  for (std::string rest = text ? text : ""; !rest.empty();) {
    const size_t comma = rest.find(',');
    const std::string one = rest.substr(0, comma);
    rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
    char call[64], kind = 0;
    Fault fault{};
    if (sscanf(one.c_str(), "%63[A-Za-z0-9_]:%llu=%d%c", call, &fault.number, &fault.code, &kind) < 3)
      die("KVTIER_DRIVER_FAULTS has %s: write NAME:N=CODE", one.c_str());
    fault.call = call;
    fault.every = kind == '+';
    fault.loses = kind == '!';
    faults.push_back(fault);
  }
  return faults;
}

Code fault(const char* call, bool* loses) {
  static const std::vector<Fault> faults = read_faults();
  static std::map<std::string, u64> calls;
  if (faults.empty()) return SUCCESS;
  const u64 number = ++calls[call];
  for (const Fault& fault : faults)
    if (fault.call == call && (fault.number == number || (fault.every && fault.number < number))) {
      *loses = fault.loses;
      return Code(fault.code);
    }
  return SUCCESS;
}

u64 toss() {
  static u64 random = settings().seed * 0x9e3779b97f4a7c15ull | 1;
  random ^= random << 13;
  random ^= random >> 7;
  random ^= random << 17;
  return random >> 11;
}

const char* name_of(int code) {
  static const std::map<int, const char*> names = {
      {0, "CUDA_SUCCESS"},
      {1, "CUDA_ERROR_INVALID_VALUE"},
      {2, "CUDA_ERROR_OUT_OF_MEMORY"},
      {3, "CUDA_ERROR_NOT_INITIALIZED"},
      {46, "CUDA_ERROR_DEVICE_UNAVAILABLE"},
      {100, "CUDA_ERROR_NO_DEVICE"},
      {101, "CUDA_ERROR_INVALID_DEVICE"},
      {200, "CUDA_ERROR_INVALID_IMAGE"},
      {201, "CUDA_ERROR_INVALID_CONTEXT"},
      {208, "CUDA_ERROR_ALREADY_MAPPED"},
      {214, "CUDA_ERROR_ECC_UNCORRECTABLE"},
      {218, "CUDA_ERROR_INVALID_PTX"},
      {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"},
      {304, "CUDA_ERROR_OPERATING_SYSTEM"},
      {400, "CUDA_ERROR_INVALID_HANDLE"},
      {500, "CUDA_ERROR_NOT_FOUND"},
      {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
      {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED"},
      {712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"},
      {713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"},
      {716, "CUDA_ERROR_MISALIGNED_ADDRESS"},
      {719, "CUDA_ERROR_LAUNCH_FAILED"},
      {801, "CUDA_ERROR_NOT_SUPPORTED"},
      {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"},
      {999, "CUDA_ERROR_UNKNOWN"},
  };
  const auto found = names.find(code);
  return found == names.end() ? nullptr : found->second;
}

static void line(const char* format, va_list arguments) {
  char text[512];
  vsnprintf(text, sizeof text, format, arguments);
  // In one piece: others write, too.
  fprintf(stderr, "kvtier driver stand-in: %s\n", text);
  fflush(stderr);
}

void say(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  line(format, arguments);
  va_end(arguments);
}

void die(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  line(format, arguments);
  va_end(arguments);
  abort();
}
