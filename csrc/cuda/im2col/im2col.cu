#include "cuda/im2col/im2col.h"

#include "cuda/launch.h"

namespace cnnkern::cuda {
namespace {

// Neighbouring threads write neighbouring pixels of a row of y.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    copy_patches(const __grid_constant__ Conv2dShape s, int64_t size, const T* x, T* y) {
  const int64_t at = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (at >= size) return;
  int64_t rest = at;
  const auto split_off = [&rest](int64_t extent) {
    const int64_t index = rest % extent;
    rest /= extent;
    return index;
  };
  const int64_t out_x = split_off(s.out_width), out_y = split_off(s.out_height);
  const int64_t j = split_off(s.kernel_width), i = split_off(s.kernel_height);
  const int64_t c = split_off(s.in_channels), n = rest;
  const int64_t in_y = out_y * s.stride_height - s.pad_height + i * s.dilation_height;
  const int64_t in_x = out_x * s.stride_width - s.pad_width + j * s.dilation_width;
  const bool inside = in_y >= 0 && in_y < s.in_height && in_x >= 0 && in_x < s.in_width;
  const int64_t from = s.channels_last ? ((n * s.in_height + in_y) * s.in_width + in_x) * s.in_channels + c
                                       : ((n * s.in_channels + c) * s.in_height + in_y) * s.in_width + in_x;
  y[at] = inside ? x[from] : T{};
}

template <class T>
cudaError_t launch_copy(const Conv2dShape& s, const void* x, void* y, cudaStream_t stream) {
  const int64_t size =
      s.batch * s.in_channels * s.kernel_height * s.kernel_width * s.out_height * s.out_width;
  return launch_elements(copy_patches<T>, size, stream, s, size, static_cast<const T*>(x),
                         static_cast<T*>(y));
}

}  // namespace

cudaError_t im2col(const Conv2dShape& shape, int64_t number_bytes, const void* x, void* y,
                   cudaStream_t stream) {
  return number_bytes == 2 ? launch_copy<uint16_t>(shape, x, y, stream)
                           : launch_copy<uint32_t>(shape, x, y, stream);
}

}  // namespace cnnkern::cuda
