// int8_max_pool2d on the CPU.
#include "cpu/int8_max_pool2d/int8_max_pool2d.h"

#include <torch/csrc/stable/library.h>

#include "bindings/int8_arguments.h"

namespace cnnkern {
namespace {

Tensor int8_max_pool2d_cpu(const Tensor& x, const std::vector<int64_t>& geometry, bool ceil_mode) {
  const Int8MaxPool2dCall call(x, geometry, ceil_mode);
  if (call.y.numel() == 0) return call.y;
  constexpr double kMultiplyAdds = 2;  // that take as long as a value of x does
  const int64_t threads = threads_for(kMultiplyAdds * static_cast<double>(call.x.tensor.numel()));
  const Tensor scratch = empty_vector(int8_max_pool2d_scratch(call.params, threads), ScalarType::Byte);
  int8_max_pool2d(call.params, data<uint8_t>(scratch), threads);
  return call.y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnkern, CPU, m) { m.impl("int8_max_pool2d", TORCH_BOX(&int8_max_pool2d_cpu)); }

}  // namespace cnnkern
