// int8 convolution as a matrix product that lowers the image on the fly, exact in s32.
//
// A work item is a band of output rows of one image, or several small images, against a range of output
// channels. Its input rows are copied into a strip (strip.h), which costs little beside the product, since a
// value is a byte: there a row of the kernel is one run of adjacent values, and padding is the zero point,
// so that one correction an output channel serves every pixel. What needs no padding, no other sign and no
// other order is read where it lies. Of a column-sparse convolution the kept columns are gathered
// (columns.h).
#include "cpu/int8_conv2d/int8_conv2d.h"

#include <algorithm>

#include "cpu/bands.h"
#include "cpu/conv2d/rectangles.h"
#include "cpu/int8_conv2d/columns.h"
#include "cpu/int8_conv2d/depthwise.h"
#include "cpu/int8_conv2d/epilogue.h"
#include "cpu/int8_conv2d/strip.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"
#include "cpu/strip.h"

namespace cnnkern {
namespace {

constexpr int64_t kPixels = 512;  // of one band: enough for the weights to be read rarely
constexpr int64_t kAlign = 64;

enum class Source {
  in_place,  // x is read where it lies
  strip,     // x is copied
  columns,   // the kept columns of patches are gathered
};

struct Plan : Bands {
  int64_t columns_at_once;  // output channels of one product
  Source source;
  Int8Strip strip;
  Int8Columns columns;
  Int8Patches patches;
  int64_t magnitude;  // from an activation in the scratch to its magnitude; 0 where these are not asked for
  // In bytes: what the workers share, then one worker's scratch in this order.
  int64_t epilogue_size, tables_size;
  int64_t patches_size, planes_size, line_size, tile_size;
  int64_t shared_size() const { return epilogue_size + tables_size; }
  int64_t worker_size() const { return patches_size + planes_size + line_size + tile_size; }
};

// Bytes that one row of outputs reads or has gathered.
int64_t row_bytes(const Int8Primitives& kernels, const Conv2dShape& s, const KeptColumns* kept) {
  const int64_t row = s.in_width * s.in_channels * s.stride_height;
  const Int8Columns columns = kept ? Int8Columns(s, kept->count, 1) : Int8Columns();
  return (kept ? row + s.groups * columns.width() * columns.pitch() : row) * (kernels.magnitudes ? 2 : 1);
}

void choose_source(Plan& plan, const Int8Primitives& kernels, const Conv2dShape& s, const KeptColumns* kept,
                   bool x_signed) {
  const Int8Packing packing = int8_packing(Int8Weight::of(s, kept));
  int64_t size = 0;
  if (kept) {
    plan.source = Source::columns;
    plan.columns = Int8Columns(s, kept->count, plan.out_rows);
    const int64_t pitch = plan.columns.pitch(), line = plan.columns.width() * pitch;
    const int64_t group = plan.columns.group();
    plan.patches = {pitch, line, s.groups * group, group, 1, 0, packing.run / kQuad};
    plan.tables_size = round_up(s.groups * plan.columns.table_size() * int64_t{sizeof(int64_t)}, kAlign);
    plan.planes_size = round_up(plan.columns.planes_size(s), kAlign);
    plan.line_size = round_up(plan.columns.line_size(s), kAlign);
    size = plan.images * s.groups * group;
  } else {
    plan.strip = int8_strip(s, plan.out_rows);
    const bool in_place = s.channels_last && s.groups == 1 && !x_signed && !kernels.magnitudes &&
                          !plan.strip.gathered && s.pad_height == 0 && s.pad_width == 0 &&
                          s.kernel_width * s.in_channels % kQuad == 0;
    plan.source = in_place ? Source::in_place : Source::strip;
    const int64_t pixel = plan.strip.gathered ? plan.strip.depth : s.stride_width * plan.strip.depth;
    const int64_t row = in_place ? s.in_width * s.in_channels : plan.strip.pitch();
    const int64_t image = in_place ? s.in_height * row : plan.strip.size(s.groups);
    plan.patches = {pixel,
                    s.stride_height * row,
                    image,
                    plan.strip.group(),
                    s.kernel_height,
                    s.dilation_height * row,
                    packing.run / kQuad};
    if (in_place) return;
    plan.line_size = round_up(plan.strip.line(), kAlign);
    size = plan.images * image;
  }
  size = round_up(size + kQuad, kAlign);  // the last quad of a run may reach beyond its patch
  plan.magnitude = kernels.magnitudes ? size : 0;
  plan.patches_size = kernels.magnitudes ? 2 * size : size;
}

Plan make_plan(const Int8Primitives& kernels, const Conv2dShape& s, const KeptColumns* kept, bool x_signed,
               Int8Output output, int64_t threads) {
  Plan plan{};
  // A band's input takes a quarter of level 2, several small images half of it; the rest is for weights and
  // results.
  const int64_t row = row_bytes(kernels, s, kept);
  const int64_t fit = std::max<int64_t>(1, level2_cache_bytes() / 4 / row);
  const int64_t bands = (s.out_height + fit - 1) / fit;
  const int64_t area = s.out_height * s.out_width;
  const int64_t image_bytes = kept ? row * s.out_height : row / s.stride_height * s.in_height;
  const int64_t most_images =
      std::max<int64_t>(1, std::min(kPixels / area, level2_cache_bytes() / 2 / image_bytes));
  const int64_t depth = kept ? kept->count : s.kernel_height * s.kernel_width * (s.in_channels / s.groups);
  const bool heavy_weights = s.out_channels * depth > 2 * s.in_height * s.in_width * s.in_channels;
  static_cast<Bands&>(plan) = cut_into_bands(s, bands, most_images, heavy_weights, threads);
  plan.columns_at_once = s.channels_last ? plan.group_columns : 4 * kPanel;
  plan.epilogue_size = round_up(int8_epilogue_size(s.groups * round_up(plan.group_columns, kPanel)), kAlign);
  choose_source(plan, kernels, s, kept, x_signed);
  if (!s.channels_last) {
    const int64_t pixel = round_up(std::min(plan.group_columns, plan.columns_at_once), kPanel);
    plan.tile_size =
        round_up(plan.images * plan.out_rows * s.out_width * pixel * int8_output_bytes(output), kAlign);
  }
  return plan;
}

struct Scratch {
  const int64_t* tables;
  uint8_t *patches, *planes, *line, *tile;

