// Runs CUDA kernels on the emulator without torch and Python, for the sanitizers. A line of the input is
//   operation arithmetic layout  N C H W  K kH kW  stride padding dilation (two numbers each)  groups rank
// and each result is compared with the same sums in double. Prints what is wrong; the exit status is 1 then.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "cuda/column_sparse_conv2d/column_sparse_conv2d.h"
#include "cuda/conv2d/conv2d.h"
#include "cuda/cp_conv2d/cp_conv2d.h"
#include "cuda/device.cuh"
#include "cuda/perforated_conv2d/perforated_conv2d.h"
#include "driver_int8.h"

namespace cnnkern::cuda {
namespace {

struct Case {
  std::string operation, arithmetic, layout;
  Conv2dShape shape;
  int64_t rank;
};

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

Arithmetic arithmetic_of(const std::string& name) {
  return name == "float32"   ? Arithmetic::kFloat32
         : name == "tf32"    ? Arithmetic::kTf32
         : name == "float16" ? Arithmetic::kFloat16
                             : Arithmetic::kBfloat16;
}

double operand_eps(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kFloat32:
      return 0;
    case Arithmetic::kBfloat16:
      return std::ldexp(1, -7);
    default:
      return std::ldexp(1, -10);
  }
}

// Numbers of an arithmetic in memory of exactly their size, so that a step beyond it is noticed.
class Memory {
 public:
  Memory(int64_t size, Arithmetic arithmetic)
      : size_(size), arithmetic_(arithmetic), bytes_(new unsigned char[size * bytes_of(arithmetic)]) {
    std::memset(bytes_.get(), 0xFF, size * bytes_of(arithmetic));  // NaN
  }
  static Memory random(int64_t size, Arithmetic arithmetic) {
    static uint32_t state = 1;
    Memory memory(size, arithmetic);
    for (int64_t i = 0; i < size; ++i) {
      state = state * 1664525u + 1013904223u;
      memory.set(i, static_cast<float>(state >> 8 & 0xFFFF) / 32768 - 1);
    }
    return memory;
  }
  double at(int64_t i) const {
    if (bytes_of(arithmetic_) == 4) return reinterpret_cast<const float*>(bytes_.get())[i];
    const uint16_t bits = reinterpret_cast<const uint16_t*>(bytes_.get())[i];
    return arithmetic_ == Arithmetic::kFloat16 ? half_to_float(bits) : bfloat16_to_float(bits);
  }
  void* data() const { return bytes_.get(); }
  int64_t size() const { return size_; }

 private:
  void set(int64_t i, float value) {
    if (bytes_of(arithmetic_) == 4)
      reinterpret_cast<float*>(bytes_.get())[i] = value;
    else
      reinterpret_cast<uint16_t*>(bytes_.get())[i] =
          arithmetic_ == Arithmetic::kFloat16 ? float_to_half(value) : float_to_bfloat16(value);
  }

