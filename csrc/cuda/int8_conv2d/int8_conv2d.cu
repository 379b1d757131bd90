#include "cuda/int8_conv2d/int8_conv2d.h"

#include "cuda/device.cuh"
#include "cuda/int8_conv2d/kernels.h"

namespace cnnkern::cuda {
namespace {

// A warp for each output channel.
__global__ void __launch_bounds__(kElementThreads)
    sum_weights(const int8_t* weight, const __grid_constant__ WeightLayout from, int32_t* sums) {
  const int64_t row = (int64_t{blockIdx.x} * kElementThreads + threadIdx.x) / 32;
  if (row >= from.rows) return;
  const auto width = static_cast<int>(from.kernel_width), taps = static_cast<int>(from.kernel_height) * width;
  const int8_t* const of_row = weight + row * from.row_stride;
  int32_t sum = 0;
  for (int i = threadIdx.x % 32; i < static_cast<int>(from.channels) * taps; i += 32)
    sum += of_row[i / taps * from.channel_stride + i % taps / width * from.tap_strides[0] +
                  i % width * from.tap_strides[1]];
  sum = sum_of_warp(sum);
  if (threadIdx.x % 32 == 0) sums[row] = sum;
}

}  // namespace

cudaError_t int8_conv2d_pack(const int8_t* weight, const int64_t (&sizes)[4], const int64_t (&strides)[4],
                             int64_t groups, int8_t* packed, cudaStream_t stream) {
  const Int8Packing packing(sizes[0], sizes[1], sizes[2], sizes[3], groups);
  const WeightLayout rows = WeightLayout::forward(sizes, strides);
  if (packing.depthwise) {
    WeightLayout taps = rows;  // one row, along which the output channels lie
    taps.rows = taps.group_rows = 1;
    taps.channels = sizes[0];
    taps.channel_stride = strides[0];
    return conv2d_pack(weight, taps, 1, packed, stream);
  }
  if (const cudaError_t error = conv2d_pack(weight, rows, 1, packed, stream)) return error;
  return launch_elements(sum_weights, rows.rows * 32, stream, weight, rows,
                         reinterpret_cast<int32_t*>(packed + packing.sums));
}

int64_t int8_conv2d_scratch(const Conv2dShape& shape, const Device& device) {
  if (is_depthwise(shape)) return 0;
  const Conv2dPlan plan = plan_conv2d(shape, 1, device);
  const int64_t size = shape.batch * shape.out_channels * shape.out_height * shape.out_width;
  return plan.splits > 1 ? plan.splits * size : 0;
}

cudaError_t int8_conv2d(const Int8Conv2dParams& params, const Device& device, cudaStream_t stream) {
  const Conv2dPlan plan = plan_conv2d(params.shape, 1, device);
  return params.x_signed ? int8_conv2d_int8(params, plan, stream) : int8_conv2d_uint8(params, plan, stream);
}

}  // namespace cnnkern::cuda
