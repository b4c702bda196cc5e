// The kernels of the HBM tier. `make/kernels.sh` compiles them to kernels.ptx, which is committed and embedded; the
// arithmetic is that of src/layout/tiling.rs and src/checksum.rs, which the simulated device runs.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define BLOCKS_MAX 128
#define SURFACES_MAX 128
#define SPANS_MAX 128

// Divisor in layout/divisor.rs.
struct Divisor {
  u32 multiplier;
  u32 shift;
};

// Tiling in layout/tiling.rs.
struct Tiling {
  u32 unit_bytes, run_units, tile_units, lanes_log2, tile_count, tiles_per_run;
  u32 count2, count1, count0, surface_count;
  Divisor by_tiles_per_run, by_count2, by_count1, by_count0, by_surface_count;
};

// ShuffleArguments in cuda/arguments.rs. Kernel arguments may take 4096 bytes.
struct Shuffle {
  Tiling tiling;
  u32 first_surface;
  u32 scatter;
  u64 stride0, stride1, stride2;
  u64 run_bytes, surface_bytes, block_stride;
  u64 surfaces[SURFACES_MAX];   // address of block 0
  u64 canonical[BLOCKS_MAX];    // address of the block's first canonical byte
  u64 numbers[BLOCKS_MAX];
};
static_assert(sizeof(Shuffle) <= 4096, "kernel arguments take at most 4096 bytes");

// ChecksumArguments in cuda/arguments.rs.
struct Checksum {
  u64 tables;                   // 16 x 256 raw16, 4 x 256 past_row, 32 powers
  u64 results;                  // one word per span, zeroed before
  u64 spans[SPANS_MAX];
  u32 bytes[SPANS_MAX];
};

__device__ __forceinline__ u32 divide(u32 number, Divisor by) {
  return (__umulhi(number, by.multiplier) + number) >> by.shift;
}

template <typename Unit>
__device__ __forceinline__ void copy_tile(Unit* to, const Unit* from, u32 units, u32 lane, u32 lanes) {
  u32 at = lane;
  // Four loads under way before the first store.
  for (; at + 3 * lanes < units; at += 4 * lanes) {
    Unit a = from[at], b = from[at + lanes], c = from[at + 2 * lanes], d = from[at + 3 * lanes];
    to[at] = a;
    to[at + lanes] = b;
    to[at + 2 * lanes] = c;
    to[at + 3 * lanes] = d;
  }
  for (; at < units; at += lanes) to[at] = from[at];
}

template <typename Unit>
__device__ __forceinline__ void shuffle(const Shuffle& s) {
  const Tiling& t = s.tiling;
  const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
  const u32 lanes = 1u << t.lanes_log2;
  const u32 lane = thread & (lanes - 1);
  const u32 groups = (gridDim.x * blockDim.x) >> t.lanes_log2;
  for (u32 tile = thread >> t.lanes_log2; tile < t.tile_count; tile += groups) {
    u32 run = divide(tile, t.by_tiles_per_run);
    const u32 part = tile - run * t.tiles_per_run;
    u32 rest = divide(run, t.by_count2);
    const u32 at2 = run - rest * t.count2;
    u32 next = divide(rest, t.by_count1);
    const u32 at1 = rest - next * t.count1;
    rest = divide(next, t.by_count0);
    const u32 at0 = next - rest * t.count0;
    const u32 block = divide(rest, t.by_surface_count);
    const u32 surface = rest - block * t.surface_count;
    const u32 first_unit = part * t.tile_units;
    const u64 inside = (u64)first_unit * sizeof(Unit);
    const u64 worker = s.surfaces[surface] + s.numbers[block] * s.block_stride + at0 * s.stride0 + at1 * s.stride1 +
                       at2 * s.stride2 + inside;
    const u32 run_of_surface = (at0 * t.count1 + at1) * t.count2 + at2;
    const u64 canonical = s.canonical[block] + (u64)(s.first_surface + surface) * s.surface_bytes +
                          run_of_surface * s.run_bytes + inside;
    const u32 units = min(t.run_units - first_unit, t.tile_units);
    if (s.scatter)
      copy_tile((Unit*)worker, (const Unit*)canonical, units, lane, lanes);
    else
      copy_tile((Unit*)canonical, (const Unit*)worker, units, lane, lanes);
  }
}

