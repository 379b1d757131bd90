// Fused CP convolution: 1x1, kH x 1 depthwise, 1 x kW depthwise, 1x1 in one kernel.
//
// A block computes a tile of output positions. For 128 bytes of ranks at a time, the first 1x1 runs over the
// tile with its halo, into shared memory, and the two depthwise stages there; what they leave stays there for
// all ranks of the block, and is the left factor of the last product. No intermediate map reaches global
// memory. Where the ranks exceed a block's shared memory, or the tiles do not fill the GPU, the ranks are
// split over blocks, whose partial sums of the output are added in their order.
//
// Lebedev et al.: Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition, ICLR 2015.
#pragma once
#include <cuda_runtime.h>

#include <limits>

#include "cuda/arithmetic.h"
#include "cuda/launch.h"
#include "params/conv2d.h"

namespace cnnkern::cuda {

struct CpConv2dCall {
  Conv2dShape shape;  // of the convolution that the four stages stand for
  int64_t rank;       // R, of all groups together
  Arithmetic arithmetic;
  const void* x;       // dense, in the shape's layout; the caller's, like all below
  const void* packed;  // the factors by cp_conv2d_pack, 16-byte aligned
  const void* bias;    // (K) or null
  void* y;             // dense, in the shape's layout
  float* scratch;      // cp_conv2d_scratch values
};

// A factor in memory, strides in elements. Rows of the next group may begin elsewhere: those of a transposed
// factor do.
struct FactorLayout {
  const void* data;
  int64_t strides[2];
  int64_t group_rows = std::numeric_limits<int64_t>::max(), group_stride = 0;
};

// Where the packed factors lie, in elements; each begins on 16 bytes.
struct PackedFactors {
  int64_t channel_pitch;  // C/G in whole chunks: factor_c is (R, channel_pitch)
  int64_t rank_pitch;     // R/G in whole chunks: factor_k is (K, rank_pitch)
  int64_t h, w, k;        // factor_c begins at 0
  int64_t size;

  constexpr PackedFactors(int64_t out_channels, int64_t rank, int64_t group_channels, int64_t kernel_height,
                          int64_t kernel_width, int64_t groups, int64_t number_bytes)
      : channel_pitch(in_chunks(group_channels, number_bytes)),
        rank_pitch(in_chunks(rank / groups, number_bytes)),
        h(rank * channel_pitch),
        w(h + in_chunks(rank * kernel_height, number_bytes)),
        k(w + in_chunks(rank * kernel_width, number_bytes)),
        size(k + out_channels * rank_pitch) {}

 private:
  static constexpr int64_t in_chunks(int64_t elements, int64_t number_bytes) {
    const int64_t chunk = 16 / number_bytes;
    return (elements + chunk - 1) / chunk * chunk;
  }
};

struct CpPackCall {
  FactorLayout c, h, w, k;  // (R, C/G), (R, kH), (R, kW), (K, R/G)
  int64_t out_channels, rank, group_channels, kernel_height, kernel_width, groups;
  int64_t number_bytes;
  void* packed;
};
cudaError_t cp_conv2d_pack(const CpPackCall& call, cudaStream_t stream);

// Whether one output position with its halo fits into a block's shared memory.
bool cp_conv2d_fits(const Conv2dShape& shape, int64_t rank, Arithmetic arithmetic, const Device& device);
// float32 values that a call needs, for partial sums.
int64_t cp_conv2d_scratch(const Conv2dShape& shape, int64_t rank, Arithmetic arithmetic,
                          const Device& device);
cudaError_t cp_conv2d(const CpConv2dCall& call, const Device& device, cudaStream_t stream);

}  // namespace cnnkern::cuda
