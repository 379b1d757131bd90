// The gradient of a convolution's weight: for every tap, a matrix product over the output's pixels.
//
// Pixels are what is summed over, so they have to be adjacent: a band of output rows (of several images where
// these are small) becomes a plane for every input channel, whose rows and columns are sorted by phase
// (backward_phases.h), so that a tap reads adjacent values along an output row. The output's gradient becomes
// panels of 16 channels, pixel by pixel. Where output rows are short, a plane holds a copy for every tap
// column instead, as wide as the output, so that a whole band is one segment. A channel-first image without
// padding is read in place. The sums of all bands stay in accumulators (part, C, kH, kW, K / G); where there
// is one band alone, these are small and used again and again.
//
// Workers share the channels on either side, which makes the bits independent of their number. Where there
// are too few channels to share, the bands are cut into parts, whose number depends on the shape alone, and
// added up at the end.
#include <algorithm>
#include <cstring>

#include "cpu/conv2d/backward.h"
#include "cpu/conv2d/backward_weight_plan.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

// to[i] = from[start + i * step], zero outside [0, width).
template <class T>
void fill_line(const T* from, int64_t width, int64_t start, int64_t step, T* to, int64_t count) {
  const int64_t begin = std::clamp<int64_t>(start < 0 ? (step - 1 - start) / step : 0, 0, count);
  const int64_t end =
      std::clamp<int64_t>(start < width ? (width - start + step - 1) / step : 0, begin, count);
  std::fill(to, to + begin, T(0));
  if (step == 1) {
    if (end > begin)
      std::memcpy(to + begin, from + start + begin, sizeof(T) * static_cast<size_t>(end - begin));
  } else {
    for (int64_t i = begin; i < end; ++i) to[i] = from[start + i * step];
  }
  std::fill(to + end, to + count, T(0));
}

// One image of one channel's plane. `rows` are the image's rows from `top` on, as they are in memory.
template <class T>
void fill_plane(const WeightPlan& plan, const WeightBand& band, const T* rows, int64_t top, T* to) {
  const Conv2dShape& s = plan.shape;
  const int64_t reach = plan.phase_rows - plan.out_rows;
  const int64_t subs = plan.image_size / plan.sub_size,
                row_residues = plan.sub_size / (plan.phase_rows * plan.pitch);
  for (int64_t sub = 0; sub < subs; ++sub) {
    if (!plan.copied && column_phase(s, sub).taps == 0) continue;
    const int64_t start = (plan.copied ? sub * s.dilation_width : sub) - s.pad_width;
    for (int64_t residue = 0; residue < row_residues; ++residue) {
      if (phase_of(s.kernel_height, s.stride_height, s.dilation_height, residue).taps == 0) continue;
      T* line = to + sub * plan.sub_size + residue * plan.phase_rows * plan.pitch;
      for (int64_t r = 0; r < band.rows + reach; ++r, line += plan.pitch) {
        const int64_t row = (band.first + r) * s.stride_height + residue - s.pad_height;
        if (row < 0 || row >= s.in_height) {
          std::fill(line, line + plan.pitch, T(0));
        } else {
          fill_line(rows + (row - top) * s.in_width, s.in_width, start, s.stride_width, line, plan.pitch);
        }
      }
    }
  }
}

// The planes of a 1 x 1 kernel, straight from channels last.
template <class T>
void fill_pointwise(const Primitives<T>& kernels, const WeightPlan& plan, const T* x, const WeightBand& band,
                    int64_t channels, T* planes) {
  const Conv2dShape& s = plan.shape;
  const int64_t begin = std::min(s.out_width, (s.pad_width + s.stride_width - 1) / s.stride_width);
  const int64_t end = std::clamp((s.in_width + s.pad_width - 1) / s.stride_width + 1, begin, s.out_width);
  const bool whole = s.stride_height == 1 && s.stride_width == 1 && s.pad_height == 0 && s.pad_width == 0;
  const int64_t step = whole ? band.rows : 1;  // rows that follow one another are one
  for (int64_t r = 0; r < band.rows; r += step) {
    const int64_t row = (band.first + r) * s.stride_height - s.pad_height;
    const bool inside = row >= 0 && row < s.in_height;
    T* const line = planes + r * plan.pitch;
    if (!inside || end - begin < s.out_width) {
      for (int64_t c = 0; c < channels; ++c) std::fill_n(line + c * plan.plane, s.out_width, T(0));
    }
    if (!inside) continue;
    const T* const from = x + (row * s.in_width + begin * s.stride_width - s.pad_width) * s.in_channels;
    kernels.transpose(from, s.stride_width * s.in_channels, (end - begin) * step, channels, line + begin,
                      plan.plane);
  }
}

