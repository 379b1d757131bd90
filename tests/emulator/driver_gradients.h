// Gradients of a convolution in double, which those of the kernels are compared with.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "driver_case.h"

namespace cnnkern::cuda {

// A gradient in double, with the sums of the absolute values of its terms.
class Gradient {
 public:
  Gradient(const char* name, int64_t size) : name_(name), sums_(size, Weight{0, 0}) {}
  void add(int64_t at, double value, double magnitude) {
    sums_[at].value += value, sums_[at].magnitude += magnitude;
  }
  void add(int64_t at, double value) { add(at, value, std::abs(value)); }
  const Weight& operator[](int64_t at) const { return sums_[at]; }
  std::string compare(const Memory& got, double relative) const {
    for (int64_t i = 0; i < got.size(); ++i)
      if (!(std::abs(got.at(i) - sums_[i].value) <= 2 * relative * sums_[i].magnitude))
        return differs(name_, i, got.at(i), sums_[i].value);
    return "";
  }

 private:
  const char* name_;
  std::vector<Weight> sums_;
};

// Of the convolution with weight(k, c, i, j): of x, of that weight and of the bias.
struct DenseGradients {
  Gradient x, weight, bias;

  template <class WeightOf>
  DenseGradients(const Conv2dShape& s, const Memory& grad, const Memory& image, const WeightOf& weight_of)
      : x("x", image.size()), weight("weight", s.out_channels * columns(s)), bias("bias", s.out_channels) {
    const int64_t group_in = s.in_channels / s.groups, group_out = s.out_channels / s.groups;
    for (int64_t k = 0; k < s.out_channels; ++k) {
      for (int64_t c = 0; c < group_in; ++c)
        for (int64_t i = 0; i < s.kernel_height; ++i)
          for (int64_t j = 0; j < s.kernel_width; ++j)
            add_tap(s, grad, image, weight_of(k, c, i, j), k, k / group_out * group_in + c, i, j);
      for (int64_t n = 0; n < s.batch; ++n)
        for (int64_t oy = 0; oy < s.out_height; ++oy)
          for (int64_t ox = 0; ox < s.out_width; ++ox) bias.add(k, grad.at(output(s, n, k, oy, ox)));
    }
  }
  std::string compare(const Memory& of_x, const Memory& of_weight, const Memory& of_bias,
                      double relative) const {
    std::string wrong = x.compare(of_x, relative);
    if (wrong.empty()) wrong = weight.compare(of_weight, relative);
    return wrong.empty() ? bias.compare(of_bias, relative) : wrong;
  }
  static int64_t columns(const Conv2dShape& s) {
    return s.in_channels / s.groups * s.kernel_height * s.kernel_width;
  }
  // Where the weight of (k, channel of the group, i, j) is among all.
  static int64_t place(const Conv2dShape& s, int64_t k, int64_t c, int64_t i, int64_t j) {
    return k * columns(s) + (c * s.kernel_height + i) * s.kernel_width + j;
  }

 private:
  static int64_t output(const Conv2dShape& s, int64_t n, int64_t k, int64_t oy, int64_t ox) {
    return at(s.channels_last, s.out_channels, s.out_height, s.out_width, n, k, oy, ox);
  }
  // Tap (i, j) of channel `in` of the image, in the sums of channel k.
  void add_tap(const Conv2dShape& s, const Memory& grad, const Memory& image, const Weight& w, int64_t k,
               int64_t in, int64_t i, int64_t j) {
    const int64_t here = place(s, k, in % (s.in_channels / s.groups), i, j);
    for (int64_t n = 0; n < s.batch; ++n)
      for (int64_t oy = 0; oy < s.out_height; ++oy)
        for (int64_t ox = 0; ox < s.out_width; ++ox) {
          const int64_t iy = oy * s.stride_height - s.pad_height + i * s.dilation_height;
          const int64_t ix = ox * s.stride_width - s.pad_width + j * s.dilation_width;
          if (iy < 0 || iy >= s.in_height || ix < 0 || ix >= s.in_width) continue;
          const int64_t pixel = at(s.channels_last, s.in_channels, s.in_height, s.in_width, n, in, iy, ix);
          const double of_y = grad.at(output(s, n, k, oy, ox));
          x.add(pixel, of_y * w.value, std::abs(of_y) * w.magnitude);
          weight.add(here, of_y * image.at(pixel));
        }
  }
};

}  // namespace cnnkern::cuda