  Scratch(uint8_t* base, const Plan& plan, int64_t worker)
      : tables(reinterpret_cast<const int64_t*>(base + plan.epilogue_size)),
        patches(base + plan.shared_size() + worker * plan.worker_size()),
        planes(patches + plan.patches_size),
        line(planes + plan.planes_size),
        tile(line + plan.line_size) {}
};

void fill_patches(const Int8Primitives& kernels, const Int8Conv2dParams& p, const Plan& plan,
                  const BandItem& item, const Scratch& scratch) {
  const Conv2dShape& s = p.shape;
  const uint8_t flip = p.x_signed != kernels.magnitudes ? 0x80 : 0;
  const uint8_t pad = static_cast<uint8_t>(p.x_zero_point);
  for (int64_t i = 0; i < item.images; ++i) {
    const uint8_t* const x = p.x + (item.image + i) * s.in_channels * s.in_height * s.in_width;
    uint8_t* const to = scratch.patches + i * plan.patches.image;
    if (plan.source == Source::strip) {
      fill_int8_strip(kernels, s, plan.strip, x, item.first_row, item.rows(), pad, flip, plan.magnitude, to,
                      scratch.line);
      continue;
    }
    plan.columns.gather(kernels, s, scratch.tables, x, item.first_row, item.rows(), pad, flip, scratch.planes,
                        scratch.line, to);
    if (plan.magnitude != 0) int8_magnitudes(to, plan.patches.image, to + plan.magnitude);
  }
}

// Output channels [column, end) of a group.
void multiply(const Int8Primitives& kernels, const Int8Conv2dParams& p, const Plan& plan,
              const BandItem& item, int64_t group, int64_t column, int64_t end, const Int8Epilogue& e,
              const Scratch& scratch) {
  const Conv2dShape& s = p.shape;
  const Int8Patches& patches = plan.patches;
  const int64_t channel = group * plan.group_columns + column, area = s.out_height * s.out_width;
  const int64_t group_panels = panels(plan.group_columns), bytes = int8_output_bytes(p.output);
  const int64_t rows = item.rows(), tile_pixel = round_up(end - column, kPanel);
  const Int8Packing packing = int8_packing(Int8Weight::of(s, p.kept));
  const int64_t panel = group * group_panels + column / kPanel;

  Int8Gemm g{};
  g.a = plan.source == Source::in_place ? p.x + item.image * patches.image + item.first_row * patches.line
                                        : scratch.patches + group * patches.group;
  g.a_magnitude = plan.magnitude;
  g.a_run = patches.run;
  g.runs = patches.runs;
  g.quads = patches.quads;
  g.b = p.packed + panel * packing.panel;
  g.extreme = reinterpret_cast<const uint8_t*>(p.packed) + packing.extreme + panel;
  g.c_panel = kPanel;
  g.columns = end - column;
  g.epilogue = from_column(e, panel * kPanel);

  const int64_t c_pixel = s.channels_last ? s.out_channels : tile_pixel;
  const int64_t c_image = (s.channels_last ? area : rows * s.out_width) * c_pixel;
  const int64_t at = (item.image * area + item.first_row * s.out_width) * s.out_channels + channel;
  g.c = s.channels_last ? static_cast<uint8_t*>(p.y) + at * bytes : scratch.tile;
  Gemm<uint8_t> directions{};
  set_directions<uint8_t>({s.out_width, patches.pixel, c_pixel}, {rows, patches.line, s.out_width * c_pixel},
                          {item.images, patches.image, c_image}, kernels.tile_pixels, directions);
  g.pixels = directions.pixels;
  g.lines = directions.lines;
  g.planes = directions.planes;
  g.a_pixel = directions.a_pixel;
  g.a_line = directions.a_line;
  g.a_plane = directions.a_plane;
  g.c_pixel = directions.c_pixel;
  g.c_line = directions.c_line;
  g.c_plane = directions.c_plane;
  kernels.gemm(g);

  for (int64_t i = 0; !s.channels_last && i < item.images; ++i) {
    uint8_t* const from = scratch.tile + i * c_image * bytes;
    uint8_t* const to =
        static_cast<uint8_t*>(p.y) +
        (((item.image + i) * s.out_channels + channel) * area + item.first_row * s.out_width) * bytes;
    if (bytes == 1) {
      kernels.transpose(from, tile_pixel, rows * s.out_width, end - column, to, area);
    } else {
      primitives<float>().transpose(reinterpret_cast<float*>(from), tile_pixel, rows * s.out_width,
                                    end - column, reinterpret_cast<float*>(to), area);
    }
  }
}

void run(const Int8Conv2dParams& p, const Int8Primitives& kernels, const Plan& plan, const Int8Epilogue& e,
         const Worker& me) {
  const Conv2dShape& s = p.shape;
  const Scratch scratch(p.scratch, plan, me.index);
  const int64_t bands = plan.count(s);
  const auto [begin, end] = me.share(bands * plan.splits);
  int64_t filled = -1;  // the band whose patches are there
  for (int64_t i = begin; i < end; ++i) {
    // Splits are the outer loop: a worker that stays within one reads only that part of the weights.
    const int64_t split = i / bands, band = i % bands;
    const BandItem item = plan.item(s, band, split);
    if (plan.source != Source::in_place && band != filled) fill_patches(kernels, p, plan, item, scratch);
    filled = band;
    for (int64_t group = 0; group < s.groups; ++group) {
      for (int64_t column = item.column; column < item.column_end; column += plan.columns_at_once) {
        multiply(kernels, p, plan, item, group, column,
                 std::min(column + plan.columns_at_once, item.column_end), e, scratch);
      }
    }
  }
}

}  // namespace

int64_t int8_conv2d_scratch(const Int8Primitives& kernels, const Conv2dShape& shape, const KeptColumns* kept,
                            bool x_signed, Int8Output output, int64_t threads) {
  if (!kept && is_depthwise(shape)) return int8_depthwise_scratch(shape, output, threads);
  const Plan plan = make_plan(kernels, shape, kept, x_signed, output, threads);
  return plan.shared_size() + threads * plan.worker_size();
}

void int8_conv2d(const Int8Primitives& kernels, const Int8Conv2dParams& p) {
  if (!p.kept && is_depthwise(p.shape)) return int8_depthwise(kernels, p);
  const Plan plan = make_plan(kernels, p.shape, p.kept, p.x_signed, p.output, p.threads);
  const int32_t as_u8 = p.x_zero_point + (p.x_signed ? 128 : 0);
  const Int8Epilogue e =
      int8_epilogue(p, Int8Weight::of(p.shape, p.kept), kernels.magnitudes ? as_u8 - 128 : as_u8, p.scratch);
  int64_t* const tables = reinterpret_cast<int64_t*>(p.scratch + plan.epilogue_size);
  for (int64_t g = 0; p.kept && g < p.shape.groups; ++g)
    plan.columns.fill_table(p.shape, *p.kept, g, tables + g * plan.columns.table_size());
  parallel(p.threads, [&](const Worker& me) { run(p, kernels, plan, e, me); });
}

}  // namespace cnnkern
