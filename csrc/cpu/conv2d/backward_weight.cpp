// The gradient of a convolution's weight: for every tap, a matrix product over the output's pixels.
//
// Pixels are what is summed over, so they have to be adjacent: a band of output rows (of several images where
// these are small) becomes a plane for every input channel, whose rows and columns are sorted by phase
// (backward_phases.h), so that a tap reads adjacent values along an output row. The output's gradient becomes
// panels of 16 channels, pixel by pixel. Where output rows are short, a plane holds a copy for every tap
// column instead, as wide as the output, so that a whole band is one segment. The sums of all bands stay in
// one accumulator (part, C, kH, kW, K / G).
//
// Workers share the channels on either side, which makes the bits independent of their number. Where there
// are too few channels to share, the bands are cut into parts, whose number depends on the shape alone, and
// added up at the end.
#include <algorithm>
#include <cstring>

#include "cpu/conv2d/backward.h"
#include "cpu/conv2d/backward_phases.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

constexpr int64_t kBandPixels =
    1024;                          // of all images of a band: enough for the accumulator to be read rarely
constexpr int64_t kShortRow = 16;  // columns for which setting up a segment costs as much as its sums
constexpr int64_t kFewBlocks = 8;  // of the accumulator: too few for workers to share them
constexpr int64_t kGroupedChannels = 32;  // of groups that are worked on together

struct Plan {
  int64_t images, image_groups;  // of a band; all together
  int64_t out_rows, bands;       // of a band; of an image
  bool copied;                   // a copy of the plane for every tap column
  int64_t pitch;                 // of a plane's row
  int64_t phase_rows;            // of a phase of rows
  int64_t sub_size;              // of a phase of columns, or a copy
  int64_t image_size, plane;     // of one image and of all images of a channel
  int64_t parts;                 // of the sum over bands
  int64_t group_channels, group_outputs, taps;
  int64_t columns;  // of the accumulator: K / G in whole panels
  // How a part is shared: blocks of groups, channels on either side.
  int64_t groups_at_once, group_blocks, channel_splits, output_splits;
  int64_t units() const { return parts * group_blocks * channel_splits * output_splits; }
  // Elements of one accumulator, and of one worker's scratch in this order.
  int64_t part_size, offsets_size, planes_size, panels_size, staged_size;
  int64_t worker_size() const { return offsets_size + planes_size + panels_size + staged_size; }
};

Phase column_phase(const Conv2dShape& s, int64_t residue) {
  return phase_of(s.kernel_width, s.stride_width, s.dilation_width, residue);
}

// Padded so that the planes of neighbouring channels do not fall into the same cache sets.
int64_t apart(int64_t size) {
  return round_up(size, kPanel) + (round_up(size, kPanel) / kPanel % 2 == 0 ? kPanel : 0);
}

void measure_planes(const Conv2dShape& s, Plan& plan) {
  const int64_t row_residues = s.kernel_height > 1 ? s.stride_height : 1;
  const int64_t column_residues = s.kernel_width > 1 ? s.stride_width : 1;
  plan.pitch = s.out_width + (plan.copied ? 0 : (s.kernel_width - 1) * s.dilation_width / s.stride_width);
  plan.phase_rows = plan.out_rows + (s.kernel_height - 1) * s.dilation_height / s.stride_height;
  plan.sub_size = row_residues * plan.phase_rows * plan.pitch;
  plan.image_size = (plan.copied ? s.kernel_width : column_residues) * plan.sub_size;
  plan.plane = apart(plan.images * plan.image_size);
}

// Chooses bands that fill half of level 2 with planes and panels.
template <class T>
void choose_bands(const Conv2dShape& s, Plan& plan) {
  const int64_t channels = plan.group_channels * plan.groups_at_once,
                columns = plan.columns * plan.groups_at_once;
  const auto bytes = [&] {
    measure_planes(s, plan);
    const int64_t pixels = plan.images * plan.out_rows * s.out_width;
    return static_cast<int64_t>(sizeof(T)) * (channels * plan.plane + columns * pixels);
  };
  const int64_t most = level2_cache_bytes() / 2;
  plan.images = 1;
  plan.out_rows = std::clamp<int64_t>(kBandPixels / s.out_width, 1, s.out_height);
  while (plan.out_rows > 1 && bytes() > most) plan.out_rows = (plan.out_rows + 1) / 2;
  plan.bands = (s.out_height + plan.out_rows - 1) / plan.out_rows;
  plan.out_rows = (s.out_height + plan.bands - 1) / plan.bands;
  plan.bands = (s.out_height + plan.out_rows - 1) / plan.out_rows;
  if (plan.bands == 1) {
    plan.images = std::clamp<int64_t>(kBandPixels / (s.out_height * s.out_width), 1, s.batch);
    while (plan.images > 1 && bytes() > most) plan.images = (plan.images + 1) / 2;
  }
  plan.image_groups = (s.batch + plan.images - 1) / plan.images;
  measure_planes(s, plan);
}

