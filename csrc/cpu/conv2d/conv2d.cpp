// Dense convolution as a matrix product that lowers the image on the fly (im2col that is never written out
// whole).
//
// A work item is a band of output rows of one image, against a range of output channels. Its input rows
// become a strip (cpu/strip.h), or are read in place where the image is channels last and needs no padding.
// In a strip a pixel's patch is kH runs of kW * C adjacent values, so the GEMM reads its rows straight from
// there. Where output rows are too short to fill its tile, blocks of k are lowered into a small matrix first.
// Small images go several at a time, since every band reads all weights.
#include "cpu/conv2d/conv2d.h"

#include <algorithm>
#include <cstring>

#include "cpu/conv2d/depthwise.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"
#include "cpu/strip.h"

namespace cnnkern {
namespace {

constexpr int64_t kLoweredDepth = 256;  // k of one lowered block
constexpr int64_t kLoweredPixels = 192;
constexpr int64_t kPixels = 512;  // of one band: enough for the weights to be read rarely

struct Plan {
  int64_t images;    // of one band; more than one are whole
  int64_t out_rows;  // of a strip
  int64_t strips;    // of an image
  int64_t splits;    // of a group's output channels
  bool in_place;     // read the image itself
  bool lowered;      // through a matrix, for short output rows
  int64_t pitch;     // elements of a strip's row
  int64_t segments;  // of a patch
  int64_t segment_length;
  int64_t group_columns;    // K / G
  int64_t columns_at_once;  // output channels of one product
  // Elements of one worker's scratch, in this order.
  int64_t offsets_size, strip_size, lowered_size, tile_size;
  int64_t worker_size() const { return offsets_size + strip_size + lowered_size + tile_size; }
};

template <class T>
Plan make_plan(const Conv2dShape& s, int64_t threads, int64_t tile_pixels) {
  Plan plan{};
  const int64_t group_channels = s.in_channels / s.groups, width = strip_width(s);
  plan.group_columns = s.out_channels / s.groups;
  plan.in_place = s.channels_last && s.pad_height == 0 && s.pad_width == 0;
  plan.pitch = (plan.in_place ? s.in_width : width) * s.in_channels;
  const bool whole_rows = s.groups == 1 && s.dilation_width == 1;
  plan.segments = whole_rows ? s.kernel_height : s.kernel_height * s.kernel_width;
  plan.segment_length = whole_rows ? s.kernel_width * group_channels : group_channels;
  const int64_t depth = s.kernel_height * s.kernel_width * group_channels;

  // Lines that follow one another at the pixel's stride are one long line, whatever their length.
  const bool one_line = plan.pitch * s.stride_height == s.out_width * s.stride_width * s.in_channels;
  const int64_t tiles = (s.out_width + tile_pixels - 1) / tile_pixels;
  const int64_t area = s.out_height * s.out_width;
  const bool few_pixels = s.batch > 1 && area * 2 <= kLoweredPixels && plan.group_columns >= 4 * kPanel;
  plan.lowered = few_pixels || !one_line && s.out_height > 1 && plan.group_columns >= 4 * kPanel &&
                                   s.out_width * 5 < tiles * tile_pixels * 3;

  // A strip takes half of level 2; the other half is for weights and results.
  const int64_t row_bytes = static_cast<int64_t>(sizeof(T)) * plan.pitch * s.stride_height;
  const int64_t fit = std::max<int64_t>(1, level2_cache_bytes() / 2 / std::max<int64_t>(1, row_bytes));
  int64_t strips = (s.out_height + fit - 1) / fit;
  const int64_t image_rows = strip_rows(s, s.out_height) / s.stride_height + 1;
  plan.images =
      std::clamp<int64_t>(std::min((plan.lowered ? kLoweredPixels : kPixels) / area, fit / image_rows), 1,
                          (s.batch + threads - 1) / threads);
  plan.splits = 1;
  if (plan.images == 1 && s.batch % threads != 0 && s.batch < 8 * threads) {
    // Too few images to go round: share the channels where the weights are what has to be read, else the
    // rows.
    const bool heavy_weights = s.out_channels * depth > 2 * s.in_height * s.in_width * s.in_channels;
    const int64_t most = panels(plan.group_columns);
    if (heavy_weights && most >= threads) {
      plan.splits = threads;
    } else {
      strips = std::min(s.out_height, round_up(strips, threads));
      plan.splits = std::min(most, (threads + strips * s.batch - 1) / (strips * s.batch));
    }
  }
  plan.out_rows = (s.out_height + strips - 1) / strips;
  plan.strips = (s.out_height + plan.out_rows - 1) / plan.out_rows;

  // A channel-first result is computed into a tile of two panels and transposed from there; a lowered block
  // meets all output channels before the next.
  plan.columns_at_once = s.channels_last || plan.lowered ? plan.group_columns : 2 * kPanel;

  const int64_t pixels = plan.images * plan.out_rows * s.out_width;
  const int64_t tile_columns = round_up(std::min(plan.group_columns, plan.columns_at_once), kPanel);
  const int64_t offset_words = plan.segments * static_cast<int64_t>(sizeof(int64_t) / sizeof(T));
  plan.offsets_size = round_up(offset_words, kPanel);
  plan.strip_size =
      plan.in_place ? 0 : round_up(plan.images * strip_rows(s, plan.out_rows) * plan.pitch, kPanel);
  plan.lowered_size = plan.lowered ? round_up(pixels * std::min(depth, kLoweredDepth), kPanel) : 0;
  plan.tile_size = s.channels_last ? 0 : pixels * tile_columns;
  return plan;
}

// A band of rows of one image, or several whole images, against a range of one group's output channels.
struct Item {
  int64_t image, images, first_row, rows, group, column, columns;
};

template <class T>
struct Scratch {
  int64_t* offsets;  // (segments): where in a strip the pieces of a patch begin
  T* strip;
  T* lowered;
  T* tile;

