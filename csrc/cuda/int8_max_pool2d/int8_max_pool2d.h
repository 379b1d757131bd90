// Max pooling of integers on CUDA. y has at least 1 element, and one image of it fewer than 2^31.
#pragma once
#include <cuda_runtime.h>

#include "params/int8_max_pool2d.h"

namespace cnnkern::cuda {

cudaError_t int8_max_pool2d(const Int8MaxPool2dParams& params, cudaStream_t stream);

}  // namespace cnnkern::cuda
