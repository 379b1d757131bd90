// What driver.cpp runs of the column-sparse and of the perforated convolution.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/column_sparse_conv2d/column_sparse_conv2d.h"
#include "cuda/conv2d/conv2d.h"
#include "cuda/perforated_conv2d/backward.h"
#include "driver_case.h"

namespace cnnkern::cuda {

// Every third column, and a run of them.
inline std::string run_column_sparse_conv2d(const Case& c, const Device& device) {
  const Conv2dShape& s = c.shape;
  const Arithmetic arithmetic = arithmetic_of(c.arithmetic);
  const int64_t group_in = s.in_channels / s.groups, taps = s.kernel_height * s.kernel_width;
  std::vector<int32_t> columns;
  std::vector<int64_t> place(static_cast<size_t>(group_in * taps), -1);
  for (int64_t column = 0; column < group_in * taps; ++column) {
    if (column % 3 != 1 && (column % taps != 0 || column / taps < 8)) continue;
    place[static_cast<size_t>(column)] = static_cast<int64_t>(columns.size());
    columns.push_back(static_cast<int32_t>(column));
  }
  const auto kept = static_cast<int64_t>(columns.size());
  std::vector<int32_t> of_groups;
  for (int64_t group = 0; group < s.groups; ++group)
    of_groups.insert(of_groups.end(), columns.begin(), columns.end());
  const Memory x = Memory::random(s.batch * s.in_channels * s.in_height * s.in_width, arithmetic);
  const Memory weight = Memory::random(s.out_channels * kept, arithmetic);
  const Memory bias = Memory::random(s.out_channels, arithmetic);
  const int64_t number_bytes = bytes_of(arithmetic);
  const Memory packed(PackedColumns(s.out_channels, kept, s.groups, number_bytes).bytes / number_bytes,
                      arithmetic);
  const Memory y(s.batch * s.out_channels * s.out_height * s.out_width, arithmetic);
  const Memory scratch(column_sparse_conv2d_scratch(s, kept, arithmetic, device), Arithmetic::kFloat32);
  std::vector<int32_t> positions(of_groups.size());
  cudaError_t error = column_sparse_conv2d_pack({{kept, of_groups.data()},
                                                 weight.data(),
                                                 {kept, 1},
                                                 s.out_channels,
                                                 taps,
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
  const double relative = static_cast<double>(kept + 1) * std::ldexp(1, -23) + 3 * operand_eps(arithmetic);
  return compare(s, x, bias, y, relative, [&](int64_t k, int64_t channel, int64_t i, int64_t j) {
    const int64_t at = place[static_cast<size_t>((channel * s.kernel_height + i) * s.kernel_width + j)];
    const double value = at < 0 ? 0 : weight.at(k * kept + at);
    return Weight{value, std::abs(value)};
  });
}

// With a mask for each image.
inline std::string run_perforated_conv2d(const Case& c, const Device& device) {
  const Conv2dShape& s = c.shape;
  const Arithmetic arithmetic = arithmetic_of(c.arithmetic);
  const int64_t group_in = s.in_channels / s.groups, taps = s.kernel_height * s.kernel_width;
  const Masks size{s.batch, s.out_height, s.out_width};
  const auto positions = static_cast<size_t>(s.batch * size.area());
  std::vector<uint8_t> mask(positions);
  for (size_t p = 0; p < positions; ++p) mask[p] = p % static_cast<size_t>(size.area()) == 0 || p * 7 % 5 < 2;
  std::vector<int32_t> sources(positions), scratch(2 * positions), arranged(2 * positions);
  const Memory x = Memory::random(s.batch * s.in_channels * s.in_height * s.in_width, arithmetic);
  const Memory weight = Memory::random(s.out_channels * group_in * taps, arithmetic);
  const Memory bias = Memory::random(s.out_channels, arithmetic);
  const Memory packed(
      conv2d_packed_size(s.out_channels, group_in, s.kernel_height, s.kernel_width, bytes_of(arithmetic)),
      arithmetic);
  const Memory y(s.batch * s.out_channels * s.out_height * s.out_width, arithmetic);
  const Memory folded(y.size(), arithmetic);
  const Memory sums(perforated_conv2d_scratch(s, arithmetic, device), Arithmetic::kFloat32);
  std::vector<int64_t> begin(static_cast<size_t>(s.batch + 1));
  const WeightLayout layout =
      WeightLayout::forward({s.out_channels, group_in, s.kernel_height, s.kernel_width},
                            {group_in * taps, taps, s.kernel_width, 1});
  const Arranged all{arranged.data(), true};
  cudaError_t error =
      perforated_conv2d_sources(size, mask.data(), c.rank % 2, sources.data(), scratch.data(), nullptr);
  if (error == cudaSuccess)
    error = perforated_conv2d_arrange(size, sources.data(), arranged.data(), scratch.data(), nullptr);
  if (error == cudaSuccess)
    error = conv2d_pack(weight.data(), layout, bytes_of(arithmetic), packed.data(), nullptr);
  if (error == cudaSuccess)
    error = perforated_conv2d({s, arithmetic, all, x.data(), packed.data(), bias.data(), y.data(),
                               static_cast<float*>(sums.data()), begin.data()},
                              device, nullptr);
  if (error == cudaSuccess)
    error = perforated_conv2d_fold(s, arithmetic, all, y.data(), folded.data(), nullptr);
  const Memory grad_weight(weight.size(), arithmetic);
  const Memory partial(perforated_conv2d_backward_scratch(s, arithmetic, device), Arithmetic::kFloat32);
  std::vector<KeptPlace> places(static_cast<size_t>(kept_places(s)));
  if (error == cudaSuccess)
    error = perforated_conv2d_backward({s, arithmetic, all, folded.data(), x.data(), grad_weight.data(),
                                        static_cast<float*>(partial.data()), begin.data(), places.data()},
                                       device, nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  for (const Memory* gradient : {&folded, &grad_weight})
    for (int64_t i = 0; i < gradient->size(); ++i)
      if (std::isnan(gradient->at(i))) return "an element of a gradient is missing";
  const double relative =
      static_cast<double>(group_in * taps + 1) * std::ldexp(1, -23) + 3 * operand_eps(arithmetic);
  return compare(
      s, x, bias, y, relative,
      [&](int64_t k, int64_t channel, int64_t i, int64_t j) {
        const double value = weight.at(((k * group_in + channel) * s.kernel_height + i) * s.kernel_width + j);
        return Weight{value, std::abs(value)};
      },
      &sources);
}

}  // namespace cnnkern::cuda
