// int8_max_pool2d on CUDA.
#include "cuda/int8_max_pool2d/int8_max_pool2d.h"

#include "bindings/cuda/call.h"
#include "bindings/int8_arguments.h"

namespace cnnkern::cuda {
namespace {

Tensor int8_max_pool2d_cuda(const Tensor& x, const std::vector<int64_t>& geometry, bool ceil_mode) {
  const Call on(x);
  const Int8MaxPool2dCall call(x, geometry, ceil_mode);
  if (call.y.numel() > 0) check_launch("int8_max_pool2d", int8_max_pool2d(call.params, on.stream()));
  return call.y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(CNNKERN_CUDA_LIBRARY, CNNKERN_CUDA_KEY, m) {
  m.impl("int8_max_pool2d", TORCH_BOX(&int8_max_pool2d_cuda));
}

}  // namespace cnnkern::cuda
