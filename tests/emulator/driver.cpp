// Runs CUDA kernels on the emulator without torch and Python, for the sanitizers. A line of the input is
//   operation arithmetic layout  N C H W  K kH kW  stride padding dilation (two numbers each)  groups rank
// and each result is compared with the same sums in double. Prints what is wrong; the exit status is 1 then.
#include <cmath>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>

#include "cuda/conv2d/conv2d.h"
#include "driver_case.h"
#include "driver_cp.h"
#include "driver_int8.h"
#include "driver_sparse.h"

namespace cnnkern::cuda {
namespace {

bool read_case(const std::string& line, Case& c) {
  std::istringstream in(line);
  Conv2dShape& s = c.shape;
  in >> c.operation >> c.arithmetic >> c.layout >> s.batch >> s.in_channels >> s.in_height >> s.in_width;
  in >> s.out_channels >> s.kernel_height >> s.kernel_width >> s.stride_height >> s.stride_width;
  in >> s.pad_height >> s.pad_width >> s.dilation_height >> s.dilation_width >> s.groups >> c.rank;
  s.channels_last = c.layout == "channels_last";
  const auto out = [](int64_t in, int64_t pad, int64_t dilation, int64_t kernel, int64_t stride) {
    return (in + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
  };
  s.out_height = out(s.in_height, s.pad_height, s.dilation_height, s.kernel_height, s.stride_height);
  s.out_width = out(s.in_width, s.pad_width, s.dilation_width, s.kernel_width, s.stride_width);
  return static_cast<bool>(in);
}

std::string run_conv2d(const Case& c, const Device& device) {
  const Conv2dShape& s = c.shape;
  const Arithmetic arithmetic = arithmetic_of(c.arithmetic);
  const int64_t group_in = s.in_channels / s.groups, taps = s.kernel_height * s.kernel_width;
  const Memory x = Memory::random(s.batch * s.in_channels * s.in_height * s.in_width, arithmetic);
  const Memory weight = Memory::random(s.out_channels * group_in * taps, arithmetic);
  const Memory bias = Memory::random(s.out_channels, arithmetic);
  const Memory packed(
      conv2d_packed_size(s.out_channels, group_in, s.kernel_height, s.kernel_width, bytes_of(arithmetic)),
      arithmetic);
  const Memory y(s.batch * s.out_channels * s.out_height * s.out_width, arithmetic);
  const Memory scratch(conv2d_scratch(s, arithmetic, device), Arithmetic::kFloat32);
  const WeightLayout layout =
      WeightLayout::forward({s.out_channels, group_in, s.kernel_height, s.kernel_width},
                            {group_in * taps, taps, s.kernel_width, 1});
  cudaError_t error = conv2d_pack(weight.data(), layout, bytes_of(arithmetic), packed.data(), nullptr);
  if (error == cudaSuccess)
    error = conv2d({s, arithmetic, x.data(), packed.data(), bias.data(), y.data(),
                    static_cast<float*>(scratch.data()), false},
                   device, nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  const double relative =
      static_cast<double>(group_in * taps + 1) * std::ldexp(1, -23) + 3 * operand_eps(arithmetic);
  return compare(s, x, bias, y, relative, [&](int64_t k, int64_t channel, int64_t i, int64_t j) {
    const double value = weight.at(((k * group_in + channel) * s.kernel_height + i) * s.kernel_width + j);
    return Weight{value, std::abs(value)};
  });
}

int run_all() {
  Device device;
  if (current_device(device) != cudaSuccess) return 1;
  int failed = 0;
  for (std::string line; std::getline(std::cin, line);) {
    Case c;
    std::string wrong = "not a case";
    if (read_case(line, c)) {
      wrong = c.operation == "conv2d"                 ? run_conv2d(c, device)
              : c.operation == "cp_conv2d"            ? run_cp_conv2d(c, device)
              : c.operation == "cp_conv2d_backward"   ? run_cp_conv2d_backward(c, device)
              : c.operation == "column_sparse_conv2d" ? run_column_sparse_conv2d(c, device)
              : c.operation == "perforated_conv2d"    ? run_perforated_conv2d(c, device)
              : c.operation == "int8_conv2d" ? run_int8_conv2d(c.shape, c.arithmetic == "int8", device)
                                             : "unknown operation";
    }
    if (wrong.empty()) continue;
    ++failed;
    std::printf("%s: %s\n", line.c_str(), wrong.c_str());
  }
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace cnnkern::cuda

int main() { return cnnkern::cuda::run_all(); }
