// What kernels.cu needs of CUDA, on the CPU: the 256 threads of a block are fibers of the calling thread, which take turns
// where they wait for each other. Compile with -U_FORTIFY_SOURCE: its check of longjmp does not know fibers.
//
// A barrier is a turn of all fibers, so every thread of a block must reach the same barriers; another order ends the program.
#pragma once

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

struct Dimensions {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace on_cpu {

constexpr unsigned THREADS = 256;
constexpr size_t STACK_BYTES = 64 << 10;

inline thread_local Dimensions block_index, thread_index, grid_size;
inline const Dimensions block_size{THREADS, 1, 1};
inline thread_local unsigned exchanged[THREADS];

// The fibers of one thread of the machine; they outlive the block they run, because making them is slow.
class Block {
 public:
  static Block& own() {
    static thread_local Block block;
    return block;
  }

  void run(const std::function<void()>& body) {
    body_ = &body;
    for (Fiber& fiber : fibers_) fiber.at_barrier = nullptr;
    for (;;) {
      const char* barrier = turn();
      if (barrier == FINISHED) return;
    }
  }

  // Called by a fiber: waits until all of them are here.
  void wait(const char* barrier) {
    fibers_[current_].at_barrier = barrier;
    yield();
  }

 private:
  static constexpr const char* FINISHED = "the end";
  struct Fiber {
    ucontext_t begin;
    jmp_buf at;
    bool begun = false;
    const char* at_barrier = nullptr;
  };

  Block() {
    const int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    stacks_ = mmap(nullptr, STACK_BYTES * THREADS, prot, flags, -1, 0);
    if (stacks_ == MAP_FAILED) abort();
    for (unsigned at = 0; at < THREADS; at++) {
      ucontext_t& begin = fibers_[at].begin;
      getcontext(&begin);
      begin.uc_stack.ss_sp = static_cast<char*>(stacks_) + STACK_BYTES * at;
      begin.uc_stack.ss_size = STACK_BYTES;
      begin.uc_link = nullptr;
      makecontext(&begin, &Block::live, 0);
    }
  }
  ~Block() { munmap(stacks_, STACK_BYTES * THREADS); }

  static void live() {
    for (;;) {
      Block& block = own();
      (*block.body_)();
      block.wait(FINISHED);
    }
  }

  // Lets each fiber go on to its next barrier, which is the same for all.
  const char* turn() {
    for (current_ = 0; current_ < THREADS; current_++) {
      thread_index = {current_, 0, 0};
      Fiber& fiber = fibers_[current_];
      if (_setjmp(scheduler_) == 0) {
        if (fiber.begun) _longjmp(fiber.at, 1);
        fiber.begun = true;
        setcontext(&fiber.begin);
      }
    }
    for (const Fiber& fiber : fibers_)
      if (fiber.at_barrier != fibers_[0].at_barrier) {
        fprintf(stderr, "threads of a block wait at %s and at %s\n", fiber.at_barrier, fibers_[0].at_barrier);
        abort();
      }
    return fibers_[0].at_barrier;
  }

  void yield() {
    if (_setjmp(fibers_[current_].at) == 0) _longjmp(scheduler_, 1);
  }

  Fiber fibers_[THREADS];
  jmp_buf scheduler_;
  void* stacks_;
  const std::function<void()>* body_ = nullptr;
  unsigned current_ = 0;
};

inline constexpr const char* BLOCK_BARRIER = "__syncthreads";
inline constexpr const char* WARP_BARRIER = "__shfl_xor_sync";

// Runs a kernel, block after block.
inline void run_grid(unsigned x, unsigned y, const std::function<void()>& kernel) {
  grid_size = {x, y, 1};
  for (unsigned row = 0; row < y; row++)
    for (unsigned column = 0; column < x; column++) {
      block_index = {column, row, 0};
      Block::own().run(kernel);
    }
}

inline unsigned exchange(unsigned value, int lanes) {
  const unsigned own = thread_index.x;
  exchanged[own] = value;
  Block::own().wait(WARP_BARRIER);
  const unsigned other = exchanged[own ^ lanes];
  Block::own().wait(WARP_BARRIER);
  return other;
}

}  // namespace on_cpu

#define __device__
#define __global__
#define __shared__ static thread_local
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(n)
#define blockIdx on_cpu::block_index
#define threadIdx on_cpu::thread_index
#define gridDim on_cpu::grid_size
#define blockDim on_cpu::block_size

inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t(a) * b) >> 32; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline void __syncthreads() { on_cpu::Block::own().wait(on_cpu::BLOCK_BARRIER); }
inline void atomicXor(unsigned* at, unsigned value) { __atomic_fetch_xor(at, value, __ATOMIC_SEQ_CST); }
inline unsigned __shfl_xor_sync(unsigned, unsigned value, int lanes) { return on_cpu::exchange(value, lanes); }

#include "../../tiers/hbm/kernels/kernels.cu"

#undef blockIdx
#undef threadIdx
#undef gridDim
#undef blockDim
