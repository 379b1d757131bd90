// The core of every matrix product here: C[m, n] = Σ_k A[m, k] B[n, k] for a tile of C that one block
// computes.
//
// Tiles of A and B come through a ring of slots in shared memory, some steps ahead of the arithmetic; each
// warp holds a part of C in registers. What A and B are, and how they are loaded, is the loaders' business
// (rows.cuh); what becomes of C is the caller's.
#pragma once
#include "cuda/gemm/rows.cuh"
#include "cuda/numbers.cuh"

namespace cnnkern::cuda {

// The part of C that one warp computes. Each 16 x 8 fragment lies in the lanes as mma.sync has it: lane i
// holds the columns 2·(i % 4) and the next of the rows i / 4 and i / 4 + 8. FFMA keeps to the same places.
template <class Math, int kRows, int kColumns>
struct WarpTile {
  static_assert(kRows % 16 == 0 && kColumns % 16 == 0, "whole fragments, and pairs of them along n");

  typename Math::Sum sums[kRows / 16][kColumns / 8][4] = {};

  // Adds the product of one tile of A, from row `row` on, and one of B, from row `column` on.
  __device__ __forceinline__ void multiply(const unsigned char* a, int row, const unsigned char* b,
                                           int column) {
    if constexpr (Math::kTensorCores) {
#pragma unroll
      for (int step = 0; step < kRowBytes / 32; ++step) multiply_fragments(a, row, b, column, step);
    } else {
#pragma unroll 1  // two at once would take more registers than there are for kBlocks
      for (int chunk = 0; chunk < kChunks; ++chunk) multiply_chunks(a, row, b, column, chunk);
    }
  }

  // Calls visit(row, column, value, value of the next column).
  template <class Visit>
  __device__ __forceinline__ void visit(const Visit& visit) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i)
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          visit(16 * i + 8 * half + lane / 4, 8 * j + 2 * (lane % 4), sums[i][j][2 * half],
                sums[i][j][2 * half + 1]);
  }

 private:
  __device__ __forceinline__ void multiply_fragments(const unsigned char* a, int row, const unsigned char* b,
                                                     int column, int step) {
    const int lane = threadIdx.x % 32;
    uint32_t of_a[kRows / 16][4], of_b[kColumns / 16][4];
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i)
      load_matrices(of_a[i], a + swizzled(row + 16 * i + lane % 16, 2 * step + lane / 16));
#pragma unroll
    for (int j = 0; j < kColumns / 16; ++j)
      load_matrices(of_b[j],
                    b + swizzled(column + 16 * j + lane / 16 * 8 + lane % 8, 2 * step + lane / 8 % 2));
#pragma unroll
    for (int i = 0; i < kRows / 16; ++i)
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j)
        Math::mma(sums[i][j], of_a[i], of_b[j / 2][j % 2 * 2], of_b[j / 2][j % 2 * 2 + 1]);
  }

  __device__ __forceinline__ void multiply_chunks(const unsigned char* a, int row, const unsigned char* b,
                                                  int column, int chunk) {
    const int lane = threadIdx.x % 32;
    float4 of_a[kRows / 8];
#pragma unroll
    for (int i = 0; i < kRows / 8; ++i)
      of_a[i] = *reinterpret_cast<const float4*>(a + swizzled(row + 8 * i + lane / 4, chunk));
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j)
#pragma unroll
      for (int next = 0; next < 2; ++next) {
        const float4 of_b =
            *reinterpret_cast<const float4*>(b + swizzled(column + 8 * j + 2 * (lane % 4) + next, chunk));
#pragma unroll
        for (int i = 0; i < kRows / 8; ++i) {
          float& sum = sums[i / 2][j][i % 2 * 2 + next];
          sum = fmaf(of_a[i].x, of_b.x, sum);
          sum = fmaf(of_a[i].y, of_b.y, sum);
          sum = fmaf(of_a[i].z, of_b.z, sum);
          sum = fmaf(of_a[i].w, of_b.w, sum);
        }
      }
  }
};

