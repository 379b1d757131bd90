// The gradient of a bias: the sum of the output's gradient over all pixels.
//
// Channels last, the pixels are cut into pieces whose number depends on the shape alone, so that the bits do
// not depend on the number of workers; channel first, the workers share the channels.
#include <algorithm>

#include "cpu/conv2d/backward.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

constexpr int64_t kPieces = 16;
constexpr int64_t kBlockPixels = 64;

template <class T>
struct Ones {
  T lanes[kPanel];
  Ones() { std::fill_n(lanes, kPanel, T(1)); }
};

// Adds `pixels` pixels (pixels, K) to `sum` (K in whole panels).
template <class T>
void add_pixels(const Primitives<T>& kernels, const T* grad, int64_t pixels, int64_t channels, T* sum) {
  const Ones<T> ones;
  const int64_t whole = channels / kPanel * kPanel, rest = channels - whole;
  T last[kBlockPixels * kPanel] = {};
  for (int64_t begin = 0; begin < pixels; begin += kBlockPixels, grad += kBlockPixels * channels) {
    const int64_t count = std::min(kBlockPixels, pixels - begin);
    for (int64_t c = 0; c < whole; c += kPanel)
      kernels.dot_line(grad + c, channels, ones.lanes, 0, count, sum + c);
    if (rest == 0) continue;
    for (int64_t i = 0; i < count; ++i) std::copy_n(grad + i * channels + whole, rest, last + i * kPanel);
    kernels.dot_line(last, kPanel, ones.lanes, 0, count, sum + whole);
  }
}

template <class T>
T sum_of_plane(const Primitives<T>& kernels, const T* plane, int64_t area) {
  const Ones<T> ones;
  T sum[kPanel] = {};
  const int64_t whole = area / kPanel;
  kernels.dot_line(plane, kPanel, ones.lanes, 0, whole, sum);
  for (int64_t i = whole * kPanel; i < area; ++i) sum[i - whole * kPanel] += plane[i];
  for (int64_t lanes = kPanel / 2; lanes > 0; lanes /= 2) {
    for (int64_t i = 0; i < lanes; ++i) sum[i] += sum[i + lanes];
  }
  return sum[0];
}

}  // namespace

template <class T>
int64_t backward_bias_scratch(const Conv2dShape& s) {
  return s.channels_last ? kPieces * round_up(s.out_channels, kPanel) : 0;
}

template <class T>
void backward_bias(const Conv2dBackwardParams<T>& p) {
  const Conv2dShape& s = p.shape;
  const Primitives<T>& kernels = primitives<T>();
  const int64_t area = s.out_height * s.out_width, pixels = s.batch * area;
  const int64_t columns = round_up(s.out_channels, kPanel);
  parallel(p.threads, [&](const Worker& me) {
    const auto [first, last] = me.share(s.channels_last ? kPieces : s.out_channels);
    for (int64_t i = first; i < last; ++i) {
      if (s.channels_last) {
        const int64_t begin = pixels * i / kPieces, end = pixels * (i + 1) / kPieces;
        T* const sum = p.scratch + i * columns;
        std::fill_n(sum, columns, T(0));
        add_pixels(kernels, p.grad + begin * s.out_channels, end - begin, s.out_channels, sum);
      } else {
        T sum = 0;
        for (int64_t n = 0; n < s.batch; ++n)
          sum += sum_of_plane(kernels, p.grad + (n * s.out_channels + i) * area, area);
        p.grad_bias[i] = sum;
      }
    }
  });
  if (!s.channels_last) return;
  for (int64_t k = 0; k < s.out_channels; ++k) {
    T sum = 0;
    for (int64_t i = 0; i < kPieces; ++i) sum += p.scratch[i * columns + k];
    p.grad_bias[k] = sum;
  }
}

template int64_t backward_bias_scratch<float>(const Conv2dShape&);
template int64_t backward_bias_scratch<double>(const Conv2dShape&);
template void backward_bias(const Conv2dBackwardParams<float>&);
template void backward_bias(const Conv2dBackwardParams<double>&);

}  // namespace cnnkern
