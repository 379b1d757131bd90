// What driver.cpp runs of the CP convolution and its gradients.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>

#include "cuda/cp_conv2d/backward.h"
#include "driver_case.h"
#include "driver_gradients.h"

namespace cnnkern::cuda {

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
    return rounding(arithmetic, depth) + 6 * operand_eps(arithmetic);  // of three more stages
  }

 private:
  static int64_t packed_size(const Conv2dShape& s, int64_t rank, Arithmetic arithmetic) {
    return PackedFactors(s.out_channels, rank, s.in_channels / s.groups, s.kernel_height, s.kernel_width,
                         s.groups, bytes_of(arithmetic))
        .size;
  }
};

inline std::string run_cp_conv2d(const Case& c, const Device& device) {
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

// Of the factors, through the weight that they make.
struct CpGradients {
  DenseGradients dense;
  Gradient c, h, w, k;

  CpGradients(const Conv2dShape& s, const Memory& grad, const Memory& image, const Factors& f)
      : dense(s, grad, image,
              [&](int64_t of_k, int64_t channel, int64_t i, int64_t j) {
                return f.weight(s, of_k, channel, i, j);
              }),
        c("c", f.c.size()),
        h("h", f.h.size()),
        w("w", f.w.size()),
        k("k", f.k.size()) {
    for (int64_t of_k = 0; of_k < s.out_channels; ++of_k)
      for (int64_t channel = 0; channel < f.group_in; ++channel)
        for (int64_t i = 0; i < s.kernel_height; ++i)
          for (int64_t j = 0; j < s.kernel_width; ++j) add_weight(s, f, of_k, channel, i, j);
  }

 private:
  void add_weight(const Conv2dShape& s, const Factors& f, int64_t of_k, int64_t channel, int64_t i,
                  int64_t j) {
    const Weight sum = dense.weight[DenseGradients::place(s, of_k, channel, i, j)];
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

inline std::string run_cp_conv2d_backward(const Case& c, const Device& device) {
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
  const CpGradients expected(s, grad, x, factors);
  const double relative = factors.relative(s, arithmetic, grad.size() + in_pixels);
  std::string wrong = expected.dense.x.compare(of_x, relative);
  if (wrong.empty()) wrong = expected.c.compare(of_c, relative);
  if (wrong.empty()) wrong = expected.h.compare(of_h, relative);
  if (wrong.empty()) wrong = expected.w.compare(of_w, relative);
  if (wrong.empty()) wrong = expected.k.compare(of_k, relative);
  return wrong.empty() ? expected.dense.bias.compare(of_bias, relative) : wrong;
}

}  // namespace cnnkern::cuda
