// Does one thing that the driver's documentation does not allow, by name, through the stand-in, and says what it answered:
// `misuse NAME`. Things that must end the process end it; tests/hbm/driver.rs knows which.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <string>
#include <thread>

using u32 = unsigned int;
using u64 = unsigned long long;
struct IpcHandle {
  char bytes[64];
};

static void* library;

// A function of the driver.
template <typename... Arguments>
static int call(const char* name, Arguments... arguments) {
  auto function = reinterpret_cast<int (*)(Arguments...)>(dlsym(library, name));
  if (!function) exit(3);
  return function(arguments...);
}

static void must(int code) {
  if (code != 0) {
    printf("unexpected %d\n", code);
    exit(4);
  }
}

static void* context;
static void* stream;

static void start() {
  must(call("cuInit", 0u));
  must(call("cuDevicePrimaryCtxRetain", &context, 0));
  must(call("cuCtxSetCurrent", context));
  must(call("cuStreamCreateWithPriority", &stream, 1u, 0));
}

static constexpr u64 BYTES = 1 << 20;

static u64 allocated() {
  u64 address = 0;
  must(call("cuMemAlloc_v2", &address, size_t(BYTES)));
  return address;
}

static u64 pinned() {
  void* address = nullptr;
  must(call("cuMemHostAlloc", &address, size_t(BYTES), 3u));
  return u64(address);
}

