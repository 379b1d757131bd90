// Runs CUDA kernels on the emulator without torch and Python, for the sanitizers. A line of the input is
//   operation arithmetic layout  N C H W  K kH kW  stride padding dilation (two numbers each)  groups rank
// and each result is compared with the same sums in double. Prints what is wrong; the exit status is 1 then.
#include <cstdio>
#include <iostream>
#include <map>
#include <sstream>
#include <string>

#include "driver_case.h"
#include "driver_column_sparse.h"
#include "driver_cp.h"
#include "driver_dense.h"
#include "driver_int8.h"
#include "driver_int8_elements.h"
#include "driver_perforated.h"

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

std::string run_case(const Case& c, const Device& device) {
  using Run = std::string (*)(const Case&, const Device&);
  static const std::map<std::string, Run> runs{
      {"conv2d", run_conv2d},
      {"conv2d_backward", run_conv2d_backward},
      {"im2col", run_im2col},
      {"cp_conv2d", run_cp_conv2d},
      {"cp_conv2d_backward", run_cp_conv2d_backward},
      {"column_sparse_conv2d", run_column_sparse_conv2d},
      {"column_sparse_conv2d_backward", run_column_sparse_conv2d_backward},
      {"perforated_conv2d", run_perforated_conv2d<true>},
      {"perforated_conv2d_one_mask", run_perforated_conv2d<false>},
      {"perforated_conv2d_backward", run_perforated_conv2d_backward<true>},
      {"perforated_conv2d_backward_one_mask", run_perforated_conv2d_backward<false>},
      {"int8_conv2d", run_int8_conv2d},
      {"int8_quantize", run_int8_quantize},
      {"int8_add", run_int8_add},
      {"int8_max_pool2d", run_int8_max_pool2d},
  };
  const auto found = runs.find(c.operation);
  return found == runs.end() ? "unknown operation" : found->second(c, device);
}

int run_all() {
  Device device;
  if (current_device(device) != cudaSuccess) return 1;
  int failed = 0;
  for (std::string line; std::getline(std::cin, line);) {
    Case c;
    std::string wrong = "not a case";
    if (read_case(line, c)) {
      wrong = run_case(c, device);
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
