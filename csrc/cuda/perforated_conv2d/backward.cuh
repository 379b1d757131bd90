// The gradient of the weight as a product over kept outputs, for any arithmetic.
#pragma once
#include "cuda/conv2d/gradient_sources.cuh"
#include "cuda/gemm/product.cuh"
#include "cuda/gemm/tiles.cuh"
#include "cuda/perforated_conv2d/backward.h"
#include "cuda/perforated_conv2d/kept_outputs.cuh"

namespace cnnkern::cuda {

// Rows as PixelRows has them, with the kept outputs one after the other in place of all.
template <class T>
struct KeptPixelRows : PixelRows<T> {
  const KeptPlace* places;

  using typename PixelRows<T>::Row;
  using Column = const KeptPlace*;  // of the chunk's first element

  KeptPixelRows(const PixelRows<T>& rows, const KeptPlace* places) : PixelRows<T>(rows), places(places) {}

  __device__ KeptPixelRows of_group(int group) const {
    KeptPixelRows other = *this;
    other.image = this->image.of_group(group);
    return other;
  }
  __device__ Column column(int chunk) const { return places + int64_t{chunk} * kChunkElements<T>; }
  __device__ uint4 gather(const Row& row, Column column) const {
    union {
      uint4 chunk;
      T numbers[kChunkElements<T>];
    } gathered;
    gathered.chunk = make_uint4(0, 0, 0, 0);
    if (!row.image) return gathered.chunk;
#pragma unroll
    for (int i = 0; i < kChunkElements<T>; ++i) {
      const KeptPlace place = column[i];
      if (place.image < 0) break;
      const T* const found =
          this->image.find({row.image + place.image * this->image.image_stride, row.y, row.x},
                           place.y * this->stride_height, place.x * this->stride_width, 0);
      if (found) gathered.numbers[i] = *found;
    }
    return gathered.chunk;
  }
};

template <class T>
struct KeptPixelsProduct {
  KeptPixelRows<T> a, b;
  KeptRows kept;
  Output<T> output;
  Cover cover;
  int splits;
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    multiply_kept_pixels(const __grid_constant__ KeptPixelsProduct<typename Tile::Number> product) {
  constexpr int kTerms = kRowElements<typename Tile::Number>;
  Part part = product.cover.template part<Tile>(static_cast<int>(blockIdx.x));
  const auto tiles = static_cast<int>((product.kept.count() + kTerms - 1) / kTerms);
  const int of_split = (tiles + product.splits - 1) / product.splits;
  part.first_tile = min(tiles, part.split * of_split);
  part.tiles = min(of_split, tiles - part.first_tile);
  typename Tile::Sums sums;
  accumulate<Tile, GatheredRows, GatheredRows>(sums, product.a, product.b, part);
  const auto offset_of = [&](int row) {
    const int64_t channel = part.first_row + row;
    return channel < product.cover.rows ? product.output.offset(0, channel) : kNowhere;
  };
  store_tile<Tile>(sums, product.output, part.first_column, part.group, part.split, offset_of,
                   reinterpret_cast<float*>(shared_memory()));
}

template <class Math>
cudaError_t perforated_conv2d_backward_weight(const PerforatedBackwardCall& call, const Conv2dPlan& plan,
                                              cudaStream_t stream) {
  using Number = typename Math::Number;
  const Conv2dShape& s = call.shape;
  const KeptPixelRows<Number> grad(PixelRows<Number>::of_gradient(s, static_cast<const Number*>(call.folded)),
                                   call.places);
  const KeptPixelRows<Number> x(PixelRows<Number>::of_input(s, static_cast<const Number*>(call.x)),
                                call.places);
  const KeptRows kept(s, call.arranged, call.arranged.each_image ? call.begin : nullptr);
  Output<Number> output(static_cast<Number*>(call.grad_weight), nullptr, 1, s.out_channels, x.rows, 1, true,
                        false, 1);
  output.group_stride = grad.rows * x.rows;
  if (plan.splits > 1) output.partial = call.scratch;
  const cudaError_t error = with_tile<Math>(plan.tile, [&](auto tile) {
    using Tile = decltype(tile);
    const Cover cover(grad.rows, x.rows, s.groups, plan.tiles, plan.splits, Tile::kM, Tile::kN);
    const KeptPixelsProduct<Number> product{grad, x, kept, output, cover, static_cast<int>(plan.splits)};
    return launch(multiply_kept_pixels<Tile>, cover.blocks, Tile::kThreads, kTileBytes<Tile>, stream,
                  product);
  });
  if (error != cudaSuccess || plan.splits == 1) return error;
  return launch_add_partial_sums(output, plan.splits, stream);
}

}  // namespace cnnkern::cuda
