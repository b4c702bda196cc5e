// The exported functions: what each refuses, and what it puts on a stream. One lock around each of them.
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include <algorithm>

#include "standin.h"

#define EXPORT extern "C" __attribute__((visibility("default"))) Code

using Lock = std::unique_lock<std::mutex>;

static thread_local Context* current = nullptr;

enum class Needs { nothing, start, context };

// What every call does first: counts itself, fails if it is to fail, and looks whether it may be made here at all.
struct Call {
  Lock lock;
  Code code;
  Context* context;

  Call(const char* name, Needs needs) : lock(state().mutex), context(current) {
    bool loses = false;
    code = fault(name, &loses);
    if (loses && context) lose(context, code);
    if (code != SUCCESS || needs == Needs::nothing) return;
    if (!state().initialized) code = NOT_INITIALIZED;
    if (code != SUCCESS || needs == Needs::start) return;
    if (!context)
      code = INVALID_CONTEXT;
    else if (!context->alive)
      code = CONTEXT_IS_DESTROYED;
    else
      code = context->lost;
  }
};

#define ENTER(needs)               \
  Call call(__func__, needs);      \
  if (call.code) return call.code; \
  [[maybe_unused]] Context* context = call.context

static bool is_device(int device) { return device >= 0 && device < settings().devices; }

// --- start, devices, contexts ---

EXPORT cuInit(u32 flags) {
  ENTER(Needs::nothing);
  if (flags != 0) return INVALID_VALUE;
  if (settings().devices == 0) return NO_DEVICE;
  if (!state().initialized)
    for (int device = 0; device < settings().devices; device++) state().contexts.push_back(new Context{.device = device});
  state().initialized = true;
  return SUCCESS;
}

EXPORT cuDriverGetVersion(int* version) {
  ENTER(Needs::nothing);
  if (!version) return INVALID_VALUE;
  *version = settings().version;
  return SUCCESS;
}

EXPORT cuGetErrorName(int code, const char** name) {
  ENTER(Needs::nothing);
  if (!name) return INVALID_VALUE;
  *name = name_of(code);
  return *name ? SUCCESS : INVALID_VALUE;
}

EXPORT cuDeviceGetCount(int* count) {
  ENTER(Needs::start);
  if (!count) return INVALID_VALUE;
  *count = settings().devices;
  return SUCCESS;
}

EXPORT cuDeviceGet(int* device, int ordinal) {
  ENTER(Needs::start);
  if (!device) return INVALID_VALUE;
  if (!is_device(ordinal)) return INVALID_DEVICE;
  *device = ordinal;
  return SUCCESS;
}

EXPORT cuDeviceGetName(char* name, int length, int device) {
  ENTER(Needs::start);
  if (!is_device(device)) return INVALID_DEVICE;
  if (!name || length <= 0) return INVALID_VALUE;
  snprintf(name, length, "stand-in for a GPU (no hardware)");
  return SUCCESS;
}

struct Uuid {
  char bytes[16];
};

EXPORT cuDeviceGetUuid_v2(Uuid* uuid, int device) {
  ENTER(Needs::start);
  if (!uuid) return INVALID_VALUE;
  if (!is_device(device)) return INVALID_DEVICE;
  *uuid = {};
  uuid->bytes[15] = char(device + 1);
  return SUCCESS;
}

EXPORT cuDeviceGetAttribute(int* value, int attribute, int device) {
  ENTER(Needs::start);
  if (!value) return INVALID_VALUE;
  if (!is_device(device)) return INVALID_DEVICE;
  switch (attribute) {
    case 16: *value = 4; return SUCCESS;  // multiprocessors
    case 75: *value = 8; return SUCCESS;  // compute capability, major
    case 76: *value = 0; return SUCCESS;  // and minor
  }
  die("cuDeviceGetAttribute of %d, which the stand-in does not know", attribute);
}

EXPORT cuDeviceTotalMem_v2(size_t* bytes, int device) {
  ENTER(Needs::start);
  if (!bytes) return INVALID_VALUE;
  if (!is_device(device)) return INVALID_DEVICE;
  *bytes = settings().bytes;
  return SUCCESS;
}

EXPORT cuDevicePrimaryCtxRetain(Context** to, int device) {
  ENTER(Needs::start);
  if (!to) return INVALID_VALUE;
  if (!is_device(device)) return INVALID_DEVICE;
  Context* own = state().contexts[device];
  own->retained++;
  own->alive = true;
  *to = own;
  return SUCCESS;
}

