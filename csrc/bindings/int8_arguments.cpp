// See int8_arguments.h.
#include "bindings/int8_arguments.h"

#include <algorithm>
#include <cmath>

namespace cnnkern {
namespace {

bool is_int8(ScalarType dtype) { return dtype == ScalarType::Byte || dtype == ScalarType::Char; }

void check_zero_point(const char* name, bool is_signed, int64_t value) {
  const int64_t least = is_signed ? -128 : 0;
  check(value >= least && value <= least + 255, name, ": expected ", least, " to ", least + 255, ", got ",
        value);
}

void check_grid(const std::string& of, const Int8Grid& grid, ScalarType dtype) {
  check_scale((of + "scale").c_str(), grid.scale);
  check_zero_point((of + "zero_point").c_str(), dtype == ScalarType::Char, grid.zero_point);
}

// Of one axis: each second number, and as many windows as torch counts.
PoolAxis pool_axis(const int64_t* geometry, int64_t in, bool ceil_mode) {
  PoolAxis axis{in, 0, geometry[0], geometry[2], geometry[4], geometry[6]};
  check(axis.pad <= axis.kernel / 2, "padding: expected at most half of the kernel, ", axis.kernel / 2,
        ", got ", axis.pad);
  const int64_t room = in + 2 * axis.pad - axis.dilation * (axis.kernel - 1) - 1;
  const int64_t all = room + (ceil_mode ? axis.stride - 1 : 0);
  check(all >= 0, "x: the kernel covers ", in + 2 * axis.pad - room, " values, the padded input has ",
        in + 2 * axis.pad);
  axis.out = all / axis.stride + 1;
  // none begins in the padding behind the image
  if (ceil_mode && (axis.out - 1) * axis.stride >= in + axis.pad) --axis.out;
  return axis;
}

}  // namespace

void check_scale(const char* name, double value) {
  check(value > 0 && std::isfinite(value), name, ": expected a positive number, got ", value);
}

void check_activations(const char* name, const Tensor& x, int64_t zero_point) {
  check(x.is_cpu() || x.is_cuda(), name, ": expected a tensor on the CPU or on a GPU");
  check(is_int8(x.scalar_type()), name, ": expected uint8 or int8");
  check_zero_point("zero point", x.scalar_type() == ScalarType::Char, zero_point);
}

void check_int8_weight(const char* name, const Tensor& weight, int64_t dims) {
  check(weight.dim() == dims, name, ": expected ", dims, " dimensions, got ", weight.dim());
  check(weight.scalar_type() == ScalarType::Char, name, ": expected int8");
}

void check_sum(const char* name, int64_t length) {
  check(length <= kInt8LongestSum, name, ": expected sums of at most ", kInt8LongestSum,
        " products, which cannot leave 32 bits, got ", length);
}

void check_quantization(const Tensor& x, const Int8Quantization& q, int64_t out_channels) {
  check_scale("x_scale", q.x_scale);
  check(q.weight_scale.dim() == 1 && q.weight_scale.scalar_type() == ScalarType::Float &&
            on_same_device(q.weight_scale, x),
        "weight_scale: expected float32 of 1 dimension on the device of x");
  check_size("weight_scale", q.weight_scale, 0, out_channels);
  if (!q.out_scale) return;
  check_scale("out_scale", *q.out_scale);
  check_zero_point("out_zero_point", x.scalar_type() == ScalarType::Char, q.out_zero_point);
}

Conv2dShape shape_of_rows(int64_t m, int64_t k, int64_t n) {
  check(k > 0 && n > 0, "expected at least 1 column and 1 row of weights, got ", n, " and ", k);
  check_sum("k", k);
  return {1, k, m, 1, n, m, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, true};
}

Int8Rows int8_rows(const Tensor& x, int64_t n) {
  check(x.dim() > 0, "x: expected at least 1 dimension (..., C), got 0");
  std::vector<int64_t> sizes, strides(static_cast<size_t>(x.dim()));
  int64_t rows = 1;
  for (int64_t d = 0; d + 1 < x.dim(); ++d) {
    sizes.push_back(x.size(d));
    rows *= x.size(d);
  }
  sizes.push_back(n);
  int64_t step = 1;
  for (size_t d = sizes.size(); d-- > 0; step *= std::max<int64_t>(1, sizes[d])) strides[d] = step;
  return {shape_of_rows(rows, x.size(x.dim() - 1), n), std::move(sizes), std::move(strides)};
}

Int8QuantizeCall::Int8QuantizeCall(const Tensor& x_given, const Int8Grid& grid, ScalarType dtype)
    : x(x_given) {
  check(x.is_cpu() || x.is_cuda(), "x: expected a tensor on the CPU or on a GPU");
  check(x.scalar_type() == ScalarType::Float, "x: expected float32");
  check(is_int8(dtype), "dtype: expected uint8 or int8");
  check_grid("", grid, dtype);
  x = as_filled(x);
  y = empty_alike(x, dtype);
  params = {const_data<float>(x),
            data<uint8_t>(y),
            x.numel(),
            static_cast<float>(grid.scale),
            static_cast<int32_t>(grid.zero_point),
            dtype == ScalarType::Char};
}

Int8AddCall::Int8AddCall(const Tensor& a_given, const Int8Grid& a_grid, const Tensor& b_given,
                         const Int8Grid& b_grid, const Int8Grid& out_grid, bool relu)
    : a(a_given), b(b_given) {
  const ScalarType dtype = a.scalar_type();
  check(a.is_cpu() || a.is_cuda(), "a: expected a tensor on the CPU or on a GPU");
  check(is_int8(dtype), "a: expected uint8 or int8");
  check(b.scalar_type() == dtype, "b: expected the dtype of a");
  check(on_same_device(a, b), "b: expected a tensor on the device of a");
  check(b.dim() == a.dim(), "b: expected ", a.dim(), " dimensions, got ", b.dim());
  for (int64_t d = 0; d < a.dim(); ++d) check_size("b", b, d, a.size(d));
  check_grid("a_", a_grid, dtype);
  check_grid("b_", b_grid, dtype);
  check_grid("out_", out_grid, dtype);
  a = as_filled(a);
  b = in_order_of(a, b);
  y = empty_alike(a, dtype);
  params = {const_data<uint8_t>(a),
            const_data<uint8_t>(b),
            data<uint8_t>(y),
            a.numel(),
            static_cast<float>(a_grid.scale / out_grid.scale),
            static_cast<float>(b_grid.scale / out_grid.scale),
            static_cast<int32_t>(a_grid.zero_point),
            static_cast<int32_t>(b_grid.zero_point),
            static_cast<int32_t>(out_grid.zero_point),
            dtype == ScalarType::Char,
            relu};
}

Int8MaxPool2dCall::Int8MaxPool2dCall(const Tensor& given, const std::vector<int64_t>& geometry,
                                     bool ceil_mode)
    : x(as_image(given)) {
  const Tensor& t = x.tensor;
  const ScalarType dtype = t.scalar_type();
  check(is_int8(dtype), "x: expected uint8 or int8");
  check(t.size(1) > 0 && t.size(2) > 0 && t.size(3) > 0,
        "x: expected at least one channel and an image of at least 1 x 1, got ", t.size(1), ", ", t.size(2),
        " x ", t.size(3));
  check(geometry.size() == 8, "geometry: expected 8 numbers, got ", geometry.size());
  check_pair("kernel_size", geometry[0], geometry[1], 1);
  check_pair("stride", geometry[2], geometry[3], 1);
  check_pair("padding", geometry[4], geometry[5], 0);
  check_pair("dilation", geometry[6], geometry[7], 1);
  params = {t.size(0),
            t.size(1),
            pool_axis(geometry.data(), t.size(2), ceil_mode),
            pool_axis(geometry.data() + 1, t.size(3), ceil_mode),
            x.channels_last,
            dtype == ScalarType::Char,
            const_data<uint8_t>(t),
            nullptr};
  const int64_t sizes[] = {params.batch, params.channels, params.height.out, params.width.out};
  y = t.is_cpu() ? empty_image(sizes[0], sizes[1], sizes[2], sizes[3], x.channels_last, dtype)
                 : empty_image(sizes[0], sizes[1], sizes[2], sizes[3], x.channels_last, t);
  params.y = data<uint8_t>(y);
}

}  // namespace cnnkern