// The planes of input channels [first, first + channels) under a band.
template <class T>
void fill_planes(const Primitives<T>& kernels, const WeightPlan& plan, const T* x, const WeightBand& band,
                 int64_t first, int64_t channels, T* staged, T* planes) {
  const Conv2dShape& s = plan.shape;
  const int64_t area = s.in_height * s.in_width;
  const int64_t lowest = band.first * s.stride_height - s.pad_height;
  const int64_t highest =
      lowest + (band.rows - 1) * s.stride_height + (s.kernel_height - 1) * s.dilation_height + 1;
  const int64_t top = std::clamp<int64_t>(lowest, 0, s.in_height);
  const int64_t pixels = (std::clamp<int64_t>(highest, top, s.in_height) - top) * s.in_width;
  for (int64_t image = 0; image < band.images; ++image) {
    const T* const from = x + (band.image + image) * s.in_channels * area;
    T* const to = planes + image * plan.image_size;
    if (s.channels_last && plan.taps == 1) {
      fill_pointwise(kernels, plan, from + first, band, channels, to);
      continue;
    }
    for (int64_t c = 0; c < channels; c += kPanel) {
      const int64_t count = std::min(kPanel, channels - c);
      const T* rows = from + (first + c) * area + top * s.in_width;
      int64_t rows_step = area;
      if (s.channels_last) {
        rows_step = apart(pixels);
        kernels.transpose(from + top * s.in_width * s.in_channels + first + c, s.in_channels, pixels, count,
                          staged, rows_step);
        rows = staged;
      }
      for (int64_t i = 0; i < count; ++i)
        fill_plane(plan, band, rows + i * rows_step, top, to + (c + i) * plan.plane);
    }
  }
}

// Channels last: pixel by pixel, since that is how they lie in memory.
template <class T>
void copy_to_panels(const T* from, int64_t pixels, int64_t pixel, int64_t channels, T* to,
                    int64_t panel_size) {
  const int64_t whole = channels / kPanel, rest = channels % kPanel;
  for (int64_t i = 0; i < pixels; ++i, from += pixel, to += kPanel) {
    for (int64_t p = 0; p < whole; ++p)
      std::memcpy(to + p * panel_size, from + p * kPanel, sizeof(T) * kPanel);
    if (rest > 0) {
      T* const last = to + whole * panel_size;
      std::copy_n(from + whole * kPanel, rest, last);
      std::fill(last + rest, last + kPanel, T(0));
    }
  }
}

// Channel first: panel by panel.
template <class T>
void transpose_to_panels(const Primitives<T>& kernels, const T* from, int64_t pixels, int64_t area,
                         int64_t channels, T* to, int64_t panel_size) {
  for (int64_t c = 0; c < channels; c += kPanel, to += panel_size) {
    const int64_t count = std::min(kPanel, channels - c);
    if (count < kPanel) std::fill_n(to, pixels * kPanel, T(0));
    kernels.transpose(from + c * area, area, count, pixels, to, kPanel);
  }
}

// The gradient of the unit's outputs under a band, as panels (groups, panels, pixels, kPanel).
template <class T>
void fill_panels(const Primitives<T>& kernels, const WeightPlan& plan, const T* grad, const WeightUnit& u,
                 const WeightBand& band, T* to, int64_t panel_size) {
  const Conv2dShape& s = plan.shape;
  const int64_t area = s.out_height * s.out_width, pixels = band.rows * s.out_width;
  for (int64_t g = 0; g < u.groups; ++g, to += panels(u.outputs) * panel_size) {
    const int64_t channel = (u.group + g) * plan.group_outputs + u.output;
    for (int64_t image = 0; image < band.images; ++image) {
      const T* const from = grad + (band.image + image) * s.out_channels * area;
      T* const at = to + image * pixels * kPanel;
      if (s.channels_last) {
        copy_to_panels(from + band.first * s.out_width * s.out_channels + channel, pixels, s.out_channels,
                       u.outputs, at, panel_size);
      } else {
        transpose_to_panels(kernels, from + channel * area + band.first * s.out_width, pixels, area,
                            u.outputs, at, panel_size);
      }
    }
  }
}

