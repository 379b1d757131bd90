// The gradients of both depthwise factors of a CP convolution.
#pragma once
#include "cuda/cp_conv2d/backward_plan.h"
#include "cuda/cp_conv2d/stages.cuh"

namespace cnnkern::cuda {

template <class T>
struct CpTapsArguments {
  CpStages<T, ForwardAxis> stages;
  Image<T> grad;
  Matrix<T> factor_k;                          // transposed, (R, K/G)
  ForwardAxis grad_vertical, grad_horizontal;  // the outputs of a tile themselves
  Output<T> h, w;                              // (R, kH) and (R, kW); no memory where not asked for
  Divider by_rank_tiles, by_groups;
  int tiles, split_tiles;  // of positions
};

// Adds the products of the gradient of stage 3 with the rows of `met` that row_of(y, x) names to the sums of
// one tap: of `height` x `width` outputs of a tile with rows of `pitch`. A warp does this alone.
template <class T, class RowOf>
__device__ __forceinline__ void add_products(const StageRows<T>& grad3, const StageRows<T>& met, int height,
                                             int width, int pitch, float* sums, const RowOf& row_of) {
  float of_tile[Word<T>::kNumbers] = {};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      const Word<T> left = grad3.word(y * pitch + x), right = met.word(row_of(y, x));
#pragma unroll
      for (int i = 0; i < Word<T>::kNumbers; ++i)
        of_tile[i] = fmaf(left.number(i), right.number(i), of_tile[i]);
    }
#pragma unroll
  for (int i = 0; i < Word<T>::kNumbers; ++i)
    sums[static_cast<int>(threadIdx.x) % 32 * Word<T>::kNumbers + i] += of_tile[i];
}

template <class T>
__device__ __forceinline__ void store_sum(const Output<T>& output, int split, int64_t at, float sum) {
  if (output.partial)
    output.partial[split * output.size() + at] = sum;
  else
    output.y[at] = from_float<T>(sum);
}

// Both factors' sums of one tile of positions.
template <class Math, template <class, int, int> class Rows, class T>
__device__ __forceinline__ void add_tile(const CpTapsArguments<T>& a, const CpTile& tile, int group,
                                         int first_rank, unsigned char* memory, const float* taps,
                                         float* sums) {
  const CpStages<T, ForwardAxis>& s = a.stages;
  const Halo<T, ForwardAxis> halo = s.halo(tile, group);
  const Halo<T, ForwardAxis> outputs{a.grad.of_group(group), a.grad.data, tile.image,
                                     a.grad_vertical.of_tile(tile.y), a.grad_horizontal.of_tile(tile.x)};
  const int kernel_height = halo.vertical.taps, kernel_width = halo.horizontal.taps;
  const int pitch = s.tiles.width, columns = halo.horizontal.size;
  unsigned char* const pipeline = memory + s.memory.pipeline;
  const StageRows<T> grad3{memory}, stage1{memory + s.memory.stage1}, vertical_first{pipeline},
      horizontal_first{pipeline + s.tiles.height * columns * StageRows<T>::kPitch};

  run_stage1<Math, Rows>(halo, s.factor.of_group(group), first_rank, pipeline, stage1);
  run_stage1<Math, Rows>(outputs, a.factor_k.of_group(group), first_rank, pipeline, grad3);
  __syncthreads();
  if (a.w.y) sum_vertically<T>(halo.vertical, s.tiles.height, halo.horizontal, stage1, vertical_first, taps);
  if (a.h.y)
    sum_horizontally<T>(halo.horizontal, halo.vertical.size, s.tiles, stage1, horizontal_first,
                        taps + kernel_height * kRowElements<T>);
  __syncthreads();
  const int height = min(s.tiles.height, a.grad.height - tile.y);
  const int width = min(s.tiles.width, a.grad.width - tile.x);
  for (int i = threadIdx.x / 32; i < kernel_height + kernel_width; i += kCpThreads / 32) {
    float* const of_tap = sums + i * kRowElements<T>;
    const int tap = i < kernel_height ? i : i - kernel_height;
    if (i < kernel_height && a.h.y)
      add_products<T>(grad3, horizontal_first, height, width, pitch, of_tap,
                      [&](int y, int x) { return halo.vertical.position(y, tap) * pitch + x; });
    if (i >= kernel_height && a.w.y)
      add_products<T>(grad3, vertical_first, height, width, pitch, of_tap,
                      [&](int y, int x) { return y * columns + halo.horizontal.position(x, tap); });
  }
  __syncthreads();  // the pipeline is free
}

