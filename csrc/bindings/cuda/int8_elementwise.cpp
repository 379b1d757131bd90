// int8_quantize and int8_add on CUDA.
#include "cuda/int8_elementwise/int8_elementwise.h"

#include "bindings/cuda/call.h"
#include "bindings/int8_arguments.h"

namespace cnnkern::cuda {
namespace {

Tensor int8_quantize_cuda(const Tensor& x, double scale, int64_t zero_point, ScalarType dtype) {
  const Call on(x);
  const Int8QuantizeCall call(x, {scale, zero_point}, dtype);
  if (call.params.size > 0) check_launch("int8_quantize", int8_quantize(call.params, on.stream()));
  return call.y;
}

Tensor int8_add_cuda(const Tensor& a, const Tensor& b, double a_scale, int64_t a_zero_point, double b_scale,
                     int64_t b_zero_point, double out_scale, int64_t out_zero_point, bool relu) {
  const Call on(a);
  const Int8AddCall call(a, {a_scale, a_zero_point}, b, {b_scale, b_zero_point}, {out_scale, out_zero_point},
                         relu);
  if (call.params.size > 0) check_launch("int8_add", int8_add(call.params, on.stream()));
  return call.y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(CNNKERN_CUDA_LIBRARY, CNNKERN_CUDA_KEY, m) {
  m.impl("int8_quantize", TORCH_BOX(&int8_quantize_cuda));
  m.impl("int8_add", TORCH_BOX(&int8_add_cuda));
}

}  // namespace cnnkern::cuda
