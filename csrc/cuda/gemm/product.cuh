// A matrix product of two sources as one kernel: groups, tiles of C and parts of k over the blocks.
#pragma once
#include "cuda/gemm/output.cuh"

namespace cnnkern::cuda {

// What a block computes: a tile of a group's C, or its sum over some tiles along k.
struct Part {
  int64_t first_row;
  int first_column, group, split, first_tile, tiles;
};

// Which part of C a block computes. Neighbouring blocks share rows of A.
struct Cover {
  int64_t blocks;
  int64_t rows;            // of C
  int tiles, split_tiles;  // along k: all, and of one block
  Divider by_n_tiles, by_m_tiles, by_splits;

  // C is m x n in each group, and k has `tiles` tiles.
  Cover(int64_t m, int64_t n, int64_t groups, int64_t tiles, int64_t splits, int tile_m, int tile_n)
      : blocks(((m + tile_m - 1) / tile_m) * ((n + tile_n - 1) / tile_n) * groups * splits),
        rows(m),
        tiles(static_cast<int>(tiles)),
        split_tiles(static_cast<int>((tiles + splits - 1) / splits)),
        by_n_tiles((n + tile_n - 1) / tile_n),
        by_m_tiles((m + tile_m - 1) / tile_m),
        by_splits(splits) {}

  template <class Tile>
  __device__ __forceinline__ Part part(int block) const {
    int n_tile, m_tile, split;
    const int rest = by_m_tiles.divide(by_n_tiles.divide(block, n_tile), m_tile);
    const int group = by_splits.divide(rest, split), first_tile = split * split_tiles;
    return {int64_t{m_tile} * Tile::kM,          n_tile * Tile::kN, group, split, first_tile,
            min(split_tiles, tiles - first_tile)};
  }
};

// Of two sources of numbers T.
template <class A, class B, class T, class Out = Output<T>>
struct Product {
  A a;
  B b;
  Out output;
  Cover cover;
};

template <class Tile, class Out = Output<float>>
constexpr int kTileBytes =
    Tile::kPipelineBytes > kStagedBytes<Tile, Out> ? Tile::kPipelineBytes : kStagedBytes<Tile, Out>;

// Adds the product of a part's rows of A and B to `sums`.
template <class Tile, template <class, int, int> class RowsOfA, template <class, int, int> class RowsOfB,
          class A, class B>
__device__ __forceinline__ void accumulate(typename Tile::Sums& sums, const A& a, const B& b,
                                           const Part& part) {
  const A of_a = a.of_group(part.group);
  const B of_b = b.of_group(part.group);
  RowsOfA<A, Tile::kM, Tile::kThreads> rows_of_a(of_a, part.first_row, part.first_tile * kChunks);
  RowsOfB<B, Tile::kN, Tile::kThreads> rows_of_b(of_b, part.first_column, part.first_tile * kChunks);
  Tile::accumulate(sums, rows_of_a, rows_of_b, part.tiles, shared_memory());
}

template <class Tile, template <class, int, int> class RowsOfA, template <class, int, int> class RowsOfB,
          class A, class B, class Out>
__device__ __forceinline__ void multiply_part(const Product<A, B, typename Tile::Number, Out>& product) {
  const auto& output = product.output;
  const Part part = product.cover.template part<Tile>(static_cast<int>(blockIdx.x));
  typename Tile::Sums sums;
  accumulate<Tile, RowsOfA, RowsOfB>(sums, product.a, product.b, part);

  const int64_t first_image = part.first_row / output.pixels;
  const auto first_pixel = static_cast<int>(part.first_row - first_image * output.pixels);
  const auto offset_of = [&](int row) {
    if (part.first_row + row >= product.cover.rows) return kNowhere;
    int pixel;
    const int64_t image = first_image + output.by_pixels.divide(first_pixel + row, pixel);
    return output.offset(image, pixel);
  };
  store_tile<Tile>(sums, output, part.first_column, part.group, part.split, offset_of,
                   reinterpret_cast<typename Tile::Sum*>(shared_memory()));
}

template <class Tile, template <class, int, int> class RowsOfA, template <class, int, int> class RowsOfB,
          class A, class B, class Out>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    multiply(const __grid_constant__ Product<A, B, typename Tile::Number, Out> product) {
  if constexpr (Tile::kCompiled)
    multiply_part<Tile, RowsOfA, RowsOfB>(product);
  else
    __trap();  // the host never asks for it
}

template <class Tile, template <class, int, int> class RowsOfA, template <class, int, int> class RowsOfB,
          class A, class B, class Out>
cudaError_t launch_multiply(const Product<A, B, typename Tile::Number, Out>& product, int64_t splits,
                            cudaStream_t stream) {
  const cudaError_t error = launch(multiply<Tile, RowsOfA, RowsOfB, A, B, Out>, product.cover.blocks,
                                   Tile::kThreads, kTileBytes<Tile, Out>, stream, product);
  if (error != cudaSuccess || splits == 1) return error;
  return launch_add_partial_sums(product.output, splits, stream);
}

}  // namespace cnnkern::cuda