// Ends a context that nobody retains any more, and says what was left in it.
static void end(Lock& lock, Context* own) {
  if (!own->lost) {
    for (const Stream* stream : own->streams)
      if (!is_idle(stream)) die("cuDevicePrimaryCtxRelease while work is under way on stream %d", stream->number);
  }
  wait_until(lock, [&] { return is_at_rest(own); });
  // Nothing can be given back to a lost context.
  const bool tell = !own->lost;
  int left = take_all(own, tell);
  if (tell)
    for (const auto& [what, count] : {std::pair{"streams", own->streams.size()}, {"events", own->events.size()}, {"modules", own->modules.size()}})
      if (count > 0) say("left behind: %zu %s", count, what), left++;
  if (tell && left > 0 && settings().abort_on_leaks) die("a context ended with %d things left in it", left);
  if (settings().tell_ends) say("the context of GPU %d has ended%s", own->device, own->lost ? ", lost" : left ? "" : ", nothing is left");
  for (Stream* stream : own->streams) stream->ending = true;
  own->streams.clear();
  own->events.clear();
  own->modules.clear();
  own->alive = false;
  own->lost = SUCCESS;
  own->streams_made = 0;
  state().changed.notify_all();
}

EXPORT cuDevicePrimaryCtxRelease_v2(int device) {
  ENTER(Needs::start);
  if (!is_device(device)) return INVALID_DEVICE;
  Context* own = state().contexts[device];
  if (own->retained == 0) return INVALID_CONTEXT;
  if (--own->retained == 0) end(call.lock, own);
  return SUCCESS;
}

EXPORT cuCtxSetCurrent(Context* to) {
  ENTER(Needs::start);
  if (to && std::find(state().contexts.begin(), state().contexts.end(), to) == state().contexts.end())
    die("cuCtxSetCurrent of what is no context");
  if (to && !to->alive) return INVALID_CONTEXT;
  current = to;
  return SUCCESS;
}

EXPORT cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  ENTER(Needs::context);
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return SUCCESS;
}

EXPORT cuCtxSynchronize() {
  ENTER(Needs::context);
  wait_until(call.lock, [&] { return is_at_rest(context); });
  return context->lost;
}

// --- memory ---

EXPORT cuMemGetInfo_v2(size_t* free, size_t* total) {
  ENTER(Needs::context);
  if (!free || !total) return INVALID_VALUE;
  *total = settings().bytes;
  *free = settings().bytes - used_bytes(context);
  return SUCCESS;
}

EXPORT cuMemAlloc_v2(u64* address, size_t bytes) {
  ENTER(Needs::context);
  return allocate(context, bytes, address);
}

EXPORT cuMemFree_v2(u64 address) {
  ENTER(Needs::context);
  return let_go("cuMemFree", Kind::device, address, INVALID_VALUE);
}

EXPORT cuMemHostAlloc(void** address, size_t bytes, u32 flags) {
  ENTER(Needs::context);
  if (flags & ~7u) return INVALID_VALUE;
  return pin(context, bytes, reinterpret_cast<u64*>(address));
}

EXPORT cuMemFreeHost(void* address) {
  ENTER(Needs::context);
  return let_go("cuMemFreeHost", Kind::pinned, u64(address), INVALID_VALUE);
}

EXPORT cuMemHostRegister_v2(void* address, size_t bytes, u32 flags) {
  ENTER(Needs::context);
  if (flags & ~3u) return INVALID_VALUE;
  return register_host(context, u64(address), bytes);
}

EXPORT cuMemHostUnregister(void* address) {
  ENTER(Needs::context);
  return let_go("cuMemHostUnregister", Kind::registered, u64(address), HOST_MEMORY_NOT_REGISTERED);
}

EXPORT cuMemHostGetDevicePointer_v2(u64* seen, void* host, u32 flags) {
  ENTER(Needs::context);
  const MemoryPointer memory = find(u64(host), 1);
  const bool is_host = memory && (memory->kind == Kind::pinned || memory->kind == Kind::registered);
  if (!seen || flags != 0 || !is_host) return INVALID_VALUE;
  *seen = u64(host);
  return SUCCESS;
}

EXPORT cuMemGetAddressRange_v2(u64* base, size_t* bytes, u64 address) {
  ENTER(Needs::context);
  const MemoryPointer memory = find(address, 1);
  if (!memory || !is_device_address(address)) return NOT_FOUND;
  if (base) *base = memory->address;
  if (bytes) *bytes = memory->bytes;
  return SUCCESS;
}

EXPORT cuPointerGetAttribute(void* answer, int attribute, u64 address) {
  ENTER(Needs::context);
  const MemoryPointer memory = find(address, 1);
  if (!answer || !memory) return INVALID_VALUE;
  // CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
  if (attribute != 9) die("cuPointerGetAttribute of %d, which the stand-in does not know", attribute);
  *static_cast<int*>(answer) = memory->lies_on;
  return SUCCESS;
}

struct IpcHandle {
  char bytes[64];
};

EXPORT cuIpcGetMemHandle(IpcHandle* handle, u64 address) {
  ENTER(Needs::context);
  return export_handle(address, handle ? handle->bytes : nullptr);
}

