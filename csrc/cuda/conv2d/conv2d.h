// Dense convolution as an implicit matrix product: C[pixel, channel] = Σ patch[pixel, (i, j, c)]
// weight[channel, (i, j, c)], where the patch matrix is never written, but looked up in the image as its
// tiles are loaded.
//
// A depthwise convolution is computed directly: depthwise.h.
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

// A weight in memory, as rows of channels that are summed over, in elements. The weight (K, C/G, kH, kW) has
// a row for each k; that of the gradient of x one for each input channel, with K/G channels to be summed
// over.
struct WeightLayout {
  int64_t rows, channels, kernel_height, kernel_width;
  int64_t row_stride, channel_stride, tap_strides[2];
  int64_t group_rows, group_stride;  // the rows of a group, and from its first one to the next group's

  // Of the weight itself, and the other way round.
  static WeightLayout forward(const int64_t (&sizes)[4], const int64_t (&strides)[4]) {
    return {sizes[0], sizes[1], sizes[2], sizes[3], strides[0], strides[1], {strides[2], strides[3]},
            sizes[0], 0};
  }
  static WeightLayout transposed(const int64_t (&sizes)[4], const int64_t (&strides)[4], int64_t groups) {
    const int64_t of_group = sizes[0] / groups;
    return {sizes[1] * groups,
            of_group,
            sizes[2],
            sizes[3],
            strides[1],
            strides[0],
            {strides[2], strides[3]},
            sizes[1],
            of_group * strides[0]};
  }
};

// Elements of a packed weight: (rows, kH, kW, channels rounded up to whole chunks of 16 bytes), zeros where
// rounded.
constexpr int64_t conv2d_packed_size(int64_t rows, int64_t channels, int64_t kernel_height,
                                     int64_t kernel_width, int64_t number_bytes) {
  const int64_t chunk = 16 / number_bytes;
  return rows * kernel_height * kernel_width * ((channels + chunk - 1) / chunk * chunk);
}
cudaError_t conv2d_pack(const void* weight, const WeightLayout& layout, int64_t number_bytes, void* packed,
                        cudaStream_t stream);

// float32 values that a call needs, for partial sums.
int64_t conv2d_scratch(const Conv2dShape& shape, Arithmetic arithmetic, const Device& device);
cudaError_t conv2d(const Conv2dCall& call, const Device& device, cudaStream_t stream);
// Leaves the sums, float32 and without the bias, in the scratch, as y would lie; there is no y.
cudaError_t conv2d_sums(const Conv2dCall& call, const Device& device, cudaStream_t stream);

}  // namespace cnnkern::cuda
