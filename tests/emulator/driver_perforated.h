// What driver.cpp runs of the perforated convolution and its gradients.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/perforated_conv2d/backward.h"
#include "driver_case.h"
#include "driver_dense.h"
#include "driver_gradients.h"

namespace cnnkern::cuda {

// A mask for each image, or one for all of them, as the kernels go by it. Cases of an odd rank show the
// nearest kept output where one is not kept.
struct Perforation {
  bool each_image;
  Masks size;
  std::vector<int32_t> sources, arrays;
  std::vector<int64_t> begin;

  Perforation(const Case& c, bool each_image, cudaError_t& error)
      : each_image(each_image),
        size{each_image ? c.shape.batch : 1, c.shape.out_height, c.shape.out_width},
        begin(static_cast<size_t>(c.shape.batch + 1)) {
    const auto area = static_cast<size_t>(size.area()), positions = static_cast<size_t>(size.masks) * area;
    std::vector<uint8_t> mask(positions);
    for (size_t p = 0; p < positions; ++p) mask[p] = p % area == 0 || p * 7 % 5 < 2;
    sources.resize(positions), arrays.resize(2 * positions);
    std::vector<int32_t> scratch(2 * positions);
    error = perforated_conv2d_sources(size, mask.data(), c.rank % 2, sources.data(), scratch.data(), nullptr);
    if (error == cudaSuccess)
      error = perforated_conv2d_arrange(size, sources.data(), arrays.data(), scratch.data(), nullptr);
  }
  Arranged arranged() const { return {arrays.data(), each_image}; }
  // The output that is shown at `position` of image n, or -1.
  int32_t source(int64_t n, int64_t position) const {
    return sources[static_cast<size_t>((each_image ? n * size.area() : 0) + position)];
  }
};

template <bool kOfEachImage>
std::string run_perforated_conv2d(const Case& c, const Device& device) {
  const Conv2dShape& s = c.shape;
  const Arithmetic arithmetic = arithmetic_of(c.arithmetic);
  const Memory x = Memory::random(s.batch * s.in_channels * s.in_height * s.in_width, arithmetic);
  const DenseWeight weight(s, arithmetic);
  const Memory bias = Memory::random(s.out_channels, arithmetic);
  const Memory y(s.batch * s.out_channels * s.out_height * s.out_width, arithmetic);
  const Memory sums(perforated_conv2d_scratch(s, arithmetic, device), Arithmetic::kFloat32);
  cudaError_t error;
  Perforation perforation(c, kOfEachImage, error);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  const Memory packed = weight.pack(WeightLayout::forward(weight.sizes, weight.strides), arithmetic, error);
  if (error == cudaSuccess)
    error = perforated_conv2d(
        {s, arithmetic, perforation.arranged(), x.data(), packed.data(), bias.data(), y.data(),
         static_cast<float*>(sums.data()), kOfEachImage ? perforation.begin.data() : nullptr},
        device, nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return compare(s, x, bias, y, rounding(arithmetic, weight.strides[0] + 1), weight,
                 [&](int64_t n, int64_t position) -> int64_t { return perforation.source(n, position); });
}

// The gradients of what is shown, added up at the outputs that are.
inline Gradient folded_gradient(const Conv2dShape& s, const Perforation& perforation, const Memory& grad) {
  Gradient sums("folded", grad.size());
  const auto place = [&](int64_t n, int64_t k, int64_t position) {
    return at(s.channels_last, s.out_channels, s.out_height, s.out_width, n, k, position / s.out_width,
              position % s.out_width);
  };
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t position = 0; position < s.out_height * s.out_width; ++position) {
      const int32_t source = perforation.source(n, position);
      for (int64_t k = 0; source >= 0 && k < s.out_channels; ++k)
        sums.add(place(n, k, source), grad.at(place(n, k, position)));
    }
  return sums;
}

template <bool kOfEachImage>
std::string run_perforated_conv2d_backward(const Case& c, const Device& device) {
  const Conv2dShape& s = c.shape;
  const Arithmetic arithmetic = arithmetic_of(c.arithmetic);
  const Memory x = Memory::random(s.batch * s.in_channels * s.in_height * s.in_width, arithmetic);
  const Memory grad = Memory::random(s.batch * s.out_channels * s.out_height * s.out_width, arithmetic);
  const DenseWeight weight(s, arithmetic);
  const Memory folded(grad.size(), arithmetic), of_weight(weight.values.size(), arithmetic);
  const Memory partial(perforated_conv2d_backward_scratch(s, arithmetic, device), Arithmetic::kFloat32);
  std::vector<KeptPlace> places(static_cast<size_t>(kept_places(s)));
  cudaError_t error;
  Perforation perforation(c, kOfEachImage, error);
  if (error == cudaSuccess)
    error =
        perforated_conv2d_fold(s, arithmetic, perforation.arranged(), grad.data(), folded.data(), nullptr);
  if (error == cudaSuccess)
    error = perforated_conv2d_backward({s, arithmetic, perforation.arranged(), folded.data(), x.data(),
                                        of_weight.data(), static_cast<float*>(partial.data()),
                                        kOfEachImage ? perforation.begin.data() : nullptr, places.data()},
                                       device, nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  const double relative = rounding(arithmetic, grad.size());
  const std::string wrong = folded_gradient(s, perforation, grad).compare(folded, relative);
  return wrong.empty() ? DenseGradients(s, folded, x, weight).weight.compare(of_weight, relative) : wrong;
}

}  // namespace cnnkern::cuda