EXPORT cuIpcOpenMemHandle_v2(u64* address, IpcHandle handle, u32 flags) {
  ENTER(Needs::context);
  if (flags != 1) return INVALID_VALUE;
  return open_handle(context, handle.bytes, address);
}

EXPORT cuIpcCloseMemHandle(u64 address) {
  ENTER(Needs::context);
  return let_go("cuIpcCloseMemHandle", Kind::opened, address, INVALID_VALUE);
}

// --- work ---

static void must_be_alive(const char* call, Context* context, Stream* stream) {
  if (context->streams.count(stream) == 0) die("%s on what is no stream of this context", call);
}

static bool overlap(u64 one, u64 other, u64 bytes) { return one < other + bytes && other < one + bytes; }

// A copy as a piece of work; both ranges lie in live memory as a whole, or it is refused.
static Code add_copy(Task* task, u64 to, u64 from, u64 bytes) {
  const MemoryPointer target = find(to, bytes), source = find(from, bytes);
  if (!target || !source) return INVALID_VALUE;
  if (overlap(to, from, bytes)) die("%s between ranges that overlap", task->call);
  task->uses.push_back(source);
  task->uses.push_back(target);
  task->ranges.push_back({from, from + bytes, false});
  task->ranges.push_back({to, to + bytes, true});
  task->pieces.push_back([=] {
    return guarded([=] { memcpy(reinterpret_cast<void*>(alias(to)), reinterpret_cast<void*>(alias(from)), bytes); });
  });
  return SUCCESS;
}

EXPORT cuMemcpyAsync(u64 to, u64 from, size_t bytes, Stream* stream) {
  ENTER(Needs::context);
  must_be_alive("cuMemcpyAsync", context, stream);
  if (bytes == 0) return SUCCESS;
  auto task = std::make_shared<Task>(Task{.call = "cuMemcpyAsync"});
  const Code code = add_copy(task.get(), to, from, bytes);
  if (code == SUCCESS) put(stream, task);
  return code;
}

struct CopyAttributes {
  int order;
  int source_kind, source_id, target_kind, target_id;
  u32 flags;
};
static_assert(sizeof(CopyAttributes) == 24);

// Copies of a batch have no order: two of them must not touch the same bytes if one writes there.
static void must_be_apart(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.from < b.from; });
  u64 read_end = 0, written_end = 0;
  for (const Range& range : ranges) {
    if (range.from < written_end || (range.written && range.from < read_end))
      die("cuMemcpyBatchAsync with copies that touch the same bytes");
    u64& end = range.written ? written_end : read_end;
    end = std::max(end, range.end);
  }
}

EXPORT cuMemcpyBatchAsync(u64* tos, u64* froms, size_t* sizes, size_t count, CopyAttributes* attributes, size_t* first,
                          size_t attribute_count, size_t* failed, Stream* stream) {
  ENTER(Needs::context);
  if (failed) *failed = SIZE_MAX;
  if (!tos || !froms || !sizes || count == 0 || !attributes || !first || !failed || !stream) return INVALID_VALUE;
  if (attribute_count == 0 || attribute_count > count || first[0] != 0) return INVALID_VALUE;
  must_be_alive("cuMemcpyBatchAsync", context, stream);
  for (size_t at = 0; at < attribute_count; at++)
    if (attributes[at].order < 1 || attributes[at].order > 3 || attributes[at].flags & ~1u) return INVALID_VALUE;
  auto task = std::make_shared<Task>(Task{.call = "cuMemcpyBatchAsync"});
  for (size_t at = 0; at < count; at++)
    if (const Code code = sizes[at] ? add_copy(task.get(), tos[at], froms[at], sizes[at]) : INVALID_VALUE) {
      *failed = at;
      return code;
    }
  must_be_apart(task->ranges);
  bool gated = false;
  for (const MemoryPointer& used : task->uses) gated |= used->gate >= 0;
  // A gate is there to see what comes in which order.
  for (size_t at = count; !gated && at > 1; at--) std::swap(task->pieces[at - 1], task->pieces[toss() % at]);
  put(stream, task);
  return SUCCESS;
}

EXPORT cuMemsetD8Async(u64 address, unsigned char value, size_t bytes, Stream* stream) {
  ENTER(Needs::context);
  must_be_alive("cuMemsetD8Async", context, stream);
  const MemoryPointer memory = find(address, bytes);
  if (!memory) return INVALID_VALUE;
  auto task = std::make_shared<Task>(Task{.call = "cuMemsetD8Async", .uses = {memory}, .ranges = {{address, address + bytes, true}}});
  task->pieces.push_back([=] { return guarded([=] { memset(reinterpret_cast<void*>(alias(address)), value, bytes); }); });
  put(stream, task);
  return SUCCESS;
}

