// What driver.cpp runs of the column-sparse convolution and its gradients.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/column_sparse_conv2d/backward.h"
#include "cuda/column_sparse_conv2d/column_sparse_conv2d.h"
#include "cuda/conv2d/conv2d.h"
#include "driver_case.h"
#include "driver_gradients.h"

namespace cnnkern::cuda {

// Every third column and a run of them are kept, with random weights (K, kept).
struct SparseWeight {
  Conv2dShape shape;
  int64_t kept = 0;
  std::vector<int64_t> place;      // of each column among the kept ones of its group, or -1
  std::vector<int32_t> of_groups;  // the kept columns of every group
  Memory values;

  SparseWeight(const Conv2dShape& s, Arithmetic arithmetic)
      : shape(s),
        place(keep(DenseGradients::columns(s), s.kernel_height * s.kernel_width, kept)),
        values(Memory::random(s.out_channels * kept, arithmetic)) {
    for (int64_t group = 0; group < s.groups; ++group)
      for (size_t column = 0; column < place.size(); ++column)
        if (place[column] >= 0) of_groups.push_back(static_cast<int32_t>(column));
  }
  Weight operator()(int64_t k, int64_t channel, int64_t i, int64_t j) const {
    const int64_t at = place[static_cast<size_t>(DenseGradients::place(shape, 0, channel, i, j))];
    const double value = at < 0 ? 0 : values.at(k * kept + at);
    return {value, std::abs(value)};
  }

 private:
  static std::vector<int64_t> keep(int64_t columns, int64_t taps, int64_t& kept) {
    std::vector<int64_t> place;
    for (int64_t column = 0; column < columns; ++column) {
      const bool is_kept = column % 3 == 1 || (column % taps == 0 && column / taps >= 8);
      place.push_back(is_kept ? kept++ : -1);
    }
    return place;
  }
};

inline std::string run_column_sparse_conv2d(const Case& c, const Device& device) {
  const Conv2dShape& s = c.shape;
  const Arithmetic arithmetic = arithmetic_of(c.arithmetic);
  const Memory x = Memory::random(s.batch * s.in_channels * s.in_height * s.in_width, arithmetic);
  const SparseWeight weight(s, arithmetic);
  const Memory bias = Memory::random(s.out_channels, arithmetic);
  const int64_t kept = weight.kept, number_bytes = bytes_of(arithmetic);
  const Memory packed(PackedColumns(s.out_channels, kept, s.groups, number_bytes).bytes / number_bytes,
                      arithmetic);
  const Memory y(s.batch * s.out_channels * s.out_height * s.out_width, arithmetic);
  const Memory scratch(column_sparse_conv2d_scratch(s, kept, arithmetic, device), Arithmetic::kFloat32);
  std::vector<int32_t> positions(weight.of_groups.size());
  cudaError_t error = column_sparse_conv2d_pack({{kept, weight.of_groups.data()},
                                                 weight.values.data(),
                                                 {kept, 1},
                                                 s.out_channels,
                                                 s.kernel_height * s.kernel_width,
                                                 s.groups,
                                                 number_bytes,
                                                 packed.data(),
                                                 positions.data()},
                                                nullptr);
  if (error == cudaSuccess)
    error = column_sparse_conv2d({s, arithmetic, kept, x.data(), packed.data(), bias.data(), y.data(),
                                  static_cast<float*>(scratch.data())},
                                 device, nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return compare(s, x, bias, y, rounding(arithmetic, kept + 1), weight);
}

inline std::string run_column_sparse_conv2d_backward(const Case& c, const Device& device) {
  const Conv2dShape& s = c.shape;
  const Arithmetic arithmetic = arithmetic_of(c.arithmetic);
  const int64_t bytes = bytes_of(arithmetic);
  const Memory x = Memory::random(s.batch * s.in_channels * s.in_height * s.in_width, arithmetic);
  const Memory grad = Memory::random(s.batch * s.out_channels * s.out_height * s.out_width, arithmetic);
  const SparseWeight weight(s, arithmetic);
  const WeightLayout layout =
      WeightLayout::transposed({s.out_channels, weight.kept, 1, 1}, {weight.kept, 1, 1, 1}, s.groups);
  const Memory packed(conv2d_packed_size(layout.rows, layout.channels, 1, 1, bytes), arithmetic);
  const Memory of_x(x.size(), arithmetic), of_weight(weight.values.size(), arithmetic),
      of_bias(s.out_channels, arithmetic);
  ColumnSparseBackwardCall call{s,           arithmetic,       {weight.kept, weight.of_groups.data()},
                                grad.data(), x.data(),         packed.data(),
                                of_x.data(), of_weight.data(), of_bias.data(),
                                nullptr};
  const Memory scratch(column_sparse_conv2d_backward_scratch(call, device), Arithmetic::kFloat32);
  call.scratch = static_cast<float*>(scratch.data());
  cudaError_t error = cudaSuccess;
  if (weight.kept) error = conv2d_pack(weight.values.data(), layout, bytes, packed.data(), nullptr);
  if (error == cudaSuccess) error = column_sparse_conv2d_backward(call, device, nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  const DenseGradients dense(s, grad, x, weight);
  Gradient of_kept("weight", of_weight.size());
  for (int64_t k = 0; k < s.out_channels; ++k)
    for (size_t column = 0; column < weight.place.size(); ++column)
      if (weight.place[column] >= 0) {
        const Weight& sum = dense.weight[k * DenseGradients::columns(s) + static_cast<int64_t>(column)];
        of_kept.add(k * weight.kept + weight.place[column], sum.value, sum.magnitude);
      }
  const double relative = rounding(arithmetic, grad.size());
  std::string wrong = dense.x.compare(of_x, relative);
  if (wrong.empty()) wrong = of_kept.compare(of_weight, relative);
  return wrong.empty() ? dense.bias.compare(of_bias, relative) : wrong;
}

}  // namespace cnnkern::cuda
