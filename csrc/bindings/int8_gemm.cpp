// int8_gemm and int8_linear on the CPU, with their packed forms: convolutions with 1 x 1 kernels of an image
// that has a row of A, or of x, for each pixel.
#include <torch/csrc/stable/library.h>

#include "bindings/int8.h"

namespace cnnkern {
namespace {

// `b` (n, k, 1, 1) of a matrix whose element (k, n) lies at b_k * k + b_n * n.
Tensor pack_matrix(const char* name, const Tensor& b, int64_t k, int64_t n, int64_t b_k, int64_t b_n) {
  check_int8_weight(name, b, 2);
  check(k > 0 && n > 0, name, ": expected at least 1 along every axis");
  check_sum(name, k);
  const Int8Weight weight = Int8Weight::matrices(n, k, 1);
  Tensor packed = empty_vector(int8_packing(weight).size, ScalarType::Char);
  const int64_t stride[] = {b_n, b_k, 0, 0};
  int8_conv2d_pack(const_data<int8_t>(b), stride, weight, data<int8_t>(packed),
                   threads_for(static_cast<double>(k * n)));
  return packed;
}

Tensor int8_gemm_pack(const Tensor& b) {
  check(b.dim() == 2, "b: expected 2 dimensions (k, n), got ", b.dim());
  return pack_matrix("b", b, b.size(0), b.size(1), b.stride(0), b.stride(1));
}

Tensor int8_gemm_packed(const Tensor& a, const Tensor& packed, int64_t n, int64_t a_zero_point) {
  check(a.dim() == 2, "a: expected 2 dimensions (m, k), got ", a.dim());
  check_activations("a", a, a_zero_point);
  check_int8_weight("packed", packed, 1);
  const Conv2dShape shape = shape_of_rows(a.size(0), a.size(1), n);
  check_packed(packed, int8_packing(Int8Weight::of(shape, nullptr)).size);
  const Tensor y = empty_tensor({a.size(0), n}, {n, 1}, ScalarType::Int);
  run_int8_sums(torch::stable::contiguous(a), shape, packed, a_zero_point, y);
  return y;
}

Tensor int8_gemm(const Tensor& a, const Tensor& b, int64_t a_zero_point) {
  check(a.dim() == 2, "a: expected 2 dimensions (m, k), got ", a.dim());
  const Tensor packed = int8_gemm_pack(b);
  check_size("b", b, 0, a.size(1));
  return int8_gemm_packed(a, packed, b.size(1), a_zero_point);
}

Tensor linear(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
              const Int8Quantization& q, bool relu) {
  check_activations("x", x, q.x_zero_point);
  const auto [shape, sizes, strides] = int8_rows(x, q.weight_scale.dim() == 1 ? q.weight_scale.size(0) : 0);
  check_packed(packed, int8_packing(Int8Weight::of(shape, nullptr)).size);
  const Tensor y = empty_tensor(sizes, strides, int8_output_type(x, q.out_scale));
  run_int8(torch::stable::contiguous(x), shape, nullptr, packed, bias, q, relu, y);
  return y;
}

Tensor int8_linear_packed(const Tensor& x, const Tensor& packed, const std::optional<Tensor>& bias,
                          const Tensor& weight_scale, double x_scale, int64_t x_zero_point,
                          const std::optional<double>& out_scale, int64_t out_zero_point, bool relu) {
  check_int8_weight("packed", packed, 1);
  return linear(x, packed, bias, {weight_scale, x_scale, x_zero_point, out_scale, out_zero_point}, relu);
}

Tensor int8_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                   const Tensor& weight_scale, double x_scale, int64_t x_zero_point,
                   const std::optional<double>& out_scale, int64_t out_zero_point, bool relu) {
  check_int8_weight("weight", weight, 2);
  check(x.dim() > 0 && x.size(x.dim() - 1) == weight.size(1), "x: expected ", weight.size(1),
        " elements in the last dimension");
  const Tensor packed =
      pack_matrix("weight", weight, weight.size(1), weight.size(0), weight.stride(1), weight.stride(0));
  return linear(x, packed, bias, {weight_scale, x_scale, x_zero_point, out_scale, out_zero_point}, relu);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnkern, CPU, m) {
  m.impl("int8_gemm", TORCH_BOX(&int8_gemm));
  m.impl("int8_gemm_pack", TORCH_BOX(&int8_gemm_pack));
  m.impl("int8_gemm_packed", TORCH_BOX(&int8_gemm_packed));
  m.impl("int8_linear", TORCH_BOX(&int8_linear));
  m.impl("int8_linear_packed", TORCH_BOX(&int8_linear_packed));
}

}  // namespace cnnkern
