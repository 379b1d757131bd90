// The convolution as a product of patches and packed weights, for any arithmetic.
#pragma once
#include "cuda/conv2d/kernels.h"
#include "cuda/conv2d/patches.cuh"
#include "cuda/gemm/product.cuh"
#include "cuda/gemm/tiles.cuh"

namespace cnnkern::cuda {

// `patches` of an image times the rows of packed weights.
template <class Math, class A, class B, class Out>
cudaError_t multiply_patches(const A& patches, const B& weight, const Out& output, int64_t groups,
                             const Conv2dPlan& plan, cudaStream_t stream) {
  return with_tile<Math>(plan.tile, plan.core, [&](auto tile) {
    using Tile = decltype(tile);
    const Cover cover(patches.rows, weight.rows, groups, plan.tiles, plan.splits, Tile::kM, Tile::kN);
    const Product<A, B, typename Math::Number, Out> product{patches, weight, output, cover};
    return patches.image.in_pieces()
               ? launch_multiply<Tile, CopiedRows, CopiedRows>(product, plan.splits, stream)
               : launch_multiply<Tile, GatheredRows, CopiedRows>(product, plan.splits, stream);
  });
}

template <class Math>
cudaError_t conv2d_forward(const Conv2dCall& call, const Conv2dPlan& plan, cudaStream_t stream) {
  using Number = typename Math::Number;
  const Conv2dShape& s = call.shape;
  const int64_t n = s.out_channels / s.groups, pixels = s.out_height * s.out_width;
  const Patches<Number> patches(s, static_cast<const Number*>(call.x));
  const Matrix<Number> weight{static_cast<const Number*>(call.packed), n, patches.chunks(s)};
  Output<Number> output(static_cast<Number*>(call.y), static_cast<const Number*>(call.bias), s.batch, pixels,
                        s.out_channels, s.groups, s.channels_last, call.relu, pixels);
  if (plan.splits > 1 || !call.y) output.partial = call.scratch;
  return multiply_patches<Math>(patches, weight, output, s.groups, plan, stream);
}

}  // namespace cnnkern::cuda
