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

#include "cuda/conv2d/conv2d.h"
#include "cuda/cp_conv2d/backward.h"
#include "cuda/device.cuh"

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
                    double relative, const WeightOf& weight) {
  const int64_t group_in = s.in_channels / s.groups, group_out = s.out_channels / s.groups;
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t k = 0; k < s.out_channels; ++k)
      for (int64_t oy = 0; oy < s.out_height; ++oy)
        for (int64_t ox = 0; ox < s.out_width; ++ox) {
          double sum = bias.at(k), magnitude = std::abs(sum);
          for (int64_t i = 0; i < s.kernel_height; ++i)
            for (int64_t j = 0; j < s.kernel_width; ++j) {
              const int64_t iy = oy * s.stride_height - s.pad_height + i * s.dilation_height;
              const int64_t ix = ox * s.stride_width - s.pad_width + j * s.dilation_width;
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

// Random factors, packed for the convolution and for the one from its output's gradient to its input's.
struct Factors {
  int64_t group_in, group_rank;
  Memory c, h, w, k;
  Memory packed, reversed;

  Factors(const Conv2dShape& s, int64_t rank, Arithmetic arithmetic)
      : group_in(s.in_channels / s.groups),
        group_rank(rank / s.groups),
        c(Memory::random(rank * group_in, arithmetic)),
        h(Memory::random(rank * s.kernel_height, arithmetic)),
        w(Memory::random(rank * s.kernel_width, arithmetic)),
        k(Memory::random(s.out_channels * group_rank, arithmetic)),
        packed(packed_size(s, rank, arithmetic), arithmetic),
        reversed(packed_size(reversed_shape(s), rank, arithmetic), arithmetic) {}

  cudaError_t pack(const Conv2dShape& s, int64_t rank, Arithmetic arithmetic) const {
    const int64_t group_out = s.out_channels / s.groups;
    const FactorLayout of_h{h.data(), {s.kernel_height, 1}}, of_w{w.data(), {s.kernel_width, 1}};
    const cudaError_t error = cp_conv2d_pack({{c.data(), {group_in, 1}},
                                              of_h,
                                              of_w,
                                              {k.data(), {group_rank, 1}},
                                              s.out_channels,
                                              rank,
                                              group_in,
                                              s.kernel_height,
                                              s.kernel_width,
                                              s.groups,
                                              bytes_of(arithmetic),
                                              packed.data()},
                                             nullptr);
    if (error != cudaSuccess) return error;
    const FactorLayout transposed_k{k.data(), {1, group_rank}, group_rank, group_out * group_rank};
    const FactorLayout transposed_c{c.data(), {1, group_in}, group_in, group_rank * group_in};
    return cp_conv2d_pack({transposed_k, of_h, of_w, transposed_c, s.in_channels, rank, group_out,
                           s.kernel_height, s.kernel_width, s.groups, bytes_of(arithmetic), reversed.data()},
                          nullptr);
  }
  // Calls visit(indices into the factors, their product) for each term of the weight (k, channel, i, j).
  template <class Visit>
  void for_each_term(const Conv2dShape& s, int64_t of_k, int64_t channel, int64_t i, int64_t j,
                     const Visit& visit) const {
    const int64_t first = of_k / (s.out_channels / s.groups) * group_rank;
    for (int64_t r = first; r < first + group_rank; ++r)
      visit(r * group_in + channel, r * s.kernel_height + i, r * s.kernel_width + j,
            of_k * group_rank + r - first);
  }
  Weight weight(const Conv2dShape& s, int64_t of_k, int64_t channel, int64_t i, int64_t j) const {
    Weight sum{0, 0};
    for_each_term(s, of_k, channel, i, j, [&](int64_t at_c, int64_t at_h, int64_t at_w, int64_t at_k) {
      const double value = k.at(at_k) * c.at(at_c) * h.at(at_h) * w.at(at_w);
      sum.value += value, sum.magnitude += std::abs(value);
    });
    return sum;
  }
  double relative(const Conv2dShape& s, Arithmetic arithmetic, int64_t more_terms) const {
    const int64_t depth = group_in + s.kernel_height + s.kernel_width + group_rank + more_terms;
    return static_cast<double>(depth) * std::ldexp(1, -23) + 9 * operand_eps(arithmetic);
  }

 private:
  static int64_t packed_size(const Conv2dShape& s, int64_t rank, Arithmetic arithmetic) {
    return PackedFactors(s.out_channels, rank, s.in_channels / s.groups, s.kernel_height, s.kernel_width,
                         s.groups, bytes_of(arithmetic))
        .size;
  }
};

std::string run_cp_conv2d(const Case& c, const Device& device) {
  const Conv2dShape& s = c.shape;
  const Arithmetic arithmetic = arithmetic_of(c.arithmetic);
  const Memory x = Memory::random(s.batch * s.in_channels * s.in_height * s.in_width, arithmetic);
  const Memory bias = Memory::random(s.out_channels, arithmetic);
  const Factors factors(s, c.rank, arithmetic);
  const Memory y(s.batch * s.out_channels * s.out_height * s.out_width, arithmetic);
  const Memory scratch(cp_conv2d_scratch(s, c.rank, arithmetic, device), Arithmetic::kFloat32);
  cudaError_t error = factors.pack(s, c.rank, arithmetic);
  if (error == cudaSuccess)
    error = cp_conv2d({s, c.rank, arithmetic, x.data(), factors.packed.data(), bias.data(), y.data(),
                       static_cast<float*>(scratch.data())},
                      device, nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return compare(
      s, x, bias, y, factors.relative(s, arithmetic, 1),
      [&](int64_t k, int64_t channel, int64_t i, int64_t j) { return factors.weight(s, k, channel, i, j); });
}

// A gradient in double, with the sums of the absolute values of its terms.
class Gradient {
 public:
  Gradient(const char* name, int64_t size) : name_(name), sums_(size, Weight{0, 0}) {}
  void add(int64_t at, double value, double magnitude) {
    sums_[at].value += value, sums_[at].magnitude += magnitude;
  }
  void add(int64_t at, double value) { add(at, value, std::abs(value)); }
  std::string compare(const Memory& got, double relative) const {
    for (int64_t i = 0; i < got.size(); ++i) {
      if (std::abs(got.at(i) - sums_[i].value) <= 2 * relative * sums_[i].magnitude) continue;
      std::ostringstream message;
      message << name_ << "[" << i << "] is " << got.at(i) << ", not " << sums_[i].value;
      return message.str();
    }
    return "";
  }

 private:
  const char* name_;
  std::vector<Weight> sums_;
};

struct Gradients {
  Gradient x, c, h, w, k, bias;

  // Of the weight first, and of the factors through it.
  Gradients(const Conv2dShape& s, const Memory& grad, const Memory& image, const Factors& f)
      : x("x", image.size()),
        c("c", f.c.size()),
        h("h", f.h.size()),
        w("w", f.w.size()),
        k("k", f.k.size()),
        bias("bias", s.out_channels) {
    for (int64_t of_k = 0; of_k < s.out_channels; ++of_k)
      for (int64_t channel = 0; channel < f.group_in; ++channel)
        for (int64_t i = 0; i < s.kernel_height; ++i)
          for (int64_t j = 0; j < s.kernel_width; ++j) add_tap(s, grad, image, f, of_k, channel, i, j);
    for (int64_t i = 0; i < s.batch * s.out_height * s.out_width; ++i)
      for (int64_t of_k = 0; of_k < s.out_channels; ++of_k) {
        const int64_t pixels = s.out_height * s.out_width;
        bias.add(of_k, grad.at(s.channels_last ? i * s.out_channels + of_k
                                               : (i / pixels * s.out_channels + of_k) * pixels + i % pixels));
      }
  }

 private:
  void add_tap(const Conv2dShape& s, const Memory& grad, const Memory& image, const Factors& f, int64_t of_k,
               int64_t channel, int64_t i, int64_t j) {
    const Weight weight = f.weight(s, of_k, channel, i, j);
    const int64_t in = of_k / (s.out_channels / s.groups) * f.group_in + channel;
    Weight sum{0, 0};
    for (int64_t n = 0; n < s.batch; ++n)
      for (int64_t oy = 0; oy < s.out_height; ++oy)
        for (int64_t ox = 0; ox < s.out_width; ++ox) {
          const int64_t iy = oy * s.stride_height - s.pad_height + i * s.dilation_height;
          const int64_t ix = ox * s.stride_width - s.pad_width + j * s.dilation_width;
          if (iy < 0 || iy >= s.in_height || ix < 0 || ix >= s.in_width) continue;
          const int64_t pixel = at(s.channels_last, s.in_channels, s.in_height, s.in_width, n, in, iy, ix);
          const double of_y =
              grad.at(at(s.channels_last, s.out_channels, s.out_height, s.out_width, n, of_k, oy, ox));
          x.add(pixel, of_y * weight.value, std::abs(of_y) * weight.magnitude);
          sum.value += of_y * image.at(pixel), sum.magnitude += std::abs(of_y * image.at(pixel));
        }
    f.for_each_term(s, of_k, channel, i, j, [&](int64_t at_c, int64_t at_h, int64_t at_w, int64_t at_k) {
      const double vc = f.c.at(at_c), vh = f.h.at(at_h), vw = f.w.at(at_w), vk = f.k.at(at_k);
      const auto add = [&](Gradient& of, int64_t element, double others) {
        of.add(element, sum.value * others, sum.magnitude * std::abs(others));
      };
      add(c, at_c, vh * vw * vk), add(h, at_h, vc * vw * vk), add(w, at_w, vc * vh * vk);
      add(k, at_k, vc * vh * vw);
    });
  }
};

std::string run_cp_conv2d_backward(const Case& c, const Device& device) {
  const Conv2dShape& s = c.shape;
  const Arithmetic arithmetic = arithmetic_of(c.arithmetic);
  const int64_t in_pixels = s.batch * s.in_height * s.in_width;
  const Memory x = Memory::random(in_pixels * s.in_channels, arithmetic);
  const Memory grad = Memory::random(s.batch * s.out_channels * s.out_height * s.out_width, arithmetic);
  const Factors factors(s, c.rank, arithmetic);
  const auto like = [&](const Memory& other) { return Memory(other.size(), arithmetic); };
  const Memory of_x = like(x), of_c = like(factors.c), of_h = like(factors.h), of_w = like(factors.w),
               of_k = like(factors.k), of_bias(s.out_channels, arithmetic);
  CpConv2dBackwardCall call{s,
                            c.rank,
                            arithmetic,
                            grad.data(),
                            x.data(),
                            factors.packed.data(),
                            factors.reversed.data(),
                            of_x.data(),
                            of_c.data(),
                            of_h.data(),
                            of_w.data(),
                            of_k.data(),
                            of_bias.data(),
                            nullptr};
  const Memory scratch(cp_conv2d_backward_scratch(call, device), Arithmetic::kFloat32);
  call.scratch = static_cast<float*>(scratch.data());
  cudaError_t error = factors.pack(s, c.rank, arithmetic);
  if (error == cudaSuccess) error = cp_conv2d_backward(call, device, nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  const Gradients expected(s, grad, x, factors);
  const double relative = factors.relative(s, arithmetic, grad.size() + in_pixels);
  std::string wrong = expected.x.compare(of_x, relative);
  if (wrong.empty()) wrong = expected.c.compare(of_c, relative);
  if (wrong.empty()) wrong = expected.h.compare(of_h, relative);
  if (wrong.empty()) wrong = expected.w.compare(of_w, relative);
  if (wrong.empty()) wrong = expected.k.compare(of_k, relative);
  return wrong.empty() ? expected.bias.compare(of_bias, relative) : wrong;
}

int run_all() {
  Device device;
  if (current_device(device) != cudaSuccess) return 1;
  int failed = 0;
  for (std::string line; std::getline(std::cin, line);) {
    Case c;
    std::string wrong = "not a case";
    if (read_case(line, c)) {
      wrong = c.operation == "conv2d"               ? run_conv2d(c, device)
              : c.operation == "cp_conv2d"          ? run_cp_conv2d(c, device)
              : c.operation == "cp_conv2d_backward" ? run_cp_conv2d_backward(c, device)
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
