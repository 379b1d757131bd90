// The gradient of a convolution's input, which is a convolution of the output's gradient.
//
// At stride 1 it is one with the weight transposed and turned by 180 degrees, and the forward kernel runs it.
// At any other stride each phase (backward_phases.h) is such a convolution with some of the taps, and writes
// every stride-th pixel of every stride-th row. A work item is a band of input rows of one image, against a
// range of input channels; the output rows that it meets become a strip, which all phases read.
#include <algorithm>

#include "cpu/conv2d/backward.h"
#include "cpu/conv2d/backward_pack.h"
#include "cpu/conv2d/backward_phases.h"
#include "cpu/conv2d/conv2d.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"
#include "cpu/strip.h"

namespace cnnkern {
namespace {

// The convolution of the output's gradient that gives the input's, at stride 1.
Conv2dShape turned(const Conv2dShape& s) {
  Conv2dShape t = s;
  std::swap(t.in_channels, t.out_channels);
  std::swap(t.in_height, t.out_height);
  std::swap(t.in_width, t.out_width);
  t.pad_height = (s.kernel_height - 1) * s.dilation_height - s.pad_height;
  t.pad_width = (s.kernel_width - 1) * s.dilation_width - s.pad_width;
  return t;
}

// Padding beyond the kernel's reach would become a negative one.
bool is_forward(const Conv2dShape& s) {
  const Conv2dShape t = turned(s);
  return s.stride_height == 1 && s.stride_width == 1 && t.pad_height >= 0 && t.pad_width >= 0;
}

Phase phase_of_rows(const Conv2dShape& s, int64_t residue) {
  return phase_of(s.kernel_height, s.stride_height, s.dilation_height, residue);
}

Phase phase_of_columns(const Conv2dShape& s, int64_t residue) {
  return phase_of(s.kernel_width, s.stride_width, s.dilation_width, residue);
}

// Most products of the turned convolution, or of the phases, would be with padding.
bool is_sum(const Conv2dShape& s) {
  return 2 * s.in_height * s.in_width > 3 * s.stride_height * s.stride_width * s.out_height * s.out_width;
}

int64_t packed_size(const Conv2dShape& s) { return taps_packed_size(s, s.kernel_height * s.kernel_width); }

// The turned weight as the forward kernel wants it.
template <class T>
void pack_turned(const Conv2dBackwardParams<T>& p, T* packed, T* scratch) {
  const Conv2dShape& s = p.shape;
  if (!is_depthwise(turned(s))) return pack_taps(s, p.weight, packed, scratch, p.threads);
  const int64_t area = s.kernel_height * s.kernel_width;
  const int64_t stride[] = {area, 0, -s.kernel_width, -1};
  conv2d_pack(p.weight + area - 1, stride, s.in_channels, 1, s.kernel_height, s.kernel_width, s.groups,
              packed, p.threads);
}

struct Plan {
  int64_t in_rows;          // of a band
  int64_t bands;            // of an image
  int64_t splits;           // of a group's input channels
  bool in_place;            // read the gradient itself
  int64_t left, columns;    // of a strip
  int64_t group_columns;    // C / G
  int64_t group_depth;      // K / G
  int64_t columns_at_once;  // input channels of one product
  // Elements of what the team shares, and of one worker's scratch, in this order.
  int64_t packed_size, strip_size, tile_size;
  int64_t worker_size() const { return strip_size + tile_size; }
};

template <class T>
Plan make_plan(const Conv2dShape& s, int64_t threads) {
  Plan plan{};
  plan.group_columns = s.in_channels / s.groups;
  plan.group_depth = s.out_channels / s.groups;
  plan.in_place =
      s.channels_last && s.kernel_height == 1 && s.kernel_width == 1 && s.pad_height == 0 && s.pad_width == 0;
  const RowsMet met = rows_met(0, s.in_width, s.kernel_width, s.stride_width, s.pad_width, s.dilation_width);
  plan.left = met.begin;
  plan.columns = met.count;
  plan.columns_at_once = s.channels_last ? plan.group_columns : std::min(plan.group_columns, 2 * kPanel);

  // A strip and what is computed from it take half of level 2; the other half is for weights.
  const int64_t pitch = plan.columns * s.out_channels;
  const int64_t out_row = s.in_width * (s.channels_last ? s.in_channels : 2 * kPanel);
  const int64_t row_bytes = static_cast<int64_t>(sizeof(T)) * (pitch / s.stride_height + out_row);
  const int64_t fit = std::max(s.stride_height, level2_cache_bytes() / 2 / row_bytes);
  int64_t bands = (s.in_height + fit - 1) / fit;
  plan.splits = 1;
  if (s.batch % threads != 0 && s.batch < 8 * threads) {
    // Too few images to go round: share the rows, or the channels where the weights are most of what is read.
    const int64_t depth = s.kernel_height * s.kernel_width * plan.group_depth;
    const bool heavy_weights = s.in_channels * depth > 2 * s.out_height * s.out_width * s.out_channels;
    const int64_t most = panels(plan.group_columns);
    if (heavy_weights && most >= threads) {
      plan.splits = threads;
    } else {
      bands = std::min((s.in_height + s.stride_height - 1) / s.stride_height, round_up(bands, threads));
      plan.splits = std::min(most, (threads + bands * s.batch - 1) / (bands * s.batch));
    }
  }
  plan.in_rows = (s.in_height + bands - 1) / bands;
  plan.bands = (s.in_height + plan.in_rows - 1) / plan.in_rows;

  plan.packed_size = packed_size(s);
  const int64_t rows = most_rows_met(plan.in_rows, s.kernel_height, s.stride_height, s.dilation_height);
  plan.strip_size = plan.in_place ? 0 : round_up(rows * pitch, kPanel);
  plan.tile_size = s.channels_last ? 0 : plan.in_rows * s.in_width * round_up(plan.columns_at_once, kPanel);
  return plan;
}

// A band of input rows of one image against a range of input channels, with its strip.
template <class T>
struct Band {
  int64_t image, first, last;
  int64_t column, column_end;  // of every group
  const T* strip;
  int64_t top;  // the output row at the strip's begin
};

// Where the gradient of a band's pixels goes: into grad_x or into a tile.
template <class T>
struct Target {
  T* data;  // first pixel of the band
  int64_t pixel;
  int64_t columns;
};

template <class T>
void write_zeros(const Target<T>& to, const Conv2dShape& s, int64_t first, const PhaseRows& y,
                 const PhaseRows& x) {
  for (int64_t i = 0; i < y.count; ++i) {
    T* pixel = to.data + ((y.first + i * s.stride_height - first) * s.in_width + x.first) * to.pixel;
    for (int64_t j = 0; j < x.count; ++j, pixel += s.stride_width * to.pixel)
      std::fill_n(pixel, to.columns, T(0));
  }
}

// One phase of a band: the product of the strip's patches with the phase's taps.
template <class T>
void multiply_phase(const Primitives<T>& kernels, const Conv2dShape& s, const Plan& plan, const Band<T>& band,
                    int64_t group, const Phase& rows, const PhaseRows& y, const Phase& columns,
                    const PhaseRows& x, const T* packed, const Target<T>& to) {
  const int64_t pitch = plan.columns * s.out_channels, depth = rows.taps * columns.taps * plan.group_depth;
  Gemm<T> gemm{};
  gemm.a = band.strip + (y.out - rows.last_reach() - band.top) * pitch +
           (x.out - columns.last_reach() - plan.left) * s.out_channels + group * plan.group_depth;
  gemm.a_pixel = s.out_channels;
  gemm.a_line = pitch;
  gemm.pixels = x.count;
  gemm.lines = y.count;
  gemm.patch = Patch::whole(rows.taps, rows.reach_step * pitch, columns.taps,
                            columns.reach_step * s.out_channels, plan.group_depth);
  gemm.b = packed;
  gemm.b_panel = depth * kPanel;
  gemm.b_step = kPanel;
  gemm.c = to.data + ((y.first - band.first) * s.in_width + x.first) * to.pixel;
  gemm.c_pixel = s.stride_width * to.pixel;
  gemm.c_line = s.stride_height * s.in_width * to.pixel;
  gemm.c_panel = kPanel;
  gemm.columns = to.columns;
  kernels.gemm(gemm);
}

// All phases of a band, for one group's input channels from `column` on.
template <class T>
void compute(const Primitives<T>& kernels, const Conv2dShape& s, const Plan& plan, const Band<T>& band,
             int64_t group, int64_t column, const T* packed, const Target<T>& to) {
  const int64_t first_panel = group * panels(plan.group_columns) + column / kPanel;
  for (int64_t a = 0; a < s.stride_height; ++a) {
    const Phase rows = phase_of_rows(s, a);
    const PhaseRows y = rows_of_phase(band.first, band.last, s.stride_height, s.pad_height, a);
    for (int64_t b = 0; b < s.stride_width; ++b) {
      const Phase columns = phase_of_columns(s, b);
      const PhaseRows x = rows_of_phase(0, s.in_width, s.stride_width, s.pad_width, b);
      const int64_t taps = rows.taps * columns.taps;
      if (taps == 0) {
        write_zeros(to, s, band.first, y, x);
      } else {
        multiply_phase(kernels, s, plan, band, group, rows, y, columns, x,
                       packed + first_panel * taps * plan.group_depth * kPanel, to);
      }
      packed += taps_packed_size(s, taps);
    }
  }
}

template <class T>
void run(const Conv2dBackwardParams<T>& p, const Primitives<T>& kernels, const Plan& plan, const Worker& me) {
  const Conv2dShape& s = p.shape;
  const T* const packed = p.scratch;
  T* const strip = p.scratch + plan.packed_size + me.index * plan.worker_size();
  T* const tile = strip + plan.strip_size;
  const int64_t area = s.in_height * s.in_width, out_image = s.out_channels * s.out_height * s.out_width;
  const int64_t column_panels = panels(plan.group_columns), bands = s.batch * plan.bands;
  int64_t band_in_strip = -1;
  const auto [begin, end] = me.share(bands * plan.splits);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t split = item / bands, index = item % bands;
    Band<T> band{};
    band.image = index / plan.bands;
    band.first = index % plan.bands * plan.in_rows;
    band.last = std::min(s.in_height, band.first + plan.in_rows);
    band.column = column_panels * split / plan.splits * kPanel;
    band.column_end = std::min(plan.group_columns, column_panels * (split + 1) / plan.splits * kPanel);
    const RowsMet met =
        rows_met(band.first, band.last, s.kernel_height, s.stride_height, s.pad_height, s.dilation_height);
    const T* const grad = p.grad + band.image * out_image;
    band.top = met.begin;
    band.strip = plan.in_place ? grad + met.begin * s.out_width * s.out_channels : strip;
    if (!plan.in_place && band_in_strip != index) {
      fill_window<T>(kernels, {grad, s.out_channels, s.out_height, s.out_width, s.channels_last}, 0,
                     s.out_channels, {met.begin, met.count, plan.left, plan.columns}, strip, s.out_channels);
      band_in_strip = index;
    }
    for (int64_t group = 0; group < s.groups; ++group) {
      for (int64_t column = band.column; column < band.column_end; column += plan.columns_at_once) {
        const int64_t columns = std::min(plan.columns_at_once, band.column_end - column);
        const int64_t channel = group * plan.group_columns + column;
        if (s.channels_last) {
          T* const to = p.grad_x + (band.image * area + band.first * s.in_width) * s.in_channels + channel;
          compute(kernels, s, plan, band, group, column, packed, {to, s.in_channels, columns});
        } else {
          const int64_t pixel = round_up(columns, kPanel);
          compute(kernels, s, plan, band, group, column, packed, {tile, pixel, columns});
          kernels.transpose(
              tile, pixel, (band.last - band.first) * s.in_width, columns,
              p.grad_x + (band.image * s.in_channels + channel) * area + band.first * s.in_width, area);
        }
      }
    }
  }
}

}  // namespace

