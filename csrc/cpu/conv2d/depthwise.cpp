// See depthwise.h. A strip's pixels hold one value for every output channel (repeated where K > C), so that a
// panel of 16 output channels is 16 adjacent values at every tap.
#include "cpu/conv2d/depthwise.h"

#include <algorithm>

#include "cpu/parallel.h"
#include "cpu/registry.h"
#include "cpu/strip.h"

namespace cnnkern {
namespace {

struct Plan {
  int64_t out_rows;  // of a strip
  int64_t strips;    // of an image
  int64_t channels;  // of a strip's pixel: K and the rest of the last panel
  int64_t offsets_size, strip_size, tile_size;
  int64_t worker_size() const { return offsets_size + strip_size + tile_size; }
};

// Whether a pixel of the image is a pixel of a strip, so that there is nothing to spread.
bool fits_panels(const Conv2dShape& s) {
  return s.in_channels == s.out_channels && s.out_channels % kPanel == 0;
}

template <class T>
Plan make_plan(const Conv2dShape& s, int64_t threads) {
  Plan plan{};
  plan.channels = round_up(s.out_channels, kPanel);
  const int64_t width = strip_width(s), pixel = plan.channels + (fits_panels(s) ? 0 : s.in_channels);
  const int64_t row_bytes = static_cast<int64_t>(sizeof(T)) * width * pixel * s.stride_height;
  const int64_t fit = std::max<int64_t>(1, level2_cache_bytes() / 16 / row_bytes);
  int64_t strips = (s.out_height + fit - 1) / fit;
  if (s.batch % threads != 0 && s.batch < 8 * threads)
    strips = std::min(s.out_height, round_up(strips, threads));
  plan.out_rows = (s.out_height + strips - 1) / strips;
  plan.strips = (s.out_height + plan.out_rows - 1) / plan.out_rows;
  const int64_t words = s.kernel_height * s.kernel_width * static_cast<int64_t>(sizeof(int64_t) / sizeof(T));
  plan.offsets_size = round_up(words, kPanel);
  plan.strip_size = round_up(strip_rows(s, plan.out_rows) * width * pixel, kPanel);
  plan.tile_size = s.channels_last ? 0 : plan.out_rows * s.out_width * kPanel;
  return plan;
}

// (pixels, C) to (pixels, channels): each value for its K / C output channels, zeros up to the panel's end.
template <class T>
void spread(const T* from, int64_t pixels, int64_t in_channels, int64_t out_channels, int64_t channels,
            T* to) {
  const int64_t multiplier = out_channels / in_channels;
  for (int64_t p = 0; p < pixels; ++p, from += in_channels, to += channels) {
    if (multiplier == 1) {
      std::copy_n(from, in_channels, to);
    } else {
      for (int64_t c = 0; c < in_channels; ++c) std::fill_n(to + c * multiplier, multiplier, from[c]);
    }
    std::fill(to + out_channels, to + channels, T(0));
  }
}

template <class T>
void run(const Conv2dParams<T>& p, const Primitives<T>& kernels, const Plan& plan, const Worker& me) {
  const Conv2dShape& s = p.shape;
  T* const base = p.scratch + me.index * plan.worker_size();
  int64_t* const offsets = reinterpret_cast<int64_t*>(base);
  T* const strip = base + plan.offsets_size;
  T* const tile = strip + plan.strip_size;
  const int64_t width = strip_width(s), pitch = width * plan.channels, area = s.out_height * s.out_width;
  const int64_t taps = s.kernel_height * s.kernel_width;
  for (int64_t t = 0; t < taps; ++t) {
    offsets[t] = t / s.kernel_width * s.dilation_height * pitch +
                 t % s.kernel_width * s.dilation_width * plan.channels;
  }
  const auto [begin, end] = me.share(s.batch * plan.strips);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t image = i / plan.strips, first = i % plan.strips * plan.out_rows;
    const int64_t rows = std::min(plan.out_rows, s.out_height - first);
    const int64_t in_rows = strip_rows(s, rows);
    T* const narrow = fits_panels(s) ? strip : strip + in_rows * pitch;
    fill_strip(kernels, s, p.x + image * s.in_channels * s.in_height * s.in_width, first, rows, narrow);
    if (narrow != strip) spread(narrow, in_rows * width, s.in_channels, s.out_channels, plan.channels, strip);
    const auto compute = [&](int64_t row, int64_t channel, T* out, int64_t out_pixel) {
      DepthwiseLine<T> line{};
      line.x = strip + row * s.stride_height * pitch + channel;
      line.x_pixel = s.stride_width * plan.channels;
      line.tap_offset = offsets;
      line.taps = taps;
      line.weight = p.packed + channel * taps;
      line.bias = p.bias ? p.bias + channel : nullptr;
      line.out = out;
      line.out_width = s.out_width;
      line.out_pixel = out_pixel;
      line.channels = std::min(kPanel, s.out_channels - channel);
      line.relu = p.relu;
      kernels.depthwise_line(line);
    };
    if (s.channels_last) {  // all panels of a row before the next, since that is how y lies in memory
      T* const y = p.y + (image * area + first * s.out_width) * s.out_channels;
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t channel = 0; channel < s.out_channels; channel += kPanel)
          compute(row, channel, y + row * s.out_width * s.out_channels + channel, s.out_channels);
      }
      continue;
    }
    for (int64_t channel = 0; channel < s.out_channels; channel += kPanel) {
      for (int64_t row = 0; row < rows; ++row)
        compute(row, channel, tile + row * s.out_width * kPanel, kPanel);
      kernels.transpose(tile, kPanel, rows * s.out_width, std::min(kPanel, s.out_channels - channel),
                        p.y + (image * s.out_channels + channel) * area + first * s.out_width, area);
    }
  }
}

}  // namespace

template <class T>
int64_t depthwise_scratch(const Conv2dShape& shape, int64_t threads) {
  return threads * make_plan<T>(shape, threads).worker_size();
}

template <class T>
void depthwise(const Conv2dParams<T>& p) {
  const Primitives<T>& kernels = primitives<T>();
  const Plan plan = make_plan<T>(p.shape, p.threads);
  parallel(p.threads, [&](const Worker& me) { run(p, kernels, plan, me); });
}

template int64_t depthwise_scratch<float>(const Conv2dShape&, int64_t);
template int64_t depthwise_scratch<double>(const Conv2dShape&, int64_t);
template void depthwise(const Conv2dParams<float>&);
template void depthwise(const Conv2dParams<double>&);

}  // namespace cnnkern
