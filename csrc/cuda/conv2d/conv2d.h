// Dense convolution as an implicit matrix product: C[pixel, channel] = Σ patch[pixel, (i, j, c)]
// weight[channel, (i, j, c)], where the patch matrix is never written, but looked up in the image as its
// tiles are loaded.
//
// Chetlur et al.: cuDNN: Efficient Primitives for Deep Learning, 2014, section 3.
#pragma once
#include <cuda_runtime.h>

#include "cuda/arithmetic.h"
#include "cuda/launch.h"
#include "params/conv2d.h"

namespace cnnkern::cuda {

struct Conv2dCall {
  Conv2dShape shape;
  Arithmetic arithmetic;
  const void* x;       // dense, in the shape's layout; the caller's, like all below
  const void* packed;  // the weight by conv2d_pack, 16-byte aligned
  const void* bias;    // (K) or null
  void* y;             // dense, in the shape's layout
  float* scratch;      // conv2d_scratch values
  bool relu;
};

// A weight in memory, in elements.
struct WeightLayout {
  int64_t out_channels, group_channels, kernel_height, kernel_width;
  int64_t strides[4];
};

// Elements of a packed weight: (K, kH, kW, C/G rounded up to whole chunks of 16 bytes), zeros where rounded.
constexpr int64_t conv2d_packed_size(int64_t out_channels, int64_t group_channels, int64_t kernel_height,
                                     int64_t kernel_width, int64_t number_bytes) {
  const int64_t chunk = 16 / number_bytes;
  return out_channels * kernel_height * kernel_width * ((group_channels + chunk - 1) / chunk * chunk);
}
cudaError_t conv2d_pack(const void* weight, const WeightLayout& layout, int64_t number_bytes, void* packed,
                        cudaStream_t stream);

// float32 values that a call needs, for partial sums.
int64_t conv2d_scratch(const Conv2dShape& shape, Arithmetic arithmetic, const Device& device);
cudaError_t conv2d(const Conv2dCall& call, const Device& device, cudaStream_t stream);

}  // namespace cnnkern::cuda
