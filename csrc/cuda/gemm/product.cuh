// A matrix product of two sources as one kernel: groups, tiles of C and parts of k over the blocks.
#pragma once
#include "cuda/gemm/output.cuh"

namespace cnnkern::cuda {

// Which part of which group's C a block computes. Neighbouring blocks share rows of A.
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
};

// Of two sources of numbers T.
template <class A, class B, class T, class Out = Output<T>>
struct Product {
  A a;
  B b;
  Out output;
  Cover cover;
};

template <class Tile, class Out>
constexpr int kTileBytes =
    Tile::kPipelineBytes > kStagedBytes<Tile, Out> ? Tile::kPipelineBytes : kStagedBytes<Tile, Out>;

template <class Tile, template <class, int, int> class RowsOfA, template <class, int, int> class RowsOfB,
          class A, class B, class Out>
__global__ void __launch_bounds__(Tile::kThreads)
    multiply(const __grid_constant__ Product<A, B, typename Tile::Number, Out> product) {
  const Cover& cover = product.cover;
  const auto& output = product.output;
  int n_tile, m_tile, split;
  int rest = cover.by_n_tiles.divide(static_cast<int>(blockIdx.x), n_tile);
  rest = cover.by_m_tiles.divide(rest, m_tile);
  const int group = cover.by_splits.divide(rest, split);
  const int64_t first_row = int64_t{m_tile} * Tile::kM;
  const int first_column = n_tile * Tile::kN, first_tile = split * cover.split_tiles;
  const int tiles = min(cover.split_tiles, cover.tiles - first_tile);

  const A of_a = product.a.of_group(group);
  const B of_b = product.b.of_group(group);
  RowsOfA<A, Tile::kM, Tile::kThreads> a(of_a, first_row, first_tile * kChunks);
  RowsOfB<B, Tile::kN, Tile::kThreads> b(of_b, first_column, first_tile * kChunks);
  typename Tile::Sums sums;
  Tile::accumulate(sums, a, b, tiles, shared_memory());

  const int64_t first_image = first_row / output.pixels;
  const auto first_pixel = static_cast<int>(first_row - first_image * output.pixels);
  const auto offset_of = [&](int row) {
    if (first_row + row >= cover.rows) return kNowhere;
    int pixel;
    const int64_t image = first_image + output.by_pixels.divide(first_pixel + row, pixel);
    return output.offset(image, pixel);
  };
  store_tile<Tile>(sums, output, first_column, group, split, offset_of,
                   reinterpret_cast<typename Tile::Sum*>(shared_memory()));
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
