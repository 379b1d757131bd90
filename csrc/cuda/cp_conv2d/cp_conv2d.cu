#include "cuda/cp_conv2d/cp_conv2d.h"

#include "cuda/cp_conv2d/kernels.h"

namespace cnnkern::cuda {
namespace {

// T has the size of the numbers: nothing is computed with them, and zero bits are a zero.
template <class T>
__device__ T element_of(const FactorLayout& factor, int64_t row, int64_t column) {
  const int64_t first =
      row / factor.group_rows * factor.group_stride + row % factor.group_rows * factor.strides[0];
  return static_cast<const T*>(factor.data)[first + column * factor.strides[1]];
}

template <class T>
__global__ void __launch_bounds__(kElementThreads)
    pack(const __grid_constant__ CpPackCall call, const __grid_constant__ PackedFactors to) {
  const int64_t i = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (i >= to.size) return;
  const int64_t group_rank = call.rank / call.groups;
  T value{};
  if (i < to.h) {
    const int64_t c = i % to.channel_pitch;
    if (c < call.group_channels) value = element_of<T>(call.c, i / to.channel_pitch, c);
  } else if (i < to.w) {
    const int64_t at = i - to.h;
    if (at < call.rank * call.kernel_height)
      value = element_of<T>(call.h, at / call.kernel_height, at % call.kernel_height);
  } else if (i < to.k) {
    const int64_t at = i - to.w;
    if (at < call.rank * call.kernel_width)
      value = element_of<T>(call.w, at / call.kernel_width, at % call.kernel_width);
  } else {
    const int64_t at = i - to.k, r = at % to.rank_pitch;
    if (r < group_rank) value = element_of<T>(call.k, at / to.rank_pitch, r);
  }
  static_cast<T*>(call.packed)[i] = value;
}

CpForwardPlan plan_of(const Conv2dShape& shape, int64_t rank, Arithmetic arithmetic, const Device& device) {
  return plan_cp_conv2d<ForwardAxis>(shape, rank, bytes_of(arithmetic), device);
}

}  // namespace

cudaError_t cp_conv2d_pack(const CpPackCall& call, cudaStream_t stream) {
  const PackedFactors to(call.out_channels, call.rank, call.group_channels, call.kernel_height,
                         call.kernel_width, call.groups, call.number_bytes);
  return launch_elements(call.number_bytes == 2 ? pack<uint16_t> : pack<uint32_t>, to.size, stream, call, to);
}

bool cp_conv2d_fits(const Conv2dShape& shape, int64_t rank, Arithmetic arithmetic, const Device& device) {
  return plan_of(shape, rank, arithmetic, device).fits;
}

int64_t cp_conv2d_scratch(const Conv2dShape& shape, int64_t rank, Arithmetic arithmetic,
                          const Device& device) {
  const CpForwardPlan plan = plan_of(shape, rank, arithmetic, device);
  const int64_t size = shape.batch * shape.out_channels * shape.out_height * shape.out_width;
  return plan.splits > 1 ? plan.splits * size : 0;
}

cudaError_t cp_conv2d(const CpConv2dCall& call, const Device& device, cudaStream_t stream) {
  const CpForwardPlan plan = plan_of(call.shape, call.rank, call.arithmetic, device);
  if (!plan.fits) return cudaErrorInvalidConfiguration;
  switch (call.arithmetic) {
    case Arithmetic::kFloat32:
      return cp_conv2d_float32(call, plan, stream);
    case Arithmetic::kTf32:
      return cp_conv2d_tf32(call, plan, stream);
    case Arithmetic::kFloat16:
      return cp_conv2d_float16(call, plan, stream);
    case Arithmetic::kBfloat16:
      return cp_conv2d_bfloat16(call, plan, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace cnnkern::cuda
