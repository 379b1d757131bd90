// The gradient of a depthwise convolution's weight: for every tap and channel a dot product over the output's
// pixels.
//
// Panels of 16 output channels are computed one by one: a band of input rows becomes a strip of 16 values a
// pixel (an input channel is repeated where it feeds several output channels), and each output row is
// multiplied with the strip at every tap. The bands are cut into parts whose number depends on the shape
// alone, and added up at the end; workers share the panels of all parts.
#include <algorithm>

#include "cpu/conv2d/backward.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"
#include "cpu/strip.h"

namespace cnnkern {
namespace {

constexpr int64_t kParts = 8;  // of the sum, at most

struct Plan {
  int64_t out_rows;  // of a band
  int64_t bands;     // of an image
  int64_t parts;     // of the sum over the bands of all images
  int64_t taps;
  int64_t multiplier;  // K / C
  // Elements of all accumulators (parts, panels of K, taps, kPanel), and of one worker's scratch in this
  // order.
  int64_t sums_size, strip_size, narrow_size, grad_size, pointers_size;
  int64_t worker_size() const { return strip_size + narrow_size + grad_size + pointers_size; }
};

template <class T>
Plan make_plan(const Conv2dShape& s) {
  Plan plan{};
  plan.taps = s.kernel_height * s.kernel_width;
  plan.multiplier = s.out_channels / s.in_channels;
  // Channels last, neighbouring panels lie in the same pages: a band of all of them stays in level 2.
  const int64_t at_once = s.channels_last ? panels(s.out_channels) : 1;
  const int64_t row_bytes =
      static_cast<int64_t>(sizeof(T)) * kPanel * at_once * (strip_width(s) * s.stride_height + s.out_width);
  const int64_t fit = std::max<int64_t>(1, level2_cache_bytes() / 4 / row_bytes);
  const int64_t bands = (s.out_height + fit - 1) / fit;
  plan.out_rows = (s.out_height + bands - 1) / bands;
  plan.bands = (s.out_height + plan.out_rows - 1) / plan.out_rows;
  plan.parts = std::min(kParts, s.batch * plan.bands);
  plan.sums_size = plan.parts * panels(s.out_channels) * plan.taps * kPanel;
  plan.strip_size = strip_rows(s, plan.out_rows) * strip_width(s) * kPanel;
  plan.narrow_size = plan.multiplier == 1 ? 0 : plan.strip_size;
  plan.grad_size = plan.out_rows * s.out_width * kPanel;
  plan.pointers_size = round_up(plan.taps * kPointerSize<T>, kPanel);
  return plan;
}

// The strip of output channels [first, first + count) under output rows [row, row + rows).
template <class T>
void fill_panel(const Conv2dBackwardParams<T>& p, const Primitives<T>& kernels, const Plan& plan,
                int64_t image, int64_t row, int64_t rows, int64_t first, int64_t count, T* strip) {
  const Conv2dShape& s = p.shape;
  const int64_t channel = first / plan.multiplier,
                channels = (first + count - 1) / plan.multiplier - channel + 1;
  const Window window{row * s.stride_height - s.pad_height, strip_rows(s, rows), -s.pad_width,
                      strip_width(s)};
  T* const narrow = plan.multiplier == 1 ? strip : strip + plan.strip_size;
  fill_window<T>(kernels,
                 {p.x + image * s.in_channels * s.in_height * s.in_width, s.in_channels, s.in_height,
                  s.in_width, s.channels_last},
                 channel, channels, window, narrow, kPanel);
  if (plan.multiplier == 1) return;
  for (int64_t i = 0; i < window.rows * window.columns; ++i) {
    for (int64_t k = 0; k < count; ++k)
      strip[i * kPanel + k] = narrow[i * kPanel + (first + k) / plan.multiplier - channel];
  }
}

// Adds the products of a band to the accumulators (taps, kPanel) of the panel of output channels at `first`.
template <class T>
void add_band(const Conv2dBackwardParams<T>& p, const Primitives<T>& kernels, const Plan& plan, int64_t band,
              int64_t first, T* sums, T* strip) {
  const Conv2dShape& s = p.shape;
  const int64_t count = std::min(kPanel, s.out_channels - first), pitch = strip_width(s) * kPanel;
  const int64_t out_image = s.out_channels * s.out_height * s.out_width;
  const int64_t image = band / plan.bands, row = band % plan.bands * plan.out_rows;
  const int64_t rows = std::min(plan.out_rows, s.out_height - row);
  T* const panel = strip + plan.strip_size + plan.narrow_size;
  const T** const taps = reinterpret_cast<const T**>(panel + plan.grad_size);
  // Lanes past the last channel are computed too: let there be numbers in them.
  if (count < kPanel) std::fill_n(strip, plan.worker_size(), T(0));
  fill_panel(p, kernels, plan, image, row, rows, first, count, strip);
  const T* grad = p.grad + image * out_image + row * s.out_width * s.out_channels + first;
  int64_t grad_pixel = s.out_channels;
  if (!s.channels_last || count < kPanel) {
    fill_window<T>(kernels,
                   {p.grad + image * out_image, s.out_channels, s.out_height, s.out_width, s.channels_last},
                   first, count, {row, rows, 0, s.out_width}, panel, kPanel);
    grad = panel;
    grad_pixel = kPanel;
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t t = 0; t < plan.taps; ++t)
      taps[t] = strip + (r * s.stride_height + t / s.kernel_width * s.dilation_height) * pitch +
                t % s.kernel_width * s.dilation_width * kPanel;
    kernels.dot_lines(taps, plan.taps, s.stride_width * kPanel, grad + r * s.out_width * grad_pixel,
                      grad_pixel, s.out_width, sums);
  }
}

// One part of the bands for some panels of output channels: all of them before the next band where they lie
// in the same pages.
template <class T>
void add_part(const Conv2dBackwardParams<T>& p, const Primitives<T>& kernels, const Plan& plan, int64_t part,
              int64_t first, int64_t last, T* sums, T* strip) {
  const int64_t bands = p.shape.batch * plan.bands, panel_size = plan.taps * kPanel;
  std::fill_n(sums, (last - first) * panel_size, T(0));
  const int64_t begin = bands * part / plan.parts, count = bands * (part + 1) / plan.parts - begin;
  for (int64_t i = 0; i < count * (last - first); ++i) {
    const int64_t band = p.shape.channels_last ? i / (last - first) : i % count;
    const int64_t panel = p.shape.channels_last ? i % (last - first) : i / count;
    add_band(p, kernels, plan, begin + band, (first + panel) * kPanel, sums + panel * panel_size, strip);
  }
}

}  // namespace

