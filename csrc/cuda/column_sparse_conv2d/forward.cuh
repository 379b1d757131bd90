// The convolution as a product of the patches' kept columns and the packed weight, for any arithmetic.
#pragma once
#include "cuda/column_sparse_conv2d/kept_patches.cuh"
#include "cuda/column_sparse_conv2d/kernels.h"
#include "cuda/gemm/product.cuh"
#include "cuda/gemm/tiles.cuh"

namespace cnnkern::cuda {

template <class Math>
cudaError_t column_sparse_conv2d_forward(const ColumnSparseConv2dCall& call, const Conv2dPlan& plan,
                                         cudaStream_t stream) {
  using Number = typename Math::Number;
  using A = KeptPatches<Number>;
  using B = Matrix<Number>;
  const Conv2dShape& s = call.shape;
  const int64_t n = s.out_channels / s.groups, pixels = s.out_height * s.out_width;
  const PackedColumns packed(s.out_channels, call.kept, s.groups, sizeof(Number));
  const auto* const table = static_cast<const unsigned char*>(call.packed) + packed.table_offset;
  const A patches(s, static_cast<const Number*>(call.x), reinterpret_cast<const KeptColumn*>(table),
                  packed.columns);
  const B weight{static_cast<const Number*>(call.packed), n, patches.chunks};
  Output<Number> output(static_cast<Number*>(call.y), static_cast<const Number*>(call.bias), s.batch, pixels,
                        s.out_channels, s.groups, s.channels_last, false, pixels);
  if (plan.splits > 1) output.partial = call.scratch;
  return with_tile<Math>(plan.tile, [&](auto tile) {
    using Tile = decltype(tile);
    const Cover cover(patches.rows, n, s.groups, plan.tiles, plan.splits, Tile::kM, Tile::kN);
    const Product<A, B, Number> product{patches, weight, output, cover};
    return s.channels_last ? launch_multiply<Tile, KeptColumnRows, CopiedRows>(product, plan.splits, stream)
                           : launch_multiply<Tile, GatheredRows, CopiedRows>(product, plan.splits, stream);
  });
}

}  // namespace cnnkern::cuda