template <class T>
Plan make_plan(const Conv2dShape& s, int64_t threads, int64_t tile_rows) {
  Plan plan{};
  plan.group_channels = s.in_channels / s.groups;
  plan.group_outputs = s.out_channels / s.groups;
  plan.taps = s.kernel_height * s.kernel_width;
  plan.columns = round_up(plan.group_outputs, kPanel);
  plan.copied = s.kernel_width > 1 && s.out_width < kShortRow;
  plan.groups_at_once = std::clamp<int64_t>(kGroupedChannels / plan.group_channels, 1, s.groups);
  choose_bands<T>(s, plan);

  const int64_t group_blocks = (s.groups + plan.groups_at_once - 1) / plan.groups_at_once;
  const int64_t row_blocks = std::max<int64_t>(1, plan.group_channels / tile_rows);
  const int64_t blocks = group_blocks * row_blocks * ((plan.columns / kPanel + 1) / 2);
  plan.parts = std::clamp<int64_t>(kFewBlocks / blocks, 1, plan.image_groups * plan.bands);

  plan.groups_at_once = std::min(plan.groups_at_once, (s.groups + threads - 1) / threads);
  plan.group_blocks = (s.groups + plan.groups_at_once - 1) / plan.groups_at_once;
  const int64_t wanted = (threads + plan.parts * plan.group_blocks - 1) / (plan.parts * plan.group_blocks);
  plan.channel_splits = plan.groups_at_once > 1 ? 1 : std::min(wanted, row_blocks);
  plan.output_splits =
      std::min((wanted + plan.channel_splits - 1) / plan.channel_splits, plan.columns / kPanel);

  plan.part_size = s.in_channels * plan.taps * plan.columns;
  const int64_t channels = plan.groups_at_once * ((plan.group_channels - 1) / plan.channel_splits + 1);
  const int64_t pixels = plan.images * plan.out_rows * s.out_width;
  const int64_t words = plan.images * plan.out_rows * static_cast<int64_t>(sizeof(int64_t) / sizeof(T));
  plan.offsets_size = round_up(words, kPanel);
  plan.planes_size = channels * plan.plane;
  plan.panels_size =
      plan.groups_at_once * ((plan.columns / kPanel - 1) / plan.output_splits + 1) * apart(pixels * kPanel);
  const int64_t in_rows =
      (plan.out_rows - 1) * s.stride_height + (s.kernel_height - 1) * s.dilation_height + 1;
  plan.staged_size = s.channels_last ? kPanel * apart(std::min(in_rows, s.in_height) * s.in_width) : 0;
  return plan;
}

// What one worker adds up at a time: some groups' channels on either side, over one part of the bands.
struct Unit {
  int64_t part;
  int64_t group, groups;
  int64_t channel, channels;  // of each group
  int64_t output, outputs;    // of each group; `output` begins a panel
};

Unit unit_of(const Conv2dShape& s, const Plan& plan, int64_t index) {
  Unit u{};
  const int64_t outputs = index % plan.output_splits;
  index /= plan.output_splits;
  const int64_t channels = index % plan.channel_splits;
  index /= plan.channel_splits;
  u.group = index % plan.group_blocks * plan.groups_at_once;
  u.groups = std::min(plan.groups_at_once, s.groups - u.group);
  u.part = index / plan.group_blocks;
  u.channel = plan.group_channels * channels / plan.channel_splits;
  u.channels = plan.group_channels * (channels + 1) / plan.channel_splits - u.channel;
  const int64_t output_panels = plan.columns / kPanel;
  u.output = output_panels * outputs / plan.output_splits * kPanel;
  u.outputs =
      std::min(plan.group_outputs, output_panels * (outputs + 1) / plan.output_splits * kPanel) - u.output;
  return u;
}

// Output rows [first, first + rows) of images [image, image + images).
struct Band {
  int64_t image, images, first, rows;
};

