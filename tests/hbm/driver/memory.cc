// Memory by address. What the device has lies in a range the CPU may not touch; the bytes are mapped a constant distance away, so
// that a CPU that follows a device address crashes, and the stand-in adds the distance. No address is given out twice.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "standin.h"

static constexpr u64 PAGE = 4096;
static constexpr u64 RANGE_BYTES = 1ull << 40;
static constexpr u64 GAP_BYTES = 64 << 10;
// Real ones are multiples of 512, and of nothing more that anybody may rely on.
static constexpr u64 ALIGNMENT = 512;
// What is not written before it is read is seen: fresh memory is not zero.
static constexpr int FRESH = 0xcd;
static constexpr u64 FRESH_BYTES_MAX = 64 << 20;

static u64 page_up(u64 bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

static u64 device_base() {
  static const u64 base = [] {
    void* range = mmap(nullptr, 2 * RANGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) die("no address space for device memory: %s", strerror(errno));
    return u64(range);
  }();
  return base;
}

bool is_device_address(u64 address) { return address - device_base() < RANGE_BYTES; }

u64 alias(u64 address) { return is_device_address(address) ? address + RANGE_BYTES : address; }

// So many pages of addresses that nobody had before.
static u64 take_addresses(u64 bytes) {
  static u64 next = device_base() + GAP_BYTES;
  const u64 taken = next;
  next += page_up(bytes) + GAP_BYTES;
  if (next > device_base() + RANGE_BYTES) die("every address of device memory was used once");
  return taken;
}

static const char* kind_name(Kind kind) {
  switch (kind) {
    case Kind::device: return "device memory";
    case Kind::pinned: return "pinned memory";
    case Kind::registered: return "registered memory";
    case Kind::opened: return "memory of another process";
  }
  return "";
}

std::string Memory::words() const {
  char text[96];
  snprintf(text, sizeof text, "%llu bytes of %s at 0x%llx", bytes, kind_name(kind), address);
  return text;
}

MemoryPointer find(u64 address, u64 bytes) {
  auto& memories = state().memories;
  auto after = memories.upper_bound(address);
  if (after == memories.begin()) return nullptr;
  const MemoryPointer& memory = std::prev(after)->second;
  const u64 offset = address - memory->address;
  return offset <= memory->bytes && bytes <= memory->bytes - offset ? memory : nullptr;
}

static void add(Memory memory) {
  if (memory.kind != Kind::opened) memory.lies_on = memory.context->device;
  state().memories[memory.address] = std::make_shared<Memory>(memory);
}

// Maps a file behind addresses of the device.
static bool map_file(Memory* memory) {
  memory->mapped_bytes = page_up(memory->file_offset + memory->bytes);
  memory->mapped_at = take_addresses(memory->mapped_bytes);
  memory->address = memory->mapped_at + memory->file_offset;
  void* at = reinterpret_cast<void*>(alias(memory->mapped_at));
  const int flags = MAP_SHARED | MAP_FIXED | MAP_NORESERVE;
  return mmap(at, memory->mapped_bytes, PROT_READ | PROT_WRITE, flags, memory->file, 0) != MAP_FAILED;
}

u64 used_bytes(const Context* context) {
  u64 used = 0;
  for (const auto& [address, memory] : state().memories)
    if (memory->kind == Kind::device && memory->context == context) used += memory->bytes;
  return used;
}

Code allocate(Context* context, u64 bytes, u64* address) {
  if (bytes == 0 || !address) return INVALID_VALUE;
  if (bytes > settings().bytes - used_bytes(context)) return OUT_OF_MEMORY;
  Memory memory{.kind = Kind::device, .context = context, .address = 0, .bytes = bytes};
  memory.file_offset = ALIGNMENT * (1 + toss() % 7);
  memory.file = memfd_create("kvtier-device", MFD_CLOEXEC);
  if (memory.file < 0) return OUT_OF_MEMORY;
  if (ftruncate(memory.file, page_up(memory.file_offset + bytes)) != 0 || !map_file(&memory)) {
    close(memory.file);
    return OUT_OF_MEMORY;
  }
  if (bytes <= FRESH_BYTES_MAX) memset(reinterpret_cast<void*>(alias(memory.address)), FRESH, bytes);
  add(memory);
  *address = memory.address;
  return SUCCESS;
}

Code pin(Context* context, u64 bytes, u64* address) {
  if (bytes == 0 || !address) return INVALID_VALUE;
  Memory memory{.kind = Kind::pinned, .context = context, .address = 0, .bytes = bytes};
  memory.mapped_bytes = page_up(bytes) + 2 * PAGE;
  void* at = mmap(nullptr, memory.mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return OUT_OF_MEMORY;
  memory.mapped_at = u64(at);
  memory.address = memory.mapped_at + PAGE;
  void* first = reinterpret_cast<void*>(memory.address);
  if (mprotect(first, page_up(bytes), PROT_READ | PROT_WRITE) != 0) return OUT_OF_MEMORY;
  memset(first, FRESH, bytes);
  add(memory);
  *address = memory.address;
  return SUCCESS;
}

static bool is_mapped(u64 address, u64 bytes) {
  std::vector<unsigned char> pages(page_up(bytes) / PAGE);
  return mincore(reinterpret_cast<void*>(address), bytes, pages.data()) == 0;
}

Code register_host(Context* context, u64 address, u64 bytes) {
  if (bytes == 0 || address % PAGE != 0 || !is_mapped(address, bytes)) return INVALID_VALUE;
  auto after = state().memories.lower_bound(address + bytes);
  if (after != state().memories.begin()) {
    const Memory& before = *std::prev(after)->second;
    if (before.address + before.bytes > address) return HOST_MEMORY_ALREADY_REGISTERED;
  }
  add(Memory{.kind = Kind::registered, .context = context, .address = address, .bytes = bytes});
  return SUCCESS;
}

// A handle: process, descriptor, "KVTIERSF", descriptor of a gate or -1, GPU and 1 or 0, inode or 0, first byte, bytes or 0 for all of
// the file. The first 20 bytes are what a worker without a GPU writes for the simulated device.
struct Handle {
  int process, file;
  char magic[8];
  int gate, device;
  u64 inode, first, bytes;
  char rest[16];
};
static_assert(sizeof(Handle) == 64);
static constexpr char MAGIC[8] = {'K', 'V', 'T', 'I', 'E', 'R', 'S', 'F'};

Code export_handle(u64 address, char* to) {
  const auto found = state().memories.find(address);
  if (!to || found == state().memories.end() || found->second->kind != Kind::device) return INVALID_VALUE;
  const Memory& memory = *found->second;
  struct stat file;
  if (fstat(memory.file, &file) != 0) die("fstat of device memory: %s", strerror(errno));
  Handle handle{};
  handle.process = getpid();
  handle.file = memory.file;
  memcpy(handle.magic, MAGIC, sizeof MAGIC);
  handle.gate = -1;
  handle.device = memory.lies_on + 1;
  handle.inode = file.st_ino;
  handle.first = memory.file_offset;
  handle.bytes = memory.bytes;
  memcpy(to, &handle, sizeof handle);
  return SUCCESS;
}

static int open_of(int process, int descriptor, int flags) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fd/%d", process, descriptor);
  return open(path, flags | O_CLOEXEC);
}

static void close_files(const Memory& memory) {
  if (memory.file >= 0) close(memory.file);
  if (memory.gate >= 0) close(memory.gate);
}

Code open_handle(Context* context, const char* from, u64* address) {
  Handle handle;
  memcpy(&handle, from, sizeof handle);
  if (!address || memcmp(handle.magic, MAGIC, sizeof MAGIC) != 0) return INVALID_VALUE;
  // Device memory of this very process has an address already; a worker's file may come from anywhere.
  if (handle.process == getpid()) return INVALID_CONTEXT;
  Memory memory{.kind = Kind::opened, .context = context, .address = 0, .bytes = 0};
  memory.file = open_of(handle.process, handle.file, O_RDWR);
  if (memory.file < 0) return INVALID_VALUE;
  if (handle.gate != -1) memory.gate = open_of(handle.process, handle.gate, O_RDONLY);
  struct stat file;
  const bool is_file = fstat(memory.file, &file) == 0 && S_ISREG(file.st_mode) && file.st_size > 0;
  const bool is_same = is_file && (handle.inode == 0 || handle.inode == file.st_ino);
  if (!is_same || (handle.gate != -1 && memory.gate < 0)) {
    close_files(memory);
    return INVALID_VALUE;
  }
  memory.lies_on = handle.device ? handle.device - 1 : context->device;
  memory.inode = file.st_ino;
  memory.file_offset = handle.first;
  memory.bytes = handle.bytes ? handle.bytes : u64(file.st_size) - handle.first;
  for (const auto& [at, other] : state().memories)
    if (other->kind == Kind::opened && other->context == context && other->inode == memory.inode &&
        (other->gate >= 0) == (memory.gate >= 0)) {
      close_files(memory);
      return ALREADY_MAPPED;
    }
  if (!map_file(&memory)) {
    close_files(memory);
    return OUT_OF_MEMORY;
  }
  add(memory);
  *address = memory.address;
  return SUCCESS;
}

bool is_whole(const Memory& memory) {
  if (memory.kind != Kind::opened) return true;
  struct stat file;
  return fstat(memory.file, &file) == 0 && u64(file.st_size) >= memory.file_offset + memory.bytes;
}

static void take_away(const Memory& memory) {
  void* at = reinterpret_cast<void*>(alias(memory.mapped_at));
  switch (memory.kind) {
    case Kind::device:
    case Kind::opened:
      // The addresses stay taken: whoever still has one crashes.
      mmap(at, memory.mapped_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
      close_files(memory);
      break;
    case Kind::pinned:
      munmap(at, memory.mapped_bytes);
      break;
    case Kind::registered:
      break;
  }
}

Code let_go(const char* call, Kind kind, u64 address, Code unknown) {
  const auto found = state().memories.find(address);
  if (found == state().memories.end() || found->second->kind != kind) return unknown;
  const MemoryPointer memory = found->second;
  must_not_be_in_use(call, *memory);
  if (kind == Kind::registered && !is_mapped(memory->address, memory->bytes))
    die("%s of %s, which was unmapped before", call, memory->words().c_str());
  state().memories.erase(found);
  take_away(*memory);
  return SUCCESS;
}

int take_all(Context* context, bool tell) {
  int left = 0;
  auto& memories = state().memories;
  for (auto at = memories.begin(); at != memories.end();) {
    const MemoryPointer memory = at->second;
    if (memory->context != context) {
      at++;
      continue;
    }
    left++;
    if (tell) say("left behind: %s", memory->words().c_str());
    take_away(*memory);
    at = memories.erase(at);
  }
  return left;
}