template <class T>
int64_t backward_input_scratch(const Conv2dShape& s, int64_t threads) {
  if (is_sum(s)) return backward_input_sum_scratch<T>(s, threads);
  const int64_t rest = is_forward(s) ? conv2d_scratch<T>(turned(s), threads)
                                     : threads * make_plan<T>(s, threads).worker_size();
  return packed_size(s) + std::max(rest, taps_pack_scratch<T>(s, threads));
}

template <class T>
void backward_input(const Conv2dBackwardParams<T>& p) {
  const Conv2dShape& s = p.shape;
  if (is_sum(s)) return backward_input_sum(p);
  T* const rest = p.scratch + packed_size(s);
  if (is_forward(s)) {
    pack_turned(p, p.scratch, rest);
    return conv2d<T>({turned(s), p.grad, p.scratch, nullptr, p.grad_x, rest, p.threads, false});
  }
  const Primitives<T>& kernels = primitives<T>();
  const Plan plan = make_plan<T>(s, p.threads);
  pack_taps(s, p.weight, p.scratch, rest, p.threads);
  parallel(p.threads, [&](const Worker& me) { run(p, kernels, plan, me); });
}

template int64_t backward_input_scratch<float>(const Conv2dShape&, int64_t);
template int64_t backward_input_scratch<double>(const Conv2dShape&, int64_t);
template void backward_input(const Conv2dBackwardParams<float>&);
template void backward_input(const Conv2dBackwardParams<double>&);

}  // namespace cnnkern