template <class T>
int64_t backward_depthwise_weight_scratch(const Conv2dShape& s, int64_t threads) {
  const Plan plan = make_plan<T>(s);
  return plan.sums_size + threads * plan.worker_size();
}

template <class T>
void backward_depthwise_weight(const Conv2dBackwardParams<T>& p) {
  const Conv2dShape& s = p.shape;
  const Primitives<T>& kernels = primitives<T>();
  const Plan plan = make_plan<T>(s);
  const int64_t all_panels = panels(s.out_channels), panel_size = plan.taps * kPanel;
  parallel(p.threads, [&](const Worker& me) {
    T* const scratch = p.scratch + plan.sums_size + me.index * plan.worker_size();
    const auto [begin, end] = me.share(plan.parts * all_panels);
    for (int64_t i = begin; i < end;) {
      const int64_t panel = i % all_panels, last = std::min(all_panels, panel + end - i);
      add_part(p, kernels, plan, i / all_panels, panel, last, p.scratch + i * panel_size, scratch);
      i += last - panel;
    }
    me.barrier();
    const auto [first, last] = me.share(all_panels);
    for (int64_t panel = first; panel < last; ++panel) {
      T* const sums = p.scratch + panel * panel_size;
      for (int64_t part = 1; part < plan.parts; ++part) {
        const T* const from = sums + part * all_panels * panel_size;
        for (int64_t i = 0; i < panel_size; ++i) sums[i] += from[i];
      }
      kernels.transpose(sums, kPanel, plan.taps, std::min(kPanel, s.out_channels - panel * kPanel),
                        p.grad_weight + panel * kPanel * plan.taps, plan.taps);
    }
  });
}

template int64_t backward_depthwise_weight_scratch<float>(const Conv2dShape&, int64_t);
template int64_t backward_depthwise_weight_scratch<double>(const Conv2dShape&, int64_t);
template void backward_depthwise_weight(const Conv2dBackwardParams<float>&);
template void backward_depthwise_weight(const Conv2dBackwardParams<double>&);

}  // namespace cnnkern