Band band_of(const Conv2dShape& s, const Plan& plan, int64_t index) {
  const int64_t image = index / plan.bands * plan.images, first = index % plan.bands * plan.out_rows;
  return {image, std::min(plan.images, s.batch - image), first,
          std::min(plan.out_rows, s.out_height - first)};
}

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
void fill_plane(const Conv2dShape& s, const Plan& plan, const Band& band, const T* rows, int64_t top, T* to) {
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

// The planes of the unit's channels under a band.
template <class T>
void fill_planes(const Conv2dBackwardParams<T>& p, const Primitives<T>& kernels, const Plan& plan,
                 const Unit& u, const Band& band, T* staged, T* planes) {
  const Conv2dShape& s = p.shape;
  const int64_t area = s.in_height * s.in_width;
  const int64_t first = u.group * plan.group_channels + u.channel;
  // More than one group comes with all its channels.
  const int64_t channels = u.groups * u.channels;
  const int64_t lowest = band.first * s.stride_height - s.pad_height;
  const int64_t highest =
      lowest + (band.rows - 1) * s.stride_height + (s.kernel_height - 1) * s.dilation_height + 1;
  const int64_t top = std::clamp<int64_t>(lowest, 0, s.in_height);
  const int64_t pixels = (std::clamp<int64_t>(highest, top, s.in_height) - top) * s.in_width;
  for (int64_t image = 0; image < band.images; ++image) {
    const T* const x = p.x + (band.image + image) * s.in_channels * area;
    T* const to = planes + image * plan.image_size;
    for (int64_t c = 0; c < channels; c += kPanel) {
      const int64_t count = std::min(kPanel, channels - c);
      const T* rows = x + (first + c) * area + top * s.in_width;
      int64_t rows_step = area;
      if (s.channels_last) {
        rows_step = apart(pixels);
        kernels.transpose(x + top * s.in_width * s.in_channels + first + c, s.in_channels, pixels, count,
                          staged, rows_step);
        rows = staged;
      }
      for (int64_t i = 0; i < count; ++i)
        fill_plane(s, plan, band, rows + i * rows_step, top, to + (c + i) * plan.plane);
    }
  }
}

// The gradient of the unit's outputs under a band, as panels (groups, panels, pixels, kPanel).
template <class T>
void fill_panels(const Conv2dBackwardParams<T>& p, const Primitives<T>& kernels, const Plan& plan,
                 const Unit& u, const Band& band, T* to, int64_t panel_size) {
  const Conv2dShape& s = p.shape;
  const int64_t area = s.out_height * s.out_width, pixels = band.rows * s.out_width;
  for (int64_t group = u.group; group < u.group + u.groups; ++group) {
    for (int64_t output = u.output; output < u.output + u.outputs; output += kPanel, to += panel_size) {
      const int64_t count = std::min(kPanel, u.output + u.outputs - output);
      const int64_t channel = group * plan.group_outputs + output;
      if (count < kPanel) std::fill_n(to, band.images * pixels * kPanel, T(0));
      for (int64_t image = 0; image < band.images; ++image) {
        const T* const grad = p.grad + (band.image + image) * s.out_channels * area;
        T* const at = to + image * pixels * kPanel;
        if (!s.channels_last) {
          kernels.transpose(grad + channel * area + band.first * s.out_width, area, count, pixels, at,
                            kPanel);
          continue;
        }
        const T* const from = grad + band.first * s.out_width * s.out_channels + channel;
        for (int64_t i = 0; i < pixels; ++i) {
          if (count == kPanel) {
            std::memcpy(at + i * kPanel, from + i * s.out_channels, sizeof(T) * kPanel);
          } else {
            std::copy_n(from + i * s.out_channels, count, at + i * kPanel);
          }
        }
      }
    }
  }
}

// Adds a band's products to the accumulators of one group. The rows of a product are the channels, and its
// lines the taps of a phase, or the other way round where the channels are few.
template <class T>
void add_products(const Primitives<T>& kernels, const Conv2dShape& s, const Plan& plan, const Unit& u,
                  const T* planes, Gemm<T> gemm, T* sums) {
  const int64_t channel_step = plan.taps * plan.columns;
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
      gemm.pixels = u.channels;
      gemm.a_pixel = plan.plane;
      gemm.c_pixel = channel_step;
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

template <class T>
void add_unit(const Conv2dBackwardParams<T>& p, const Primitives<T>& kernels, const Plan& plan, const Unit& u,
              T* scratch) {
  const Conv2dShape& s = p.shape;
  int64_t* const offsets = reinterpret_cast<int64_t*>(scratch);
  T* const planes = scratch + plan.offsets_size;
  T* const grad_panels = planes + plan.planes_size;
  T* const staged = grad_panels + plan.panels_size;
  const int64_t bands = plan.image_groups * plan.bands;
  const int64_t begin = bands * u.part / plan.parts, end = bands * (u.part + 1) / plan.parts;
  for (int64_t index = begin; index < end; ++index) {
    const Band band = band_of(s, plan, index);
    const int64_t pixels = band.rows * s.out_width, panel_size = apart(band.images * pixels * kPanel);
    fill_planes(p, kernels, plan, u, band, staged, planes);
    fill_panels(p, kernels, plan, u, band, grad_panels, panel_size);
    Gemm<T> gemm{};
    const bool one_segment = plan.pitch == s.out_width;
    const int64_t lines = one_segment ? 1 : band.rows;
    for (int64_t image = 0; image < band.images; ++image) {
      for (int64_t r = 0; r < lines; ++r) offsets[gemm.segments++] = image * plan.image_size + r * plan.pitch;
    }
    gemm.segment_offset = offsets;
    gemm.segment_length = pixels / lines;
    gemm.b_panel = panel_size;
    gemm.b_step = kPanel;
    gemm.c_panel = kPanel;
    gemm.columns = u.outputs;
    gemm.accumulate = index > begin;
    for (int64_t g = 0; g < u.groups; ++g) {
      gemm.b = grad_panels + g * panels(u.outputs) * panel_size;
      const int64_t channel = (u.group + g) * plan.group_channels + u.channel;
      T* const sums = p.scratch + u.part * plan.part_size + channel * plan.taps * plan.columns + u.output;
      add_products(kernels, s, plan, u, planes + g * u.channels * plan.plane, gemm, sums);
    }
  }
}

// Adds up the parts of the unit's accumulators and writes them out as (K, C/G, kH, kW).
template <class T>
void write_unit(const Conv2dBackwardParams<T>& p, const Primitives<T>& kernels, const Plan& plan,
                const Unit& u) {
  for (int64_t g = u.group; g < u.group + u.groups; ++g) {
    const int64_t rows = u.channels * plan.taps, row = (g * plan.group_channels + u.channel) * plan.taps;
    T* const sums = p.scratch + row * plan.columns + u.output;
    for (int64_t part = 1; part < plan.parts; ++part) {
      for (int64_t r = 0; r < rows; ++r) {
        const T* const from = sums + part * plan.part_size + r * plan.columns;
        for (int64_t k = 0; k < u.outputs; ++k) sums[r * plan.columns + k] += from[k];
      }
    }
    const int64_t depth = plan.group_channels * plan.taps;
    kernels.transpose(sums, plan.columns, rows, u.outputs,
                      p.grad_weight + (g * plan.group_outputs + u.output) * depth + u.channel * plan.taps,
                      depth);
  }
}

}  // namespace

template <class T>
int64_t backward_weight_scratch(const Conv2dShape& s, int64_t threads) {
  const Plan plan = make_plan<T>(s, threads, primitives<T>().tile_pixels);
  return plan.parts * plan.part_size + threads * plan.worker_size();
}

template <class T>
void backward_weight(const Conv2dBackwardParams<T>& p) {
  const Primitives<T>& kernels = primitives<T>();
  const Plan plan = make_plan<T>(p.shape, p.threads, kernels.tile_pixels);
  parallel(p.threads, [&](const Worker& me) {
    T* const scratch = p.scratch + plan.parts * plan.part_size + me.index * plan.worker_size();
    const auto [begin, end] = me.share(plan.units());
    for (int64_t i = begin; i < end; ++i) add_unit(p, kernels, plan, unit_of(p.shape, plan, i), scratch);
    me.barrier();
    const auto [first, last] = me.share(plan.units() / plan.parts);
    for (int64_t i = first; i < last; ++i) write_unit(p, kernels, plan, unit_of(p.shape, plan, i));
  });
}

template int64_t backward_weight_scratch<float>(const Conv2dShape&, int64_t);
template int64_t backward_weight_scratch<double>(const Conv2dShape&, int64_t);
template void backward_weight(const Conv2dBackwardParams<float>&);
template void backward_weight(const Conv2dBackwardParams<double>&);

}  // namespace cnnkern
