// A stand-in for NVIDIA's libcuda.so.1, for machines without a GPU: what its parts share.
//
// It behaves as the documentation of the CUDA driver API says, and is stricter where that leaves something undefined: then it
// writes one line and ends the process. It is no substitute for hardware: it knows nothing of time, of compiling PTX, of ECC, and
// its IPC handles are names of files.
//
//   calls.cc    the exported functions, one lock around each
//   memory.cc   device, pinned, registered and opened memory, by address
//   streams.cc  threads that do what was put on a stream, events, and what happens when work touches what is not there
//   kernels.cc  modules of PTX, and the kernels' source on the CPU in their place
//   faults.cc   what the environment asks to go wrong; the list is there
#pragma once

#include <condition_variable>
#include <cstdarg>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

using u32 = unsigned int;
using u64 = unsigned long long;

// The driver's numbers for errors.
enum Code : int {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  ALREADY_MAPPED = 208,
  INVALID_PTX = 218,
  UNSUPPORTED_PTX_VERSION = 222,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  ILLEGAL_ADDRESS = 700,
  CONTEXT_IS_DESTROYED = 709,
  HOST_MEMORY_ALREADY_REGISTERED = 712,
  HOST_MEMORY_NOT_REGISTERED = 713,
  MISALIGNED_ADDRESS = 716,
};

const char* name_of(int code);

// One line, and the end of the process: the caller has done what the documentation does not define.
[[noreturn]] void die(const char* format, ...) __attribute__((format(printf, 1, 2)));
void say(const char* format, ...) __attribute__((format(printf, 1, 2)));

struct Context;
struct Stream;

enum class Kind { device, pinned, registered, opened };

struct Memory {
  Kind kind;
  Context* context;
  u64 address;
  u64 bytes;
  // The GPU it is on: of opened memory the exporter's, if the handle says so.
  int lies_on = 0;
  // Of device memory and opened memory: what backs it, and where in it the first byte is.
  int file = -1;
  u64 file_offset = 0;
  u64 mapped_at = 0, mapped_bytes = 0;
  // Of opened memory: the reading end of a pipe, and what names the file.
  int gate = -1;
  u64 inode = 0;

  std::string words() const;
};

using MemoryPointer = std::shared_ptr<Memory>;

// --- memory.cc ---

// Where the CPU reaches an address the device knows.
u64 alias(u64 address);
bool is_device_address(u64 address);
// The memory that a range lies in as a whole.
MemoryPointer find(u64 address, u64 bytes);
Code allocate(Context* context, u64 bytes, u64* address);
Code pin(Context* context, u64 bytes, u64* address);
Code register_host(Context* context, u64 address, u64 bytes);
Code export_handle(u64 address, char* handle);
Code open_handle(Context* context, const char* handle, u64* address);
// Ends one memory of that kind that begins there; whoever still uses it ends the process.
Code let_go(const char* call, Kind kind, u64 address, Code unknown);
// Whether the bytes behind an opening are still there.
bool is_whole(const Memory& memory);
u64 used_bytes(const Context* context);
// All that is left of a context: told of, then taken away.
int take_all(Context* context, bool tell);

// --- streams.cc ---

// A place in a stream.
struct Point {
  bool reached = false;
};

// Bytes that work reads or writes.
struct Range {
  u64 from, end;
  bool written;
};

struct Task {
  const char* call;
  std::vector<MemoryPointer> uses;
  // In order, once it is put. None: too many to look at.
  std::vector<Range> ranges;
  // Copies that pass a gate are pieces of their own.
  std::vector<std::function<Code()>> pieces;
  std::shared_ptr<Point> point;
  const void* module = nullptr;
};

struct Stream {
  Context* context;
  int number;
  int priority;
  std::deque<std::shared_ptr<Task>> waiting;
  std::shared_ptr<Task> running;
  // It touches memory now.
  bool active = false;
  bool ending = false;
  u64 begun = 0;
};

struct Event {
  Context* context;
  u32 flags;
  std::shared_ptr<Point> last;
  int waiters = 0;
};

struct Context {
  int device;
  int retained = 0;
  bool alive = false;
  Code lost = SUCCESS;
  std::set<Stream*> streams;
  std::set<Event*> events;
  std::set<const void*> modules;
  int streams_made = 0;
};

Stream* make_stream(Context* context, int priority);
// Nothing orders streams but their ends. Where KVTIER_DRIVER_RACES says so, work that is put while another stream's work on the
// same bytes is not done ends the process, if one of them writes.
void put(Stream* stream, std::shared_ptr<Task> task);
bool is_idle(const Stream* stream);
// Ends the process if work that is not done uses the memory.
void must_not_be_in_use(const char* call, const Memory& memory);
void must_not_be_in_use(const char* call, const void* module);
void lose(Context* context, Code code);
// Runs what may touch memory that is not there.
Code guarded(const std::function<void()>& act);
// Waits, without the lock, until this holds.
void wait_until(std::unique_lock<std::mutex>& lock, const std::function<bool()>& holds);
bool is_at_rest(const Context* context);

// --- kernels.cc ---

struct Module {
  Context* context;
  std::string text;
};
struct Kernel {
  Module* module;
  std::string name;
  u64 argument_bytes;
};

Code load_module(Context* context, const char* text, Module** module);
Code find_kernel(Module* module, const char* name, Kernel** kernel);
void unload(Module* module);
// Checks an argument and makes the work of it; the argument has been copied.
Code prepare(const Kernel* kernel, u32 x, u32 y, std::vector<char> argument, Task* task);

// --- faults.cc ---

struct Settings {
  int devices = 1;
  u64 bytes = 4ull << 30;
  int version = 12080;
  u64 seed = 1;
  int hang_stream = -1;
  u64 hang_from = 0;
  bool abort_on_leaks = false;
  bool abort_on_races = false;
  bool tell_ends = false;
};
const Settings& settings();
// What the environment says of this call of that function; SUCCESS: nothing.
Code fault(const char* call, bool* loses);
// Numbers that follow from the seed.
u64 toss();

// --- everything of this process, behind one lock ---

struct State {
  std::mutex mutex;
  std::condition_variable changed;
  bool initialized = false;
  std::map<u64, MemoryPointer> memories;
  std::vector<Context*> contexts;
};
// Never destroyed: threads outlive main.
State& state();
