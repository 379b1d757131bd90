// int8_quantize and int8_add on the CPU.
#include "cpu/int8_elementwise/int8_elementwise.h"

#include <torch/csrc/stable/library.h>

#include "bindings/int8_arguments.h"

namespace cnnkern {
namespace {

int64_t threads_for_elements(int64_t elements) {
  constexpr double kMultiplyAdds = 10;  // that take as long as an element does
  return threads_for(kMultiplyAdds * static_cast<double>(elements));
}

Tensor int8_quantize_cpu(const Tensor& x, double scale, int64_t zero_point, ScalarType dtype) {
  const Int8QuantizeCall call(x, {scale, zero_point}, dtype);
  int8_quantize(call.params, threads_for_elements(call.params.size));
  return call.y;
}

Tensor int8_add_cpu(const Tensor& a, const Tensor& b, double a_scale, int64_t a_zero_point, double b_scale,
                    int64_t b_zero_point, double out_scale, int64_t out_zero_point, bool relu) {
  const Int8AddCall call(a, {a_scale, a_zero_point}, b, {b_scale, b_zero_point}, {out_scale, out_zero_point},
                         relu);
  int8_add(call.params, threads_for_elements(call.params.size));
  return call.y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnkern, CPU, m) {
  m.impl("int8_quantize", TORCH_BOX(&int8_quantize_cpu));
  m.impl("int8_add", TORCH_BOX(&int8_add_cpu));
}

}  // namespace cnnkern