// Adds the products of `tiles` tiles of A and B, which come through a ring of kSlots slots of A::kBytes +
// B::kBytes in `memory`. Nobody may be reading it, and nobody is when this returns. `products` has
//   publish()      before the barrier after which other threads read what this one placed
//   start(a, b)    the product of two tiles, before the next ones are fetched, and
//   finish(a, b)   the rest of it, after that
template <int kSlots, class Products, class A, class B>
__device__ __forceinline__ void accumulate_tiles(const Products& products, A& a, B& b, int tiles,
                                                 unsigned char* memory) {
  constexpr int kSlotBytes = A::kBytes + B::kBytes;
  const auto slot_of = [&](int tile) { return memory + tile % kSlots * kSlotBytes; };
#pragma unroll 1  // two at once would take more registers
  for (int tile = 0; tile < kSlots - 1; ++tile) {
    if (tile < tiles) {
      unsigned char* const slot = slot_of(tile);
      a.fetch(tile, slot);
      b.fetch(tile, slot + A::kBytes);
      a.place(slot);
      b.place(slot + A::kBytes);
    }
    commit_copies();
  }
  for (int tile = 0; tile < tiles; ++tile) {
    wait_for_copies<kSlots - 2>();
    products.publish();
    __syncthreads();  // this tile is there for all threads, and the slot to be filled next has been read
    const unsigned char* const slot = slot_of(tile);
    const unsigned char *const of_a = a.tile(tile, slot), *const of_b = b.tile(tile, slot + A::kBytes);
    products.start(of_a, of_b);
    const int ahead = tile + kSlots - 1;
    unsigned char* const filled = slot_of(ahead);
    if (ahead < tiles) {
      a.fetch(ahead, filled);
      b.fetch(ahead, filled + A::kBytes);
    }
    products.finish(of_a, of_b);
    if (ahead < tiles) {
      a.place(filled);
      b.place(filled + A::kBytes);
    }
    commit_copies();
  }
  wait_for_copies<0>();
  __syncthreads();  // the slots may be used for something else
}

// A kM x kN tile of C by kWarpsM x kWarpsN warps, with kSlots tiles of A and B under way.
template <class MathType, int kTileM, int kTileN, int kWarpsM, int kWarpsN, int kSlotCount>
struct BlockTile {
  using Math = MathType;
  using Number = typename Math::Number;
  using Sum = typename Math::Sum;
  static constexpr int kM = kTileM, kN = kTileN, kSlots = kSlotCount;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  // That a multiprocessor is meant to hold, by its registers. Bytes take more of them to be gathered.
  static constexpr int kSmallBlocks = sizeof(Number) == 1 ? 3 : 4;
  static constexpr int kBlocks = kM * kN == 64 * 64 ? kSmallBlocks : kM * kN == 128 * 64 ? 2 : 1;
  static constexpr bool kCompiled = true;  // for the GPU at hand
  static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN;
  static constexpr int kPipelineBytes = kSlots * (kM + kN) * kRowBytes;
  using Sums = WarpTile<Math, kWarpM, kWarpN>;

  static __device__ __forceinline__ int warp_row() {
    return static_cast<int>(threadIdx.x) / 32 / kWarpsN * kWarpM;
  }
  static __device__ __forceinline__ int warp_column() {
    return static_cast<int>(threadIdx.x) / 32 % kWarpsN * kWarpN;
  }

  // See accumulate_tiles.
  template <class A, class B>
  static __device__ __forceinline__ void accumulate(Sums& sums, A& a, B& b, int tiles,
                                                    unsigned char* memory) {
    accumulate_tiles<kSlots>(Products{sums}, a, b, tiles, memory);
  }

  // Calls visit(row, column, value, value of the next column) for this thread's part of the tile.
  template <class Visit>
  static __device__ __forceinline__ void visit(const Sums& sums, const Visit& visit) {
    sums.visit([&](int row, int column, Sum first, Sum second) {
      visit(warp_row() + row, warp_column() + column, first, second);
    });
  }

 private:
  struct Products {
    Sums& sums;

    __device__ __forceinline__ void publish() const {}
    __device__ __forceinline__ void start(const unsigned char*, const unsigned char*) const {}
    __device__ __forceinline__ void finish(const unsigned char* a, const unsigned char* b) const {
      sums.multiply(a, warp_row(), b, warp_column());
    }
  };
};

}  // namespace cnnkern::cuda