  Scratch(T* base, const Plan& plan)
      : offsets(reinterpret_cast<int64_t*>(base)),
        strip(base + plan.offsets_size),
        lowered(strip + plan.strip_size),
        tile(lowered + plan.lowered_size) {}
};

void fill_offsets(const Conv2dShape& s, const Plan& plan, int64_t* offsets) {
  const int64_t columns = plan.segments / s.kernel_height;
  for (int64_t i = 0; i < s.kernel_height; ++i) {
    for (int64_t j = 0; j < columns; ++j)
      *offsets++ = i * s.dilation_height * plan.pitch + j * s.dilation_width * s.in_channels;
  }
}

// The product's part that is the same for every block of k: operands of the item, results into y or into the
// tile.
template <class T>
Gemm<T> gemm_of(const Conv2dParams<T>& p, const Plan& plan, const Item& item, const Scratch<T>& scratch) {
  const Conv2dShape& s = p.shape;
  const int64_t depth = plan.segments * plan.segment_length;
  const int64_t first_panel = item.group * panels(plan.group_columns) + item.column / kPanel;
  const int64_t channel = item.group * plan.group_columns + item.column;
  Gemm<T> gemm{};
  gemm.b = p.packed + first_panel * depth * kPanel;
  gemm.b_panel = depth * kPanel;
  gemm.b_step = kPanel;
  gemm.columns = item.columns;
  gemm.bias = p.bias ? p.bias + channel : nullptr;
  gemm.c_panel = kPanel;
  if (s.channels_last) {
    gemm.c = p.y + (item.image * s.out_height + item.first_row) * s.out_width * s.out_channels + channel;
    gemm.c_pixel = s.out_channels;
  } else {
    gemm.c = scratch.tile;
    gemm.c_pixel = round_up(item.columns, kPanel);
  }
  return gemm;
}

// Elements from one image's strip to the next, where a band has several.
int64_t strip_step(const Conv2dShape& s, const Plan& plan) {
  return (plan.in_place ? s.in_height : strip_rows(s, plan.out_rows)) * plan.pitch;
}

template <class T>
void multiply_in_strip(const Primitives<T>& kernels, const Conv2dParams<T>& p, const Plan& plan,
                       const Item& item, const T* strip, const Scratch<T>& scratch) {
  const Conv2dShape& s = p.shape;
  Gemm<T> gemm = gemm_of(p, plan, item, scratch);
  gemm.a = strip;
  gemm.a_pixel = s.stride_width * s.in_channels;
  gemm.a_line = s.stride_height * plan.pitch;
  gemm.pixels = s.out_width;
  gemm.lines = item.rows;
  if (gemm.a_line == gemm.pixels * gemm.a_pixel) {
    gemm.pixels *= gemm.lines;
    gemm.lines = 1;
  }
  gemm.c_line = s.out_width * gemm.c_pixel;
  gemm.planes = item.images;
  gemm.a_plane = strip_step(s, plan);
  gemm.c_plane = item.rows * gemm.c_line;
  gemm.segment_offset = scratch.offsets;
  gemm.segments = plan.segments;
  gemm.segment_length = plan.segment_length;
  gemm.relu = p.relu;
  kernels.gemm(gemm);
}

// One row a pixel: the values k in [begin, end) of its patch.
template <class T>
void lower(const Conv2dShape& s, const Plan& plan, const Item& item, const T* strip, const int64_t* offsets,
           int64_t begin, int64_t end, T* to) {
  for (int64_t row = 0; row < item.images * item.rows; ++row) {
    const T* const line =
        strip + row / item.rows * strip_step(s, plan) + row % item.rows * s.stride_height * plan.pitch;
    for (int64_t column = 0; column < s.out_width; ++column) {
      const T* const pixel = line + column * s.stride_width * s.in_channels;
      for (int64_t k = begin; k < end;) {
        const int64_t within = k % plan.segment_length;
        const int64_t count = std::min(end - k, plan.segment_length - within);
        std::memcpy(to, pixel + offsets[k / plan.segment_length] + within,
                    sizeof(T) * static_cast<size_t>(count));
        to += count;
        k += count;
      }
    }
  }
}

template <class T>
void multiply_lowered(const Primitives<T>& kernels, const Conv2dParams<T>& p, const Plan& plan,
                      const Item& item, const T* strip, const Scratch<T>& scratch) {
  const int64_t depth = plan.segments * plan.segment_length;
  const int64_t blocks = (depth + kLoweredDepth - 1) / kLoweredDepth;
  const int64_t start = 0;
  Gemm<T> gemm = gemm_of(p, plan, item, scratch);
  const T* const weights = gemm.b;
  gemm.a = scratch.lowered;
  gemm.pixels = item.images * item.rows * p.shape.out_width;
  gemm.lines = 1;
  gemm.segment_offset = &start;
  gemm.segments = 1;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = depth * block / blocks, end = depth * (block + 1) / blocks;
    lower(p.shape, plan, item, strip, scratch.offsets, begin, end, scratch.lowered);
    gemm.a_pixel = gemm.segment_length = end - begin;
    gemm.b = weights + begin * kPanel;
    gemm.accumulate = block > 0;
    gemm.relu = p.relu && block == blocks - 1;
    kernels.gemm(gemm);
  }
}

template <class T>
void compute(const Primitives<T>& kernels, const Conv2dParams<T>& p, const Plan& plan, const Item& band,
             const T* strip, const Scratch<T>& scratch) {
  const Conv2dShape& s = p.shape;
  const int64_t step = plan.columns_at_once;
  for (int64_t column = band.column; column < band.column + band.columns; column += step) {
    Item item = band;
    item.column = column;
    item.columns = std::min(step, band.column + band.columns - column);
    if (plan.lowered) {
      multiply_lowered(kernels, p, plan, item, strip, scratch);
    } else {
      multiply_in_strip(kernels, p, plan, item, strip, scratch);
    }
    if (!s.channels_last) {
      const int64_t channel = item.group * plan.group_columns + column, area = s.out_height * s.out_width;
      const int64_t pixels = item.rows * s.out_width, tile_columns = round_up(item.columns, kPanel);
      for (int64_t i = 0; i < item.images; ++i) {
        kernels.transpose(
            scratch.tile + i * pixels * tile_columns, tile_columns, pixels, item.columns,
            p.y + ((item.image + i) * s.out_channels + channel) * area + item.first_row * s.out_width, area);
      }
    }
  }
}

template <class T>
void run(const Conv2dParams<T>& p, const Primitives<T>& kernels, const Plan& plan, const Worker& me) {
  const Conv2dShape& s = p.shape;
  const Scratch<T> scratch(p.scratch + me.index * plan.worker_size(), plan);
  fill_offsets(s, plan, scratch.offsets);
  const int64_t column_panels = panels(plan.group_columns);
  const int64_t bands = (s.batch + plan.images - 1) / plan.images * plan.strips;
  const auto [begin, end] = me.share(bands * plan.splits);
  int64_t strip_in_scratch = -1;
  for (int64_t i = begin; i < end; ++i) {
    // Splits are the outer loop: a worker that stays within one reads only that part of the weights.
    const int64_t split = i / bands, band = i % bands;
    const int64_t image = band / plan.strips * plan.images, first = band % plan.strips * plan.out_rows;
    const int64_t images = std::min(plan.images, s.batch - image);
    const int64_t rows = std::min(plan.out_rows, s.out_height - first);
    const int64_t image_size = s.in_channels * s.in_height * s.in_width;
    const T* const x = p.x + image * image_size;
    const T* strip = scratch.strip;
    if (plan.in_place) {
      strip = x + first * s.stride_height * plan.pitch;
    } else if (strip_in_scratch != band) {
      for (int64_t j = 0; j < images; ++j)
        fill_strip(kernels, s, x + j * image_size, first, rows, scratch.strip + j * strip_step(s, plan));
      strip_in_scratch = band;
    }
    const int64_t column = column_panels * split / plan.splits * kPanel;
    const int64_t last = std::min(plan.group_columns, column_panels * (split + 1) / plan.splits * kPanel);
    for (int64_t group = 0; group < s.groups; ++group) {
      compute(kernels, p, plan, {image, images, first, rows, group, column, last - column},
              strip + group * (s.in_channels / s.groups), scratch);
    }
  }
}

}  // namespace

template <class T>
int64_t conv2d_scratch(const Conv2dShape& shape, int64_t threads) {
  if (is_depthwise(shape)) return depthwise_scratch<T>(shape, threads);
  return threads * make_plan<T>(shape, threads, primitives<T>().tile_pixels).worker_size();
}

template <class T>
void conv2d(const Conv2dParams<T>& p) {
  if (is_depthwise(p.shape)) return depthwise(p);
  const Primitives<T>& kernels = primitives<T>();
  const Plan plan = make_plan<T>(p.shape, p.threads, kernels.tile_pixels);
  parallel(p.threads, [&](const Worker& me) { run(p, kernels, plan, me); });
}

template int64_t conv2d_scratch<float>(const Conv2dShape&, int64_t);
template int64_t conv2d_scratch<double>(const Conv2dShape&, int64_t);
template void conv2d(const Conv2dParams<float>&);
template void conv2d(const Conv2dParams<double>&);

}  // namespace cnnkern
