// Perforated convolution as an implicit matrix product whose rows are the kept outputs of all images. How
// many these are only the GPU knows: there are blocks for all outputs, and those that are left over have
// nothing to multiply. A block writes what it computed to every output that shows it: the interpolation is a
// part of the product's epilogue, or of the sum of its parts, and no pass over y comes after it.
//
// Figurnov, Ibraimova, Vetrov, Kohli: PerforatedCNNs: Acceleration through Elimination of Redundant
// Convolutions, NIPS 2016.
#pragma once
#include <cuda_runtime.h>

#include "cuda/arithmetic.h"
#include "cuda/launch.h"
#include "params/conv2d.h"

namespace cnnkern::cuda {

// Masks (masks, height, width).
struct Masks {
  int64_t masks, height, width;
  __host__ __device__ int64_t area() const { return height * width; }
};

// For each position of each mask, the nearest kept one, itself where it is kept; -1 where none is kept, or,
// unless `nearest`, where it is not kept itself. Of several at the same distance it is the one in the highest
// row, and there the leftmost. `scratch` has masks * area values where `nearest`.
cudaError_t perforated_conv2d_sources(const Masks& size, const uint8_t* mask, bool nearest, int32_t* sources,
                                      int32_t* scratch, cudaStream_t stream);

// Writes `arranged` (masks, 2, area), which is what the kernels go by: first the positions, one kept output
// and those that show it after the other, the kept one first, and at the end the complements (~) of those
// that show zero; then where each kept output's begin among them, filled up with the complement of how many
// are kept. `scratch` has masks * 2 * area values.
cudaError_t perforated_conv2d_arrange(const Masks& size, const int32_t* sources, int32_t* arranged,
                                      int32_t* scratch, cudaStream_t stream);

// `arranged` for all images, or one for each.
struct Arranged {
  const int32_t* arrays;  // (masks, 2, oH * oW); whatever they hold, nothing beyond the images is touched
  bool each_image;        // masks is N, else 1
};

struct PerforatedConv2dCall {
  Conv2dShape shape;
  Arithmetic arithmetic;
  Arranged arranged;
  const void* x;       // dense, in the shape's layout; the caller's, like all below
  const void* packed;  // the weight by conv2d_pack, 16-byte aligned
  const void* bias;    // (K) or null
  void* y;             // dense, in the shape's layout
  float* scratch;      // perforated_conv2d_scratch values
  int64_t* begin;      // N + 1 values where each image has a mask
};

// float32 values that a call needs, for partial sums.
int64_t perforated_conv2d_scratch(const Conv2dShape& shape, Arithmetic arithmetic, const Device& device);
cudaError_t perforated_conv2d(const PerforatedConv2dCall& call, const Device& device, cudaStream_t stream);

// The gradient of the interpolation: of the kept outputs from that of all, zero for the others. `grad` and
// `folded` are dense in the shape's layout.
cudaError_t perforated_conv2d_fold(const Conv2dShape& shape, Arithmetic arithmetic, const Arranged& arranged,
                                   const void* grad, void* folded, cudaStream_t stream);

}  // namespace cnnkern::cuda