template <class Math, template <class, int, int> class Rows>
__global__ void __launch_bounds__(kCpThreads, 1)
    cp_backward_taps(const __grid_constant__ CpTapsArguments<typename Math::Number> a) {
  using T = typename Math::Number;
  const CpStages<T, ForwardAxis>& s = a.stages;
  unsigned char* const memory = shared_memory();
  const int kernel_height = s.vertical.taps, kernel_width = s.horizontal.taps;
  const int count = (kernel_height + kernel_width) * kRowElements<T>;
  auto* const taps = reinterpret_cast<float*>(memory + s.memory.taps);
  float* const sums = taps + count;
  int rank_tile, group;
  const int rest = a.by_rank_tiles.divide(static_cast<int>(blockIdx.x), rank_tile);
  const int split = a.by_groups.divide(rest, group);
  const int first_rank = rank_tile * kRowElements<T>;

  load_taps(s, group, first_rank, taps);
  for (int i = threadIdx.x; i < count; i += kCpThreads) sums[i] = 0;
  const int end = min((split + 1) * a.split_tiles, a.tiles);
  for (int i = split * a.split_tiles; i < end; ++i)
    add_tile<Math, Rows>(a, s.tiles.tile(i), group, first_rank, memory, taps, sums);
  for (int i = threadIdx.x; i < count; i += kCpThreads) {
    const int tap = i / kRowElements<T>, rank = first_rank + i % kRowElements<T>;
    if (rank >= s.group_rank) continue;
    const int64_t row = int64_t{group} * s.group_rank + rank;
    if (tap < kernel_height && a.h.y) store_sum(a.h, split, row * kernel_height + tap, sums[i]);
    if (tap >= kernel_height && a.w.y)
      store_sum(a.w, split, row * kernel_width + tap - kernel_height, sums[i]);
  }
}

template <class Math>
cudaError_t launch_cp_taps(const CpConv2dBackwardCall& call, const Device& device, cudaStream_t stream) {
  using T = typename Math::Number;
  const Conv2dShape& s = call.shape;
  const CpSumPlan<ForwardAxis> plan = plan_cp_taps(s, call.rank, sizeof(T), device);
  if (!plan.fits) return cudaErrorInvalidConfiguration;
  const auto factor = [&](void* to, int64_t taps) {
    return Output<T>(static_cast<T*>(to), nullptr, 1, taps, call.rank, 1, false, false, 1);
  };
  Output<T> h = factor(call.grad_h, s.kernel_height), w = factor(call.grad_w, s.kernel_width);
  if (plan.splits > 1) h.partial = call.scratch, w.partial = call.scratch + plan.splits * h.size();
  const Image<T> grad(static_cast<const T*>(call.grad), s.out_channels, s.out_height, s.out_width, s.groups,
                      s.channels_last);
  const CpTapsArguments<T> arguments{
      CpStages<T, ForwardAxis>(s, call.rank, call.x, call.packed, plan, plan.memory),
      grad,
      {static_cast<const T*>(call.reversed), call.rank / s.groups, grad.tap_chunks()},
      ForwardAxis(plan.tile_height, 1, 1, 1, 0),
      ForwardAxis(plan.tile_width, 1, 1, 1, 0),
      h,
      w,
      Divider(plan.rank_tiles),
      Divider(s.groups),
      static_cast<int>(plan.tiles),
      static_cast<int>(plan.split_tiles),
  };
  const auto run = [&](auto* kernel) {
    return launch(kernel, plan.blocks(s), kCpThreads, plan.memory.size, stream, arguments);
  };
  const bool pieces = arguments.stages.image.in_pieces() && grad.in_pieces();
  cudaError_t error =
      pieces ? run(cp_backward_taps<Math, CopiedRows>) : run(cp_backward_taps<Math, GatheredRows>);
  for (const Output<T>* output : {&h, &w})
    if (error == cudaSuccess && output->y && plan.splits > 1)
      error = launch_add_partial_sums(*output, plan.splits, stream);
  return error;
}

}  // namespace cnnkern::cuda
