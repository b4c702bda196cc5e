// Modules of PTX, of which only the entries are read; in their place the kernels' source runs on the CPU. What a launch may touch
// follows from its argument and is checked first, as hulls of what each block of KV and each span take.
#include <stdlib.h>
#include <string.h>

#include "../cuda_on_cpu.h"
#include "standin.h"

static constexpr u64 TABLES_BYTES = (TABLES * 256 + 32) * 4;
// More of them are not looked at one by one.
static constexpr u64 RUNS_MAX = 1 << 16;
static constexpr u32 GRID_X_MAX = 0x7fffffff, GRID_Y_MAX = 65535;

Code load_module(Context* context, const char* text, Module** module) {
  if (!text || !module) return INVALID_VALUE;
  const char* version = strstr(text, "\n.version ");
  if (!version) return INVALID_IMAGE;
  if (!strstr(text, "\n.target sm_") || !strstr(text, "\n.address_size 64")) return INVALID_PTX;
  // The minor numbers of PTX 8 are those of CUDA 12, at least up to 8.5.
  const double needed = atof(version + strlen("\n.version "));
  const double known = 8.0 + (settings().version - 12000) / 100.0;
  if (needed > known + 0.001) return UNSUPPORTED_PTX_VERSION;
  *module = new Module{context, text};
  context->modules.insert(*module);
  return SUCCESS;
}

void unload(Module* module) {
  module->context->modules.erase(module);
  delete module;
}

Code find_kernel(Module* module, const char* name, Kernel** kernel) {
  if (!module || !name || !kernel) return INVALID_VALUE;
  const std::string entry = std::string(".visible .entry ") + name + "(";
  const size_t at = module->text.find(entry);
  if (at == std::string::npos) return NOT_FOUND;
  const size_t end = module->text.find(')', at), count = module->text.find('[', at);
  if (count == std::string::npos || count > end) die("kernel %s takes no structure", name);
  // Never given back: a function lives as long as its module, and is a name only.
  *kernel = new Kernel{module, name, strtoull(module->text.c_str() + count + 1, nullptr, 10)};
  return SUCCESS;
}

// What a launch touches.
struct Reach {
  Task* task;
  Code code = SUCCESS;

  void touch(u64 address, u64 bytes, bool written) { task->ranges.push_back({address, address + bytes, written}); }

  void add(u64 address, u64 bytes, u64 alignment) {
    const MemoryPointer memory = find(address, bytes);
    if (!memory) {
      say("a kernel reaches %llu bytes at 0x%llx, which is no live memory", bytes, address);
      code = ILLEGAL_ADDRESS;
    } else if (address % alignment != 0) {
      say("a kernel reads units of %llu bytes at 0x%llx", alignment, address);
      code = MISALIGNED_ADDRESS;
    } else {
      for (const MemoryPointer& known : task->uses)
        if (known == memory) return;
      task->uses.push_back(memory);
    }
  }
};

static void reach_of(const Shuffle& s, Reach* reach) {
  const Tiling& t = s.tiling;
  const u64 runs = u64(t.count0) * t.count1 * t.count2;
  const u64 tiles_per_block = runs * t.surface_count * t.tiles_per_run;
  const u64 blocks = tiles_per_block ? t.tile_count / tiles_per_block : 0;
  if (blocks * tiles_per_block != t.tile_count || blocks > BLOCKS_MAX || t.surface_count > SURFACES_MAX)
    return reach->add(0, 1, 1);
  const u64 last = (t.count0 - 1) * s.stride0 + (t.count1 - 1) * s.stride1 + (t.count2 - 1) * s.stride2;
  for (u64 stride : {t.count0 > 1 ? s.stride0 : 0, t.count1 > 1 ? s.stride1 : 0, t.count2 > 1 ? s.stride2 : 0, s.run_bytes})
    if (stride % t.unit_bytes != 0) reach->code = MISALIGNED_ADDRESS;
  const bool few = blocks * t.surface_count * runs <= RUNS_MAX;
  for (u64 block = 0; block < blocks; block++)
    for (u64 surface = 0; surface < t.surface_count; surface++) {
      const u64 worker = s.surfaces[surface] + s.numbers[block] * s.block_stride;
      const u64 canonical = s.canonical[block] + (s.first_surface + surface) * s.surface_bytes;
      reach->add(worker, last + s.run_bytes, t.unit_bytes);
      reach->add(canonical, runs * s.run_bytes, t.unit_bytes);
      if (!few) continue;
      reach->touch(canonical, runs * s.run_bytes, !s.scatter);
      for (u64 run = 0; run < runs; run++) {
        const u64 at2 = run % t.count2, at1 = run / t.count2 % t.count1, at0 = run / t.count2 / t.count1;
        reach->touch(worker + at0 * s.stride0 + at1 * s.stride1 + at2 * s.stride2, s.run_bytes, s.scatter);
      }
    }
}