static char* mapped() {
  void* at = mmap(nullptr, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return static_cast<char*>(at);
}

static int copy(u64 to, u64 from, u64 bytes) { return call("cuMemcpyAsync", to, from, size_t(bytes), stream); }

// What the device says of everything that was put on the stream.
static int end_of_stream() {
  void* event;
  // It may have said so already.
  if (const int code = call("cuEventCreate", &event, 3u)) return code;
  if (const int code = call("cuEventRecord", event, stream)) return code;
  return call("cuEventSynchronize", event);
}

// The checksum kernel's argument.
struct Checksum {
  u64 tables, results, spans[128];
  u32 bytes[128];
};

// Launches it on one span, at so many bytes from the beginning of memory that is there.
static int checksum_at(u64 offset, u32 bytes) {
  start();
  FILE* file = fopen(getenv("PTX"), "r");
  static char text[1 << 20];
  void *module, *kernel;
  if (!file || fread(text, 1, sizeof text - 1, file) == 0) exit(5);
  must(call("cuModuleLoadData", &module, (const void*)text));
  must(call("cuModuleGetFunction", &kernel, module, "kvtier_checksum"));
  const u64 at = allocated();
  static Checksum argument{at, at + BYTES / 2, {at + offset}, {bytes}};
  void* arguments[] = {&argument};
  void** none = nullptr;
  must(call("cuLaunchKernel", kernel, 1u, 1u, 1u, 256u, 1u, 1u, 0u, stream, &arguments[0], none));
  return end_of_stream();
}

// Those that need work under way have a stream that stands still: KVTIER_DRIVER_HANG=0:0 is set for them.
static const std::map<std::string, std::function<int()>> things = {
    {"before_init", [] { int count; return call("cuDeviceGetCount", &count); }},
    {"without_context",
     [] {
       start();
       int code = 0;
       u64 address;
       std::thread([&] { code = call("cuMemAlloc_v2", &address, size_t(BYTES)); }).join();
       return code;
     }},
    {"allocate_too_much", [] { start(); u64 address; return call("cuMemAlloc_v2", &address, size_t(1) << 50); }},
    {"register_twice",
     [] {
       start();
       char* at = mapped();
       must(call("cuMemHostRegister_v2", (void*)at, size_t(BYTES), 3u));
       return call("cuMemHostRegister_v2", (void*)(at + BYTES / 2), size_t(4096), 3u);
     }},
    {"unregister_unknown", [] { start(); return call("cuMemHostUnregister", (void*)mapped()); }},
    {"register_unmapped", [] { start(); char* at = mapped(); munmap(at, BYTES); return call("cuMemHostRegister_v2", (void*)at, size_t(BYTES), 3u); }},
    {"copy_past_the_end", [] { start(); return copy(allocated() + 1, pinned(), BYTES); }},
    {"copy_from_pageable_memory", [] { start(); return copy(allocated(), u64(mapped()), BYTES); }},
    {"copy_over_itself", [] { start(); const u64 at = allocated(); return copy(at, at + 512, 1024); }},
    {"copy_from_freed_memory",
     [] {
       start();
       const u64 at = allocated();
       must(call("cuMemFree_v2", at));
       return copy(pinned(), at, 1);
     }},
    {"free_in_use", [] { start(); const u64 at = allocated(); must(copy(at, pinned(), BYTES)); return call("cuMemFree_v2", at); }},
    {"unpin_in_use", [] { start(); const u64 at = pinned(); must(copy(allocated(), at, BYTES)); return call("cuMemFreeHost", (void*)at); }},
    {"unregister_in_use",
     [] {
       start();
       char* at = mapped();
       must(call("cuMemHostRegister_v2", (void*)at, size_t(BYTES), 3u));
       must(copy(allocated(), u64(at), BYTES));
       return call("cuMemHostUnregister", (void*)at);
     }},
    {"destroy_a_busy_stream", [] { start(); must(copy(allocated(), pinned(), 1)); return call("cuStreamDestroy_v2", stream); }},
    {"destroy_a_pending_event",
     [] {
       start();
       void* event;
       must(call("cuEventCreate", &event, 3u));
       must(copy(allocated(), pinned(), 1));
       must(call("cuEventRecord", event, stream));
       return call("cuEventDestroy_v2", event);
     }},
    {"release_with_work_under_way", [] { start(); must(copy(allocated(), pinned(), 1)); return call("cuDevicePrimaryCtxRelease_v2", 0); }},
    {"leave_memory_behind", [] { start(); allocated(); return call("cuDevicePrimaryCtxRelease_v2", 0); }},
    {"use_a_dead_context",
     [] {
       start();
       must(call("cuStreamDestroy_v2", stream));
       must(call("cuDevicePrimaryCtxRelease_v2", 0));
       u64 address;
       return call("cuMemAlloc_v2", &address, size_t(1));
     }},
    {"touch_device_memory_from_the_cpu", [] { start(); return int(*reinterpret_cast<volatile char*>(allocated())); }},
    {"open_what_is_ones_own",
     [] {
       start();
       IpcHandle handle;
       u64 address;
       must(call("cuIpcGetMemHandle", &handle, allocated()));
       return call("cuIpcOpenMemHandle_v2", &address, handle, 1u);
     }},
    {"kernel_on_what_is_there", [] { return checksum_at(4096, 8192); }},
    {"kernel_past_the_end", [] { return checksum_at(4096, BYTES); }},
    {"kernel_on_what_is_not_aligned", [] { return checksum_at(4100, 512); }},
    {"a_lost_context_stays_lost",
     [] {
       checksum_at(4096, BYTES);
       u64 address;
       return call("cuMemAlloc_v2", &address, size_t(1));
     }},
    {"unmap_what_is_registered_and_copied",
     [] {
       start();
       char* at = mapped();
       must(call("cuMemHostRegister_v2", (void*)at, size_t(BYTES), 3u));
       munmap(at, BYTES);
       must(copy(allocated(), u64(at), BYTES));
       return end_of_stream();
     }},
    {"race",
     [] {
       start();
       const u64 at = allocated();
       must(copy(at, pinned(), BYTES));
       must(call("cuStreamCreateWithPriority", &stream, 1u, 0));
       return copy(at + BYTES - 1, pinned(), 1);
     }},
    {"load_what_is_no_ptx", [] { start(); void* module; return call("cuModuleLoadData", &module, (const void*)"no ptx"); }},
    {"batch_that_overlaps",
     [] {
       start();
       const u64 at = allocated(), from = pinned();
       u64 tos[] = {at, at + 100}, froms[] = {from, from + 1000};
       size_t sizes[] = {200, 200}, first = 0, failed = 0;
       int attributes[6] = {1, 0, 0, 0, 0, 0};
       return call("cuMemcpyBatchAsync", &tos[0], &froms[0], &sizes[0], size_t(2), (void*)attributes, &first, size_t(1), &failed, stream);
     }},
    {"batch_past_the_end",
     [] {
       start();
       const u64 at = allocated(), from = pinned();
       u64 tos[] = {at, at + BYTES - 1}, froms[] = {from, from + 1000};
       size_t sizes[] = {200, 200}, first = 0, failed = 0;
       int attributes[6] = {1, 0, 0, 0, 0, 0};
       const int code = call("cuMemcpyBatchAsync", &tos[0], &froms[0], &sizes[0], size_t(2), (void*)attributes, &first, size_t(1), &failed, stream);
       return failed == 1 ? code : -1;
     }},
};

int main(int count, char** words) {
  library = dlopen("libcuda.so.1", RTLD_NOW);
  const auto thing = count == 2 ? things.find(words[1]) : things.end();
  if (!library || thing == things.end()) return 2;
  printf("answered %d\n", thing->second());
  fflush(stdout);
  // Nothing of a stream that stands still is waited for.
  _exit(0);
}
