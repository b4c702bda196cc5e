// Runs the kernels' own source on the CPU.
//
// stdin:  u32 kernel (0 shuffle, 1 checksum), u32 grid.x, u32 grid.y, u32 argument bytes, u64 memory bytes,
//         the argument structure with offsets in memory instead of addresses, the memory
// stdout: the memory afterwards
#include <cstdint>
#include <cstdio>
#include <memory>

#include "cuda_on_cpu.h"

static void must_read(void* into, size_t bytes) {
  if (fread(into, 1, bytes, stdin) != bytes) exit(2);
}

int main() {
  uint32_t head[4];
  uint64_t bytes;
  must_read(head, sizeof head);
  must_read(&bytes, sizeof bytes);
  if (head[3] != (head[0] == 0 ? sizeof(Shuffle) : sizeof(Checksum))) return 3;
  static Shuffle s;
  static Checksum c;
  must_read(head[0] == 0 ? (void*)&s : (void*)&c, head[3]);
  // As aligned as the driver's memory is.
  std::unique_ptr<u8, decltype(&free)> memory((u8*)aligned_alloc(256, (bytes + 255) / 256 * 256), &free);
  must_read(memory.get(), bytes);
  const u64 base = (u64)memory.get();
  for (u64& at : s.surfaces) at += base;
  for (u64& at : s.canonical) at += base;
  for (u64& at : c.spans) at += base;
  c.tables += base;
  c.results += base;
  auto run = [&](auto kernel) { on_cpu::run_grid(head[1], head[2], kernel); };
  if (head[0] == 1)
    run([] { kvtier_checksum(c); });
  else if (s.tiling.unit_bytes == 16)
    run([] { kvtier_shuffle_16(s); });
  else if (s.tiling.unit_bytes == 4)
    run([] { kvtier_shuffle_4(s); });
  else
    run([] { kvtier_shuffle_1(s); });
  return fwrite(memory.get(), 1, bytes, stdout) == bytes ? 0 : 4;
}
