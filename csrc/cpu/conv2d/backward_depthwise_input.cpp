// The gradient of a depthwise convolution's input: phase by phase (backward_phases.h) a depthwise convolution
// of the output's gradient. Panels of 16 input channels are computed one by one, each from a strip of its
// own. An input channel that feeds M output channels has M times the taps: a strip's pixels hold the first
// output channel of the 16, then the second, and so on.
#include <algorithm>

#include "cpu/conv2d/backward.h"
#include "cpu/conv2d/backward_phases.h"
#include "cpu/panel_rows.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"
#include "cpu/strip.h"

namespace cnnkern {
namespace {

struct Plan {
  int64_t in_rows;        // of a band
  int64_t bands;          // of an image
  int64_t multiplier;     // M = K / C
  int64_t left, columns;  // of a strip
  int64_t strip_panels;   // of input channels, filled at once
  int64_t taps;
  // Elements of what the team shares, and of one worker's scratch, in this order.
  int64_t packed_size, offsets_size, strip_size, narrow_size, tile_size;
  int64_t worker_size() const { return offsets_size + strip_panels * strip_size + narrow_size + tile_size; }
  int64_t pixel() const { return multiplier * kPanel; }  // of a strip
};

template <class T>
Plan make_plan(const Conv2dShape& s, int64_t threads) {
  Plan plan{};
  plan.multiplier = s.out_channels / s.in_channels;
  plan.taps = s.kernel_height * s.kernel_width;
  const RowsMet met = rows_met(0, s.in_width, s.kernel_width, s.stride_width, s.pad_width, s.dilation_width);
  plan.left = met.begin;
  plan.columns = met.count;
  // Channels last, neighbouring panels lie in the same pages: all of them are filled at once.
  plan.strip_panels = s.channels_last && plan.multiplier == 1 ? panels(s.in_channels) : 1;
  const int64_t row_bytes = static_cast<int64_t>(sizeof(T)) * plan.columns * plan.pixel() * plan.strip_panels;
  const int64_t fit = std::max<int64_t>(1, level2_cache_bytes() / 4 / row_bytes) * s.stride_height;
  int64_t bands = (s.in_height + fit - 1) / fit;
  if (s.batch % threads != 0 && s.batch < 8 * threads)
    bands = std::min(s.in_height, round_up(bands, threads));
  plan.in_rows = (s.in_height + bands - 1) / bands;
  plan.bands = (s.in_height + plan.in_rows - 1) / plan.in_rows;
  const int64_t all_taps = plan.taps * plan.multiplier;
  plan.packed_size = panels(s.in_channels) * all_taps * kPanel;
  plan.offsets_size = round_up(all_taps * static_cast<int64_t>(sizeof(int64_t) / sizeof(T)), kPanel);
  const int64_t rows = most_rows_met(plan.in_rows, s.kernel_height, s.stride_height, s.dilation_height);
  plan.strip_size = rows * plan.columns * plan.pixel();
  plan.narrow_size = plan.multiplier == 1 ? 0 : plan.strip_size;
  plan.tile_size = s.channels_last ? 0 : plan.in_rows * s.in_width * kPanel;
  return plan;
}

// One phase of rows and one of columns, and where its taps begin among those of a panel.
struct PhasePair {
  Phase rows, columns;
  int64_t row_residue, column_residue;
  int64_t first_tap;
};

template <class Body>
void for_each_phase(const Conv2dShape& s, const Body& body) {
  int64_t first_tap = 0;
  for (int64_t a = 0; a < s.stride_height; ++a) {
    for (int64_t b = 0; b < s.stride_width; ++b) {
      const PhasePair pair{phase_of(s.kernel_height, s.stride_height, s.dilation_height, a),
                           phase_of(s.kernel_width, s.stride_width, s.dilation_width, b), a, b, first_tap};
      body(pair);
      first_tap += pair.rows.taps * pair.columns.taps;
    }
  }
}

// (panels of C, taps phase by phase, M, kPanel); zeros in the lanes past C.
template <class T>
void pack_panel(const Conv2dBackwardParams<T>& p, const Plan& plan, int64_t panel) {
  const Conv2dShape& s = p.shape;
  T* to = p.scratch + panel * plan.taps * plan.multiplier * kPanel;
  for_each_phase(s, [&](const PhasePair& pair) {
    for (int64_t t = 0; t < pair.rows.taps * pair.columns.taps; ++t) {
      const int64_t i = pair.rows.first + t / pair.columns.taps * pair.rows.step;
      const int64_t j = pair.columns.first + t % pair.columns.taps * pair.columns.step;
      for (int64_t m = 0; m < plan.multiplier; ++m) {
        for (int64_t lane = 0; lane < kPanel; ++lane) {
          const int64_t c = panel * kPanel + lane, k = c * plan.multiplier + m;
          *to++ = c < s.in_channels ? p.weight[k * plan.taps + i * s.kernel_width + j] : T(0);
        }
      }
    }
  });
}

// (pixels, 16, M) to (pixels, M, 16).
template <class T>
void sort_channels(const T* from, int64_t pixels, int64_t multiplier, T* to) {
  for (int64_t p = 0; p < pixels; ++p, from += multiplier * kPanel) {
    for (int64_t m = 0; m < multiplier; ++m, to += kPanel) {
      for (int64_t c = 0; c < kPanel; ++c) to[c] = from[c * multiplier + m];
    }
  }
}

struct Band {
  int64_t image, first, last;
  int64_t top, rows;  // of the strip
};

// One panel of input channels of a band, into `to` (rows, W) with `pixel` elements from one pixel to the
// next.
template <class T>
void compute(const Primitives<T>& kernels, const Conv2dShape& s, const Plan& plan, const Band& band,
             const T* strip, int64_t channels, const T* weight, int64_t* offsets, T* to, int64_t pixel) {
  const int64_t pitch = plan.columns * plan.pixel();
  for_each_phase(s, [&](const PhasePair& pair) {
    const PhaseRows y = rows_of_phase(band.first, band.last, s.stride_height, s.pad_height, pair.row_residue);
    const PhaseRows x = rows_of_phase(0, s.in_width, s.stride_width, s.pad_width, pair.column_residue);
    DepthwiseLine<T> line{};
    for (int64_t i = 0; i < pair.rows.taps; ++i) {
      for (int64_t j = 0; j < pair.columns.taps; ++j) {
        const int64_t back = (pair.rows.reach + i * pair.rows.reach_step) * pitch +
                             (pair.columns.reach + j * pair.columns.reach_step) * plan.pixel();
        for (int64_t m = 0; m < plan.multiplier; ++m) offsets[line.taps++] = m * kPanel - back;
      }
    }
    line.x_pixel = plan.pixel();
    line.tap_offset = offsets;
    line.weight = weight + pair.first_tap * plan.multiplier * kPanel;
    line.out_width = x.count;
    line.out_pixel = s.stride_width * pixel;
    line.channels = channels;
    for (int64_t r = 0; r < y.count; ++r) {
      line.x = strip + (y.out + r - band.top) * pitch + (x.out - plan.left) * plan.pixel();
      line.out = to + ((y.first + r * s.stride_height - band.first) * s.in_width + x.first) * pixel;
      kernels.depthwise_line(line);
    }
  });
}

// All channels of a channels-last image in a window, zeros outside it, to panels (panel, rows, columns,
// kPanel) `panel_size` elements apart.
template <class T>
void fill_panels(const Primitives<T>& kernels, const ImageView<T>& image, const Window& window, T* to,
                 int64_t panel_size) {
  const int64_t left = std::clamp<int64_t>(-window.left, 0, window.columns);
  const int64_t right = std::clamp<int64_t>(image.width - window.left, left, window.columns);
  for (int64_t r = 0; r < window.rows; ++r, to += window.columns * kPanel) {
    const int64_t row = window.top + r;
    const bool inside = row >= 0 && row < image.height;
    for (int64_t q = 0; q < panels(image.channels); ++q) {
      T* const line = to + q * panel_size;
      std::fill(line, line + (inside ? left : window.columns) * kPanel, T(0));
      if (inside) std::fill(line + right * kPanel, line + window.columns * kPanel, T(0));
    }
    if (!inside) continue;
    pack_pixels(kernels, image.data + (row * image.width + window.left + left) * image.channels, true,
                image.channels, 0, image.channels, right - left, to + left * kPanel, panel_size);
  }
}

template <class T>
void run(const Conv2dBackwardParams<T>& p, const Primitives<T>& kernels, const Plan& plan, const Worker& me) {
  const Conv2dShape& s = p.shape;
  T* const base = p.scratch + plan.packed_size + me.index * plan.worker_size();
  int64_t* const offsets = reinterpret_cast<int64_t*>(base);
  T* const strip = base + plan.offsets_size;
  T* const narrow = plan.narrow_size > 0 ? strip + plan.strip_size : strip;
  T* const tile = strip + plan.strip_panels * plan.strip_size + plan.narrow_size;
  const int64_t area = s.in_height * s.in_width;
  const auto [begin, end] = me.share(s.batch * plan.bands);
  for (int64_t item = begin; item < end; ++item) {
    Band band{};
    band.image = item / plan.bands;
    band.first = item % plan.bands * plan.in_rows;
    band.last = std::min(s.in_height, band.first + plan.in_rows);
    const RowsMet met =
        rows_met(band.first, band.last, s.kernel_height, s.stride_height, s.pad_height, s.dilation_height);
    band.top = met.begin;
    band.rows = met.count;
    const T* const grad = p.grad + band.image * s.out_channels * s.out_height * s.out_width;
    const ImageView<T> image{grad, s.out_channels, s.out_height, s.out_width, s.channels_last};
    const Window window{band.top, band.rows, plan.left, plan.columns};
    const bool at_once = plan.strip_panels > 1;
    if (at_once) fill_panels(kernels, image, window, strip, plan.strip_size);
    for (int64_t channel = 0; channel < s.in_channels; channel += kPanel) {
      const int64_t channels = std::min(kPanel, s.in_channels - channel);
      const T* const weight = p.scratch + channel * plan.taps * plan.multiplier;
      T* const to = p.grad_x + band.image * s.in_channels * area;
      const T* const panel = at_once ? strip + channel / kPanel * plan.strip_size : strip;
      if (!at_once) {
        if (channels < kPanel) std::fill_n(narrow, band.rows * plan.columns * plan.pixel(), T(0));
        fill_window<T>(kernels, image, channel * plan.multiplier, channels * plan.multiplier, window, narrow,
                       plan.pixel());
        if (narrow != strip) sort_channels(narrow, band.rows * plan.columns, plan.multiplier, strip);
      }
      if (s.channels_last) {
        compute(kernels, s, plan, band, panel, channels, weight, offsets,
                to + band.first * s.in_width * s.in_channels + channel, s.in_channels);
      } else {
        compute(kernels, s, plan, band, panel, channels, weight, offsets, tile, kPanel);
        kernels.transpose(tile, kPanel, (band.last - band.first) * s.in_width, channels,
                          to + channel * area + band.first * s.in_width, area);
      }
    }
  }
}

}  // namespace

template <class T>
int64_t backward_depthwise_input_scratch(const Conv2dShape& s, int64_t threads) {
  const Plan plan = make_plan<T>(s, threads);
  return plan.packed_size + threads * plan.worker_size();
}

template <class T>
void backward_depthwise_input(const Conv2dBackwardParams<T>& p) {
  const Primitives<T>& kernels = primitives<T>();
  const Plan plan = make_plan<T>(p.shape, p.threads);
  parallel(p.threads, [&](const Worker& me) {
    const auto [begin, end] = me.share(panels(p.shape.in_channels));
    for (int64_t panel = begin; panel < end; ++panel) pack_panel(p, plan, panel);
    me.barrier();
    run(p, kernels, plan, me);
  });
}

template int64_t backward_depthwise_input_scratch<float>(const Conv2dShape&, int64_t);
template int64_t backward_depthwise_input_scratch<double>(const Conv2dShape&, int64_t);
template void backward_depthwise_input(const Conv2dBackwardParams<float>&);
template void backward_depthwise_input(const Conv2dBackwardParams<double>&);

}  // namespace cnnkern
