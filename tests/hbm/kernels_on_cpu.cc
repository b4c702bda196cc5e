// Runs the kernels' own source on the CPU: every thread of a block is a thread here. What CUDA brings is stood in for.
//
// stdin:  u32 kernel (0 shuffle, 1 checksum), u32 grid.x, u32 grid.y, u32 argument bytes, u64 memory bytes,
//         the argument structure with offsets in memory instead of addresses, the memory
// stdout: the memory afterwards
#include <barrier>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

struct dim3_ { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static thread_local dim3_ blockIdx, threadIdx;
static dim3_ blockDim{256, 1, 1}, gridDim{1, 1, 1};
static std::barrier<> block_barrier(256);
static std::vector<std::unique_ptr<std::barrier<>>> warp_barriers;
static unsigned exchanged[256];

#define __device__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(n)

static inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t(a) * b) >> 32; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline void __syncthreads() { block_barrier.arrive_and_wait(); }
static inline void atomicXor(unsigned* at, unsigned value) { __atomic_fetch_xor(at, value, __ATOMIC_SEQ_CST); }
static inline unsigned __shfl_xor_sync(unsigned, unsigned value, int lane) {
  std::barrier<>& warp = *warp_barriers[threadIdx.x / 32];
  exchanged[threadIdx.x] = value;
  warp.arrive_and_wait();
  const unsigned other = exchanged[threadIdx.x ^ lane];
  warp.arrive_and_wait();
  return other;
}

#include "../../tiers/hbm/kernels/kernels.cu"

template <typename Run>
static void run_grid(Run run) {
  for (unsigned y = 0; y < gridDim.y; y++)
    for (unsigned x = 0; x < gridDim.x; x++) {
      std::vector<std::thread> threads;
      for (unsigned t = 0; t < 256; t++)
        threads.emplace_back([=] {
          blockIdx = {x, y, 0};
          threadIdx = {t, 0, 0};
          run();
        });
      for (auto& thread : threads) thread.join();
    }
}

static void must_read(void* into, size_t bytes) {
  if (fread(into, 1, bytes, stdin) != bytes) exit(2);
}

int main() {
  uint32_t head[4];
  uint64_t bytes;
  must_read(head, sizeof head);
  must_read(&bytes, sizeof bytes);
  for (int warp = 0; warp < 8; warp++) warp_barriers.push_back(std::make_unique<std::barrier<>>(32));
  gridDim = {head[1], head[2], 1};
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
  if (head[0] == 1)
    run_grid([] { kvtier_checksum(c); });
  else if (s.tiling.unit_bytes == 16)
    run_grid([] { kvtier_shuffle_16(s); });
  else if (s.tiling.unit_bytes == 4)
    run_grid([] { kvtier_shuffle_4(s); });
  else
    run_grid([] { kvtier_shuffle_1(s); });
  return fwrite(memory.get(), 1, bytes, stdout) == bytes ? 0 : 4;
}