EXPORT cuMemcpyHtoD_v2(u64 to, const void* from, size_t bytes) {
  ENTER(Needs::context);
  const MemoryPointer memory = find(to, bytes);
  if (!memory || !from || !is_device_address(to)) return INVALID_VALUE;
  must_not_be_in_use("cuMemcpyHtoD", *memory);
  const Code code = guarded([=] { memcpy(reinterpret_cast<void*>(alias(to)), from, bytes); });
  if (code) lose(context, code);
  return code;
}

EXPORT cuLaunchKernel(Kernel* kernel, u32 grid_x, u32 grid_y, u32 grid_z, u32 threads_x, u32 threads_y, u32 threads_z,
                      u32 shared_bytes, Stream* stream, void** parameters, void** extra) {
  ENTER(Needs::context);
  must_be_alive("cuLaunchKernel", context, stream);
  if (!kernel || !parameters || !parameters[0] || extra) return INVALID_VALUE;
  if (context->modules.count(kernel->module) == 0) die("cuLaunchKernel of a kernel whose module is not loaded");
  if (grid_z != 1 || threads_x != 256 || threads_y != 1 || threads_z != 1 || shared_bytes != 0) return INVALID_VALUE;
  const char* argument = static_cast<char*>(parameters[0]);
  auto task = std::make_shared<Task>(Task{.call = "cuLaunchKernel"});
  const Code code = prepare(kernel, grid_x, grid_y, {argument, argument + kernel->argument_bytes}, task.get());
  if (code == SUCCESS) put(stream, task);
  return code;
}

EXPORT cuModuleLoadData(Module** module, const void* text) {
  ENTER(Needs::context);
  return load_module(context, static_cast<const char*>(text), module);
}

EXPORT cuModuleUnload(Module* module) {
  ENTER(Needs::context);
  if (context->modules.count(module) == 0) die("cuModuleUnload of what is no module of this context");
  must_not_be_in_use("cuModuleUnload", module);
  unload(module);
  return SUCCESS;
}

EXPORT cuModuleGetFunction(Kernel** kernel, Module* module, const char* name) {
  ENTER(Needs::context);
  if (context->modules.count(module) == 0) die("cuModuleGetFunction of what is no module of this context");
  return find_kernel(module, name, kernel);
}

// --- streams and events ---

EXPORT cuStreamCreateWithPriority(Stream** stream, u32 flags, int priority) {
  ENTER(Needs::context);
  if (!stream || flags > 1) return INVALID_VALUE;
  *stream = make_stream(context, std::clamp(priority, -5, 0));
  return SUCCESS;
}

EXPORT cuStreamDestroy_v2(Stream* stream) {
  ENTER(Needs::context);
  must_be_alive("cuStreamDestroy", context, stream);
  // The driver would go on with it; nobody of ours may count on that.
  if (!is_idle(stream)) die("cuStreamDestroy of stream %d while work is under way on it", stream->number);
  context->streams.erase(stream);
  stream->ending = true;
  state().changed.notify_all();
  return SUCCESS;
}

static void must_be_alive(const char* call, Context* context, Event* event) {
  if (context->events.count(event) == 0) die("%s of what is no event of this context", call);
}

EXPORT cuEventCreate(Event** event, u32 flags) {
  ENTER(Needs::context);
  if (!event || flags & ~7u || (flags & 6u) == 4u) return INVALID_VALUE;
  *event = new Event{.context = context, .flags = flags};
  context->events.insert(*event);
  return SUCCESS;
}

EXPORT cuEventRecord(Event* event, Stream* stream) {
  ENTER(Needs::context);
  must_be_alive("cuEventRecord", context, event);
  must_be_alive("cuEventRecord", context, stream);
  // Allowed, but whoever waits would wait for something else than it recorded.
  if (event->waiters > 0) die("cuEventRecord of an event somebody waits for");
  event->last = std::make_shared<Point>();
  put(stream, std::make_shared<Task>(Task{.call = "cuEventRecord", .point = event->last}));
  return SUCCESS;
}

EXPORT cuEventSynchronize(Event* event) {
  ENTER(Needs::context);
  must_be_alive("cuEventSynchronize", context, event);
  const std::shared_ptr<Point> point = event->last;
  if (!point) return SUCCESS;
  event->waiters++;
  wait_until(call.lock, [&] { return point->reached || (context->lost && is_at_rest(context)); });
  event->waiters--;
  return context->lost;
}

EXPORT cuEventDestroy_v2(Event* event) {
  ENTER(Needs::context);
  must_be_alive("cuEventDestroy", context, event);
  if (event->waiters > 0) die("cuEventDestroy of an event somebody waits for");
  // The driver would let it end by itself; nobody of ours may count on that.
  if (event->last && !event->last->reached) die("cuEventDestroy of an event that was not reached");
  context->events.erase(event);
  delete event;
  return SUCCESS;
}