static void reach_of(const Checksum& c, u32 spans, Reach* reach) {
  if (spans > SPANS_MAX) return reach->add(0, 1, 1);
  reach->add(c.tables, TABLES_BYTES, 4);
  reach->add(c.results, spans * 4, 4);
  reach->touch(c.results, spans * 4, true);
  for (u32 span = 0; span < spans; span++) {
    reach->add(c.spans[span], c.bytes[span], 16);
    reach->touch(c.spans[span], c.bytes[span], false);
  }
}

#ifdef PLANT_WRONG_BYTE
static void plant(const Shuffle& s) {
  const u64 worker = s.surfaces[0] + s.numbers[0] * s.block_stride;
  const u64 canonical = s.canonical[0] + u64(s.first_surface) * s.surface_bytes;
  *reinterpret_cast<u8*>(s.scatter ? worker : canonical) ^= 1;
}
static void plant(const Checksum&) {}
#else
template <typename Argument>
static void plant(const Argument&) {}
#endif

// Addresses of the device become those of the CPU.
static void translate(Shuffle* s) {
  for (u64& surface : s->surfaces) surface = alias(surface);
  for (u64& canonical : s->canonical) canonical = alias(canonical);
}
static void translate(Checksum* c) {
  c->tables = alias(c->tables);
  c->results = alias(c->results);
  for (u64& span : c->spans) span = alias(span);
}

template <typename Argument>
static std::function<Code()> piece_of(u32 x, u32 y, std::vector<char> argument, void (*kernel)(const Argument)) {
  return [=] {
    return guarded([&] {
      static thread_local Argument own;
      memcpy(&own, argument.data(), sizeof own);
      translate(&own);
      on_cpu::run_grid(x, y, [kernel] { kernel(own); });
      plant(own);
    });
  };
}

template <typename Argument>
static Code prepare_as(const Kernel* kernel, u32 x, u32 y, const std::vector<char>& argument, Task* task,
                       void (*run)(const Argument)) {
  if (kernel->argument_bytes != sizeof(Argument))
    die("%s takes %llu bytes by its PTX and %zu by its source", kernel->name.c_str(), kernel->argument_bytes, sizeof(Argument));
  Argument own;
  memcpy(&own, argument.data(), sizeof own);
  Reach reach{task};
  if constexpr (std::is_same_v<Argument, Shuffle>)
    reach_of(own, &reach);
  else
    reach_of(own, y, &reach);
  if (reach.code != SUCCESS) {
    // A device finds out when it gets there.
    const Code code = reach.code;
    task->pieces.push_back([code] { return code; });
  } else {
    task->pieces.push_back(piece_of<Argument>(x, y, argument, run));
  }
  return SUCCESS;
}

Code prepare(const Kernel* kernel, u32 x, u32 y, std::vector<char> argument, Task* task) {
  if (x == 0 || y == 0 || x > GRID_X_MAX || y > GRID_Y_MAX) return INVALID_VALUE;
  task->module = kernel->module;
  if (kernel->name == "kvtier_shuffle_16") return prepare_as<Shuffle>(kernel, x, y, argument, task, kvtier_shuffle_16);
  if (kernel->name == "kvtier_shuffle_4") return prepare_as<Shuffle>(kernel, x, y, argument, task, kvtier_shuffle_4);
  if (kernel->name == "kvtier_shuffle_1") return prepare_as<Shuffle>(kernel, x, y, argument, task, kvtier_shuffle_1);
  if (kernel->name == "kvtier_checksum") return prepare_as<Checksum>(kernel, x, y, argument, task, kvtier_checksum);
  die("kernel %s does not run on the CPU", kernel->name.c_str());
}
