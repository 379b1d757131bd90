#include "cuda/conv2d/conv2d.h"

#include "cuda/conv2d/depthwise.h"
#include "cuda/conv2d/kernels.h"

namespace cnnkern::cuda {
namespace {

// T has the size of the numbers: nothing is computed with them, and zero bits are a zero.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    pack(const T* weight, const __grid_constant__ WeightLayout from, int64_t rounded_channels, int64_t size,
         T* packed) {
  const int64_t i = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (i >= size) return;
  const int64_t c = i % rounded_channels, tap = i / rounded_channels;
  const int64_t x = tap % from.kernel_width, y = tap / from.kernel_width % from.kernel_height;
  const int64_t row = tap / from.kernel_width / from.kernel_height;
  const int64_t first = row / from.group_rows * from.group_stride + row % from.group_rows * from.row_stride;
  packed[i] =
      c < from.channels
          ? weight[first + c * from.channel_stride + y * from.tap_strides[0] + x * from.tap_strides[1]]
          : T{};
}

template <class T>
cudaError_t launch_pack(const void* weight, const WeightLayout& from, void* packed, cudaStream_t stream) {
  const int64_t size =
      conv2d_packed_size(from.rows, from.channels, from.kernel_height, from.kernel_width, sizeof(T));
  return launch_elements(pack<T>, size, stream, static_cast<const T*>(weight), from,
                         rounded_up(from.channels, 16 / sizeof(T)), size, static_cast<T*>(packed));
}

}  // namespace

cudaError_t conv2d_pack(const void* weight, const WeightLayout& layout, int64_t number_bytes, void* packed,
                        cudaStream_t stream) {
  switch (number_bytes) {
    case 1:
      return launch_pack<uint8_t>(weight, layout, packed, stream);
    case 2:
      return launch_pack<uint16_t>(weight, layout, packed, stream);
    default:
      return launch_pack<uint32_t>(weight, layout, packed, stream);
  }
}

int64_t conv2d_scratch(const Conv2dShape& shape, Arithmetic arithmetic, const Device& device) {
  if (plan_depthwise(shape, arithmetic, device).fits) return 0;
  const Conv2dPlan plan = plan_conv2d(shape, arithmetic, device);
  const int64_t size = shape.batch * shape.out_channels * shape.out_height * shape.out_width;
  return plan.splits > 1 ? plan.splits * size : 0;
}

namespace {

cudaError_t run(const Conv2dCall& call, const Conv2dPlan& plan, cudaStream_t stream) {
  switch (call.arithmetic) {
    case Arithmetic::kFloat32:
      return conv2d_float32(call, plan, stream);
    case Arithmetic::kTf32:
      return conv2d_tf32(call, plan, stream);
    case Arithmetic::kFloat16:
      return conv2d_float16(call, plan, stream);
    case Arithmetic::kBfloat16:
      return conv2d_bfloat16(call, plan, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t conv2d(const Conv2dCall& call, const Device& device, cudaStream_t stream) {
  const DepthwisePlan direct = plan_depthwise(call.shape, call.arithmetic, device);
  if (direct.fits) return conv2d_depthwise(call, direct, stream);
  return run(call, plan_conv2d(call.shape, call.arithmetic, device), stream);
}

cudaError_t conv2d_sums(const Conv2dCall& call, const Device& device, cudaStream_t stream) {
  Conv2dPlan plan = plan_conv2d(call.shape, call.arithmetic, device);
  plan.splits = 1;
  return run(call, plan, stream);
}

}  // namespace cnnkern::cuda
