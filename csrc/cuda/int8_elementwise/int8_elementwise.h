// The int8 operations on single elements on CUDA. `size` is at least 1.
#pragma once
#include <cuda_runtime.h>

#include "params/int8_elementwise.h"

namespace cnnkern::cuda {

cudaError_t int8_quantize(const Int8QuantizeParams& params, cudaStream_t stream);
cudaError_t int8_add(const Int8AddParams& params, cudaStream_t stream);

}  // namespace cnnkern::cuda