  int64_t size_;
  Arithmetic arithmetic_;
  std::unique_ptr<unsigned char[]> bytes_;
};

// Where element (n, c, y, x) of an image of `channels` x `height` x `width` lies.
int64_t at(bool channels_last, int64_t channels, int64_t height, int64_t width, int64_t n, int64_t c,
           int64_t y, int64_t x) {
  return channels_last ? ((n * height + y) * width + x) * channels + c
                       : ((n * channels + c) * height + y) * width + x;
}

// The first element of y that is further from the convolution with weight(k, c, i, j) than rounding takes it.
// The weight comes with the sum of the absolute values that it is made of.
struct Weight {
  double value, magnitude;
};
template <class WeightOf>
std::string compare(const Conv2dShape& s, const Memory& x, const Memory& bias, const Memory& y,
                    double relative, const WeightOf& weight, const std::vector<int32_t>* sources = nullptr) {
  const int64_t group_in = s.in_channels / s.groups, group_out = s.out_channels / s.groups;
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t k = 0; k < s.out_channels; ++k)
      for (int64_t oy = 0; oy < s.out_height; ++oy)
        for (int64_t ox = 0; ox < s.out_width; ++ox) {
          // The output that is shown there, with `sources` for each image.
          const int64_t here = oy * s.out_width + ox, area = s.out_height * s.out_width;
          const int64_t shown = sources ? (*sources)[static_cast<size_t>(n * area + here)] : here;
          double sum = shown < 0 ? 0 : bias.at(k), magnitude = std::abs(sum);
          for (int64_t i = 0; shown >= 0 && i < s.kernel_height; ++i)
            for (int64_t j = 0; j < s.kernel_width; ++j) {
              const int64_t iy = shown / s.out_width * s.stride_height - s.pad_height + i * s.dilation_height;
              const int64_t ix = shown % s.out_width * s.stride_width - s.pad_width + j * s.dilation_width;
              if (iy < 0 || iy >= s.in_height || ix < 0 || ix >= s.in_width) continue;
              for (int64_t c = 0; c < group_in; ++c) {
                const Weight w = weight(k, c, i, j);
                const double value = x.at(at(s.channels_last, s.in_channels, s.in_height, s.in_width, n,
                                             k / group_out * group_in + c, iy, ix));
                sum += w.value * value, magnitude += w.magnitude * std::abs(value);
              }
            }
          const double got =
              y.at(at(s.channels_last, s.out_channels, s.out_height, s.out_width, n, k, oy, ox));
          if (!(std::abs(got - sum) <= 2 * relative * magnitude)) {
            std::ostringstream message;
            message << "y[" << n << "," << k << "," << oy << "," << ox << "] is " << got << ", not " << sum;
            return message.str();
          }
        }
  return "";
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

std::string run_cp_conv2d(const Case& c, const Device& device) {
  const Conv2dShape& s = c.shape;
  const Arithmetic arithmetic = arithmetic_of(c.arithmetic);
  const int64_t group_in = s.in_channels / s.groups, group_rank = c.rank / s.groups;
  const Memory x = Memory::random(s.batch * s.in_channels * s.in_height * s.in_width, arithmetic);
  const Memory factor_c = Memory::random(c.rank * group_in, arithmetic);
  const Memory factor_h = Memory::random(c.rank * s.kernel_height, arithmetic);
  const Memory factor_w = Memory::random(c.rank * s.kernel_width, arithmetic);
  const Memory factor_k = Memory::random(s.out_channels * group_rank, arithmetic);
  const Memory bias = Memory::random(s.out_channels, arithmetic);
  const PackedFactors to(s.out_channels, c.rank, group_in, s.kernel_height, s.kernel_width, s.groups,
                         bytes_of(arithmetic));
  const Memory packed(to.size, arithmetic);
  const Memory y(s.batch * s.out_channels * s.out_height * s.out_width, arithmetic);
  const Memory scratch(cp_conv2d_scratch(s, c.rank, arithmetic, device), Arithmetic::kFloat32);
  cudaError_t error = cp_conv2d_pack({{factor_c.data(), {group_in, 1}},
                                      {factor_h.data(), {s.kernel_height, 1}},
                                      {factor_w.data(), {s.kernel_width, 1}},
                                      {factor_k.data(), {group_rank, 1}},
                                      s.out_channels,
                                      c.rank,
                                      group_in,
                                      s.kernel_height,
                                      s.kernel_width,
                                      s.groups,
                                      bytes_of(arithmetic),
                                      packed.data()},
                                     nullptr);
  if (error == cudaSuccess)
    error = cp_conv2d({s, c.rank, arithmetic, x.data(), packed.data(), bias.data(), y.data(),
                       static_cast<float*>(scratch.data())},
                      device, nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  const int64_t depth = group_in + s.kernel_height + s.kernel_width + group_rank + 1;
  const double relative = static_cast<double>(depth) * std::ldexp(1, -23) + 9 * operand_eps(arithmetic);
  return compare(s, x, bias, y, relative, [&](int64_t k, int64_t channel, int64_t i, int64_t j) {
    Weight sum{0, 0};
    const int64_t first = k / (s.out_channels / s.groups) * group_rank;
    for (int64_t r = 0; r < group_rank; ++r) {
      const double value = factor_k.at(k * group_rank + r) * factor_c.at((first + r) * group_in + channel) *
                           factor_h.at((first + r) * s.kernel_height + i) *
                           factor_w.at((first + r) * s.kernel_width + j);
      sum.value += value, sum.magnitude += std::abs(value);
    }
    return sum;
  });
}

// Every third column, and a run of them.
std::string run_column_sparse_conv2d(const Case& c, const Device& device) {
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
std::string run_perforated_conv2d(const Case& c, const Device& device) {
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
  if (error != cudaSuccess) return cudaGetErrorString(error);
  for (int64_t i = 0; i < folded.size(); ++i)
    if (std::isnan(folded.at(i))) return "an element of the folded gradient is missing";
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
