// The gradients of x and of the weight as products, for any arithmetic.
#pragma once
#include "cuda/conv2d/backward.h"
#include "cuda/conv2d/gradient_sources.cuh"
#include "cuda/conv2d/plan.h"
#include "cuda/gemm/product.cuh"
#include "cuda/gemm/tiles.cuh"

namespace cnnkern::cuda {

template <class Math>
cudaError_t conv2d_backward_input(const Conv2dBackwardCall& call, const Device& device, cudaStream_t stream) {
  using Number = typename Math::Number;
  using A = GradientPatches<Number>;
  using B = Matrix<Number>;
  const Conv2dShape& s = call.shape;
  const int64_t n = s.in_channels / s.groups, pixels = s.in_height * s.in_width;
  const A patches(s, static_cast<const Number*>(call.grad));
  const B weight{static_cast<const Number*>(call.packed), n, patches.chunks(s)};
  const Conv2dPlan plan = plan_backward_input(s, call.arithmetic, device);
  Output<Number> output(static_cast<Number*>(call.grad_x), nullptr, s.batch, pixels, s.in_channels, s.groups,
                        s.channels_last, false, pixels);
  if (plan.splits > 1) output.partial = call.scratch;
  return with_tile<Math>(plan.tile, [&](auto tile) {
    using Tile = decltype(tile);
    const Cover cover(patches.rows, n, s.groups, plan.tiles, plan.splits, Tile::kM, Tile::kN);
    const Product<A, B, Number> product{patches, weight, output, cover};
    return patches.image.in_pieces()
               ? launch_multiply<Tile, CopiedRows, CopiedRows>(product, plan.splits, stream)
               : launch_multiply<Tile, GatheredRows, CopiedRows>(product, plan.splits, stream);
  });
}

template <class Math>
cudaError_t conv2d_backward_weight(const Conv2dBackwardCall& call, const Device& device,
                                   cudaStream_t stream) {
  using Number = typename Math::Number;
  using Rows = PixelRows<Number>;
  const Conv2dShape& s = call.shape;
  const Rows grad = Rows::of_gradient(s, static_cast<const Number*>(call.grad));
  Rows x = Rows::of_input(s, static_cast<const Number*>(call.x));
  if (call.kept.index) x.keep(call.kept);
  const Conv2dPlan plan = plan_backward_weight(s, call.columns(), call.arithmetic, device);
  Output<Number> output(static_cast<Number*>(call.grad_weight), nullptr, 1, s.out_channels, x.rows, 1, true,
                        false, 1);
  output.group_stride = grad.rows * x.rows;
  if (plan.splits > 1) output.partial = call.scratch;
  return with_tile<Math>(plan.tile, [&](auto tile) {
    using Tile = decltype(tile);
    const Cover cover(grad.rows, x.rows, s.groups, plan.tiles, plan.splits, Tile::kM, Tile::kN);
    const Product<Rows, Rows, Number> product{grad, x, output, cover};
    return launch_multiply<Tile, GatheredRows, GatheredRows>(product, plan.splits, stream);
  });
}

// The two one after the other on the stream: they may have the same scratch.
template <class Math>
cudaError_t conv2d_backward_products(const Conv2dBackwardCall& call, const Device& device,
                                     cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  if (call.grad_x) error = conv2d_backward_input<Math>(call, device, stream);
  if (error == cudaSuccess && call.grad_weight) error = conv2d_backward_weight<Math>(call, device, stream);
  return error;
}

}  // namespace cnnkern::cuda
