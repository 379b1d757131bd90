// The core of a matrix product as block_tile.cuh has it, by the instructions of compute capability 9.0: the
// four warps of a warpgroup multiply 64 rows of A with all rows of B together, and read both from shared
// memory themselves.
//
// Tiles lie there as rows.cuh puts them, rows of 128 bytes with their chunks exchanged, which is what PTX
// calls K-major with 128-byte swizzling.
#pragma once
#include "cuda/gemm/block_tile.cuh"

namespace cnnkern::cuda {

// How the instructions are told of a matrix of rows of 32 bytes: the first 32 bytes of the rows of a tile.
// Those that follow are kNextColumns further.
__device__ __forceinline__ uint64_t matrix_descriptor(const unsigned char* tile) {
  constexpr uint64_t kSwizzled128Bytes = 1, kEightRows = 8 * kRowBytes;
  constexpr uint64_t kUnused = 1;  // the step along a row, which never leaves its 128 bytes
  return shared_address(tile) >> 4 | kUnused << 16 | kEightRows >> 4 << 32 | kSwizzled128Bytes << 62;
}
constexpr uint64_t kNextColumns = 32 >> 4;

// A kM x kN tile of C by a warpgroup for each 64 rows, with kSlots tiles of A and B under way.
template <class MathType, int kTileM, int kTileN, int kSlotCount>
struct WarpgroupTile {
  using Math = MathType;
  using Number = typename Math::Number;
  using Sum = typename Math::Sum;
  static constexpr int kM = kTileM, kN = kTileN, kSlots = kSlotCount;
  static constexpr int kGroupRows = 64, kWarpRows = 16;
  static constexpr int kThreads = 32 * (kM / kWarpRows);
  static constexpr int kBlocks = kM == 64 ? 4 : 2;  // by registers, of a multiprocessor
  static constexpr bool kCompiled = kWarpgroupCode;
  static constexpr int kPipelineBytes = kSlots * (kM + kN) * kRowBytes;
  using Sums = WarpTile<Math, kWarpRows, kN>;
  static_assert(kM % kGroupRows == 0 && (kN == 64 || kN == 128),
                "whole warpgroups, and an instruction for kN");

  // See accumulate_tiles.
  template <class A, class B>
  static __device__ __forceinline__ void accumulate(Sums& sums, A& a, B& b, int tiles,
                                                    unsigned char* memory) {
    accumulate_tiles<kSlots>(Products{sums.sums[0]}, a, b, tiles, memory);
  }

  // Calls visit(row, column, value, value of the next column) for this thread's part of the tile.
  template <class Visit>
  static __device__ __forceinline__ void visit(const Sums& sums, const Visit& visit) {
    const int first_row = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
    sums.visit(
        [&](int row, int column, Sum first, Sum second) { visit(first_row + row, column, first, second); });
  }

 private:
  struct Products {
    Sum (&sums)[kN / 8][4];

    __device__ __forceinline__ void publish() const { publish_shared_memory(); }
    // The tensor cores work on while the threads fetch what comes next.
    __device__ __forceinline__ void start(const unsigned char* a, const unsigned char* b) const {
      const int group = static_cast<int>(threadIdx.x) / 128;
      const uint64_t of_a = matrix_descriptor(a + group * kGroupRows * kRowBytes);
      const uint64_t of_b = matrix_descriptor(b);
      begin_products(sums);
#pragma unroll
      for (int step = 0; step < kRowBytes / 32; ++step)
        Math::wgmma(sums, of_a + step * kNextColumns, of_b + step * kNextColumns);
      commit_products();
    }
    __device__ __forceinline__ void finish(const unsigned char*, const unsigned char*) const {
      wait_for_products(sums);
    }
  };
};

}  // namespace cnnkern::cuda