// Adds a band's products to the accumulators of `channels` channels of one group. The rows of a product are
// the channels, and its lines the taps of a phase, or the other way round where the channels are few.
template <class T>
void add_products(const Primitives<T>& kernels, const WeightPlan& plan, const T* planes, int64_t channels,
                  Gemm<T> gemm, T* sums) {
  const Conv2dShape& s = plan.shape;
  const int64_t phases = plan.copied ? 1 : s.stride_width;
  for (int64_t i = 0; i < s.kernel_height; ++i) {
    const int64_t row = i * s.dilation_height;
    const int64_t line = row % s.stride_height * plan.phase_rows + row / s.stride_height;
    for (int64_t residue = 0; residue < phases; ++residue) {
      const Phase taps =
          plan.copied ? Phase{s.kernel_width, 0, 1, 0, plan.sub_size} : column_phase(s, residue);
      if (taps.taps == 0) continue;
      gemm.a = planes + residue * plan.sub_size + line * plan.pitch + taps.reach;
      gemm.c = sums + (i * s.kernel_width + taps.first) * plan.columns;
      gemm.pixels = channels;
      gemm.a_pixel = plan.plane;
      gemm.c_pixel = plan.taps * plan.columns;
      gemm.lines = taps.taps;
      gemm.a_line = taps.reach_step;
      gemm.c_line = taps.step * plan.columns;
      if (gemm.pixels < std::min(gemm.lines, kernels.tile_pixels)) {
        std::swap(gemm.pixels, gemm.lines);
        std::swap(gemm.a_pixel, gemm.a_line);
        std::swap(gemm.c_pixel, gemm.c_line);
      }
      kernels.gemm(gemm);
    }
  }
}

// Writes the sums (channels, taps, columns) of channels [channel, ...) and outputs [output, ...) of one group
// to the gradient. Where groups are merged, only the products within each of them are wanted.
template <class T>
void write_sums(const Primitives<T>& kernels, const WeightPlan& plan, const T* sums, int64_t group,
                int64_t channel, int64_t channels, int64_t output, int64_t outputs, T* grad_weight) {
  const int64_t own_channels = plan.group_channels / plan.merged,
                own_outputs = plan.group_outputs / plan.merged;
  for (int64_t g = 0; g < plan.merged; ++g) {
    const int64_t first = std::max(channel, g * own_channels),
                  last = std::min(channel + channels, (g + 1) * own_channels);
    const int64_t left = std::max(output, g * own_outputs),
                  right = std::min(output + outputs, (g + 1) * own_outputs);
    const T* const from = sums + (first - channel) * plan.taps * plan.columns + left - output;
    const int64_t own = group * plan.merged + g;
    if (plan.swapped) {
      T* const to = grad_weight + (own * own_channels + first - g * own_channels) * own_outputs + left -
                    g * own_outputs;
      for (int64_t c = 0; c < last - first; ++c) {
        if (right > left) std::copy_n(from + c * plan.columns, right - left, to + c * own_outputs);
      }
    } else if (last > first && right > left) {
      const int64_t depth = own_channels * plan.taps;
      kernels.transpose(from, plan.columns, (last - first) * plan.taps, right - left,
                        grad_weight + (own * own_outputs + left - g * own_outputs) * depth +
                            (first - g * own_channels) * plan.taps,
                        depth);
    }
  }
}

// What a worker has: the operands, and scratch of its own.
template <class T>
struct Workplace {
  const T *x, *grad;
  T* grad_weight;
  T* parts;  // the accumulators of all parts
  T *sums, *planes, *panels, *staged;

  Workplace(const Conv2dBackwardParams<T>& p, const WeightPlan& plan, int64_t worker)
      : x(plan.swapped ? p.grad : p.x),
        grad(plan.swapped ? p.x : p.grad),
        grad_weight(p.grad_weight),
        parts(p.scratch),
        sums(p.scratch + plan.parts * plan.part_size + worker * plan.worker_size()),
        planes(sums + plan.sums_size),
        panels(planes + plan.planes_size),
        staged(panels + plan.panels_size) {}
};

