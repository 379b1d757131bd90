// The patch matrix of an image, written out: what the convolution never does.
#pragma once
#include <cuda_runtime.h>

#include "params/conv2d.h"

namespace cnnkern::cuda {

// x: dense, in the shape's layout; y: (N, C·kH·kW, oH·oW). Numbers of 2 or 4 bytes, which are copied as they
// are.
cudaError_t im2col(const Conv2dShape& shape, int64_t number_bytes, const void* x, void* y,
                   cudaStream_t stream);

}  // namespace cnnkern::cuda
