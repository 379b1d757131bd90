// int8_max_pool2d on CUDA.
#include "cuda/int8_max_pool2d/int8_max_pool2d.h"

#include "bindings/cuda/call.h"
#include "bindings/int8_arguments.h"

namespace cnnkern::cuda {
namespace {

using Ints = std::vector<int64_t>;

Tensor int8_max_pool2d_cuda(const Tensor& x, const Ints& kernel_size, const Ints& stride, const Ints& padding,
                            const Ints& dilation, bool ceil_mode) {
  const Call on(x);
  const Int8MaxPool2dCall call(x, {kernel_size, stride, padding, dilation, ceil_mode});
  if (call.y.numel() > 0) check_launch("int8_max_pool2d", int8_max_pool2d(call.params, on.stream()));
  return call.y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(CNNKERN_CUDA_LIBRARY, CNNKERN_CUDA_KEY, m) {
  m.impl("int8_max_pool2d", TORCH_BOX(&int8_max_pool2d_cuda));
}

}  // namespace cnnkern::cuda