// One block of channels of a unit under a band. The products have their columns already.
template <class T>
void add_block(const Primitives<T>& kernels, const WeightPlan& plan, const Workplace<T>& at,
               const WeightUnit& u, const WeightBand& band, int64_t channel, int64_t channels, Gemm<T> gemm) {
  const Conv2dShape& s = plan.shape;
  const int64_t first = u.group * plan.group_channels + channel, area = s.in_height * s.in_width;
  const T* planes = at.planes;
  if (plan.in_place) {
    planes = at.x + (band.image * s.in_channels + first) * area + band.first * s.in_width;
  } else {
    // More than one group comes with all its channels.
    fill_planes(kernels, plan, at.x, band, first, u.groups * channels, at.staged, at.planes);
  }
  const T* const panels_of_band = gemm.b;
  for (int64_t g = 0; g < u.groups; ++g) {
    const int64_t row = (first + g * plan.group_channels) * plan.taps;
    T* const sums =
        plan.one_band ? at.sums : at.parts + u.part * plan.part_size + row * plan.columns + u.output;
    gemm.b = panels_of_band + g * panels(u.outputs) * gemm.b_panel;
    add_products(kernels, plan, planes + g * channels * plan.plane, channels, gemm, sums);
    if (plan.one_band)
      write_sums(kernels, plan, sums, u.group + g, channel, channels, u.output, u.outputs, at.grad_weight);
  }
}

template <class T>
void add_unit(const Primitives<T>& kernels, const WeightPlan& plan, const Workplace<T>& at,
              const WeightUnit& u) {
  const Conv2dShape& s = plan.shape;
  const int64_t bands = plan.image_groups * plan.bands;
  const int64_t begin = bands * u.part / plan.parts, end = bands * (u.part + 1) / plan.parts;
  const int64_t blocks = (u.channels + plan.block - 1) / plan.block;
  for (int64_t index = begin; index < end; ++index) {
    const WeightBand band = weight_band(plan, index);
    const int64_t pixels = band.rows * s.out_width;
    Gemm<T> gemm{};
    const int64_t lines = plan.pitch == s.out_width ? 1 : band.rows;
    gemm.patch = Patch::whole(band.images, plan.image_size, lines, plan.pitch, pixels / lines);
    gemm.b = at.panels;
    gemm.b_panel = apart(band.images * pixels * kPanel);
    gemm.b_step = kPanel;
    gemm.c_panel = kPanel;
    gemm.columns = u.outputs;
    gemm.accumulate = index > begin;
    fill_panels(kernels, plan, at.grad, u, band, at.panels, gemm.b_panel);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = u.channels * block / blocks, last = u.channels * (block + 1) / blocks;
      add_block(kernels, plan, at, u, band, u.channel + first, last - first, gemm);
    }
  }
}

// Adds up the parts of the unit's accumulators and writes them out.
template <class T>
void write_unit(const Primitives<T>& kernels, const WeightPlan& plan, const Workplace<T>& at,
                const WeightUnit& u) {
  for (int64_t g = u.group; g < u.group + u.groups; ++g) {
    const int64_t rows = u.channels * plan.taps, row = (g * plan.group_channels + u.channel) * plan.taps;
    T* const sums = at.parts + row * plan.columns + u.output;
    for (int64_t part = 1; part < plan.parts; ++part) {
      for (int64_t r = 0; r < rows; ++r) {
        const T* const from = sums + part * plan.part_size + r * plan.columns;
        for (int64_t k = 0; k < u.outputs; ++k) sums[r * plan.columns + k] += from[k];
      }
    }
    write_sums(kernels, plan, sums, g, u.channel, u.channels, u.output, u.outputs, at.grad_weight);
  }
}

}  // namespace

template <class T>
int64_t backward_weight_scratch(const Conv2dShape& s, int64_t threads) {
  const WeightPlan plan = make_weight_plan<T>(s, threads, primitives<T>().tile_pixels);
  return plan.parts * plan.part_size + threads * plan.worker_size();
}

template <class T>
void backward_weight(const Conv2dBackwardParams<T>& p) {
  const Primitives<T>& kernels = primitives<T>();
  const WeightPlan plan = make_weight_plan<T>(p.shape, p.threads, kernels.tile_pixels);
  parallel(p.threads, [&](const Worker& me) {
    const Workplace<T> at(p, plan, me.index);
    const auto [begin, end] = me.share(plan.units());
    for (int64_t i = begin; i < end; ++i) add_unit(kernels, plan, at, weight_unit(plan, i));
    if (plan.one_band) return;
    me.barrier();
    const auto [first, last] = me.share(plan.units() / plan.parts);
    for (int64_t i = first; i < last; ++i) write_unit(kernels, plan, at, weight_unit(plan, i));
  });
}

template int64_t backward_weight_scratch<float>(const Conv2dShape&, int64_t);
template int64_t backward_weight_scratch<double>(const Conv2dShape&, int64_t);
template void backward_weight(const Conv2dBackwardParams<float>&);
template void backward_weight(const Conv2dBackwardParams<double>&);

}  // namespace cnnkern