extern "C" __global__ void __launch_bounds__(256) kvtier_shuffle_16(const __grid_constant__ Shuffle s) { shuffle<uint4>(s); }
extern "C" __global__ void __launch_bounds__(256) kvtier_shuffle_4(const __grid_constant__ Shuffle s) { shuffle<u32>(s); }
extern "C" __global__ void __launch_bounds__(256) kvtier_shuffle_1(const __grid_constant__ Shuffle s) { shuffle<u8>(s); }

#define POLYNOMIAL 0xedb88320u
#define ROW_BYTES 512u
#define PIECE_ROWS 32u
#define TABLES 20

__device__ __forceinline__ u32 multiply(u32 left, u32 right) {
  u32 product = 0;
#pragma unroll
  for (int bit = 31; bit >= 0; bit--) {
    product ^= (left >> bit & 1) ? right : 0;
    right = (right >> 1) ^ ((right & 1) ? POLYNOMIAL : 0);
  }
  return product;
}

__device__ __forceinline__ u32 advance(u32 state, u32 bytes, const u32* powers) {
  for (int bit = 0; bytes >> bit; bit++) {
    if (bytes >> bit & 1) state = multiply(state, powers[bit]);
    if (bit == 31) break;
  }
  return state;
}

__device__ __forceinline__ u32 raw4(const u32* tables, u32 word, int place) {
  return tables[place * 256 + (word & 255)] ^ tables[(place + 1) * 256 + (word >> 8 & 255)] ^
         tables[(place + 2) * 256 + (word >> 16 & 255)] ^ tables[(place + 3) * 256 + (word >> 24)];
}

// One span per blockIdx.y; the warps of blockIdx.x share its pieces. 256 threads.
extern "C" __global__ void __launch_bounds__(256) kvtier_checksum(const __grid_constant__ Checksum c) {
  __shared__ u32 tables[TABLES * 256 + 32];
  const u32* given = (const u32*)c.tables;
  for (u32 at = threadIdx.x; at < TABLES * 256 + 32; at += blockDim.x) tables[at] = given[at];
  __syncthreads();
  const u32* powers = tables + TABLES * 256;

  const u8* span = (const u8*)c.spans[blockIdx.y];
  const u32 length = c.bytes[blockIdx.y];
  const u32 rows = length / ROW_BYTES;
  const u32 pieces = (rows + PIECE_ROWS - 1) / PIECE_ROWS;
  const u32 lane = threadIdx.x & 31;
  const u32 warps = gridDim.x * (blockDim.x >> 5);
  u32 raw = 0;
  for (u32 piece = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); piece < pieces; piece += warps) {
    const u32 first = piece * PIECE_ROWS;
    const u32 end = min(first + PIECE_ROWS, rows);
    u32 state = 0;
    for (u32 row = first; row < end; row++) {
      const uint4 w = *(const uint4*)(span + (u64)row * ROW_BYTES + lane * 16);
      const u32 past = raw4(tables + 16 * 256, state, 0);
      state = past ^ raw4(tables, w.x, 0) ^ raw4(tables, w.y, 4) ^ raw4(tables, w.z, 8) ^ raw4(tables, w.w, 12);
    }
    raw ^= advance(state, length - ((end - 1) * ROW_BYTES + lane * 16 + 16), powers);
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    u32 state = 0;
    for (u32 at = rows * ROW_BYTES; at < length; at++) {
      state ^= span[at];
      for (int bit = 0; bit < 8; bit++) state = (state >> 1) ^ ((state & 1) ? POLYNOMIAL : 0);
    }
    raw ^= state;
  }
  for (int step = 16; step > 0; step >>= 1) raw ^= __shfl_xor_sync(0xffffffffu, raw, step);
  if (lane == 0 && raw != 0) atomicXor((u32*)c.results + blockIdx.y, raw);
}
