// Fused CP convolution (Lebedev et al. 2015) of 8-bit integers, strip by strip as the float32 one: the 1 x 1
// stages, where nearly all the work is, are int8 products.
//
//   stage 1    s32 sums of x, made float32, into the ring
//   stage 2+3  in float32, and rounded to integers in [-127, 127] while a row is in level 1: the factors are
//              scaled so that one step is 1 for every rank
//   stage 4    s32 sums of those, made what the layer gives
//
// Padding is real zeros of stage 1, where x's zero point would give the same.
#include "cpu/int8_cp_conv2d/int8_cp_conv2d.h"

#include <algorithm>
#include <cstring>

#include "cpu/cp_conv2d/schedule.h"
#include "cpu/int8_cp_conv2d/stages.h"

namespace cnnkern {
namespace {

constexpr int64_t kAlign = 64;

// What the epilogue of a 1 x 1 stage depends on.
Int8Conv2dParams stage_params(const int8_t* packed, int64_t out_channels, double x_scale,
                              const float* weight_scale) {
  Int8Conv2dParams stage{};
  stage.shape.out_channels = out_channels;
  stage.packed = packed;
  stage.x_scale = x_scale;
  stage.weight_scale = weight_scale;
  stage.output = Int8Output::f32;
  return stage;
}

Int8CpPlan make_plan(const Int8Primitives& kernels, const Conv2dShape& s, int64_t rank, bool x_signed,
                     Int8Output output, int64_t threads) {
  Int8CpPlan plan{};
  static_cast<CpPlan&>(plan) = make_cp_plan<float>(s, rank, threads);
  constexpr int64_t kFloat = sizeof(float);
  const int64_t group_channels = s.in_channels / s.groups, group_outputs = s.out_channels / s.groups;
  const int64_t pixels = plan.strip_rows * s.out_width;
  plan.in_place = s.channels_last && !x_signed && !kernels.magnitudes && group_channels % kQuad == 0;
  // The last quad of a pixel may reach beyond it.
  const auto size = [&](int64_t bytes) { return round_up(bytes + kQuad, kAlign); };
  const int64_t parts = kernels.magnitudes ? 2 : 1;
  const int64_t staged = size(std::max(plan.ring_rows, plan.halo_rows) * s.in_width * group_channels);
  const int64_t rows = size(pixels * plan.rank_panels * kPanel);
  plan.staged_magnitude = kernels.magnitudes ? staged : 0;
  plan.rows_magnitude = kernels.magnitudes ? rows : 0;
  plan.staged_size = plan.in_place ? 0 : parts * staged / kFloat;
  plan.rows_size = plan.by_rows ? parts * rows / kFloat : 0;
  // The row that stage 3 has in float32 comes before the tile.
  plan.tile_size = s.out_width * kPanel +
                   round_up(pixels * plan.tile_columns * int8_output_bytes(output), kAlign) / kFloat;
  if (!plan.by_rows) {
    plan.shared_rows = parts * rows;
    plan.shared_size = 2 * plan.shared_rows / kFloat;
  }
  plan.epilogue_c = round_up(int8_epilogue_size(s.groups * plan.rank_panels * kPanel), kAlign);
  plan.epilogue_k = round_up(int8_epilogue_size(s.groups * round_up(group_outputs, kPanel)), kAlign);
  plan.floats_size =
      round_up(Int8PackedFactors::float_size(rank, s.kernel_height + s.kernel_width, s.groups), kAlign);
  return plan;
}

}  // namespace

Int8Stages::Int8Stages(const Int8CpConv2dParams& params, const Int8CpPlan& int8_plan,
                       const Primitives<float>& primitives, const Int8Primitives& int8_primitives,
                       const Int8PackedFactors& factors, const DepthwiseFactors<float>& depthwise,
                       const Int8Epilogue& epilogue_c, const Int8Epilogue& epilogue_k, const Worker& worker)
    : DepthwiseStages<float>(params.shape, params.rank, int8_plan, primitives, worker,
                             reinterpret_cast<float*>(params.scratch + int8_plan.lead()), depthwise),
      p(params),
      plan8(int8_plan),
      integers(int8_primitives),
      at(factors),
      first(epilogue_c),
      last(epilogue_k) {}

const uint8_t* Int8Stages::input_rows(int64_t image, int64_t group, RowRange r) const {
  const int64_t area = s.in_height * s.in_width, channel = group * group_channels;
  const int64_t pixel = r.begin * s.in_width, pixels = (r.end - r.begin) * s.in_width;
  const uint8_t* from = p.x + image * s.in_channels * area;
  uint8_t* const to = reinterpret_cast<uint8_t*>(staged);
  if (!s.channels_last) {
    integers.transpose(from + channel * area + pixel, area, group_channels, pixels, to, group_channels);
  } else {
    from += pixel * s.in_channels + channel;
    if (plan8.in_place) return from;
    const int64_t runs = s.groups == 1 ? 1 : pixels,
                  run = pixels * group_channels / std::max<int64_t>(1, runs);
    for (int64_t i = 0; i < runs; ++i)
      std::memcpy(to + i * run, from + i * s.in_channels, static_cast<size_t>(run));
  }
  const int64_t count = pixels * group_channels;
  const uint8_t flip = p.x_signed != integers.magnitudes ? 0x80 : 0;
  int8_flip(to, count, flip);
  if (integers.magnitudes) int8_magnitudes(to, count, to + plan8.staged_magnitude);
  return to;
}

Int8Gemm Int8Stages::product(const uint8_t* from, int64_t pixel, int64_t magnitude, int64_t pixels,
                             const Int8Weight& weight, int64_t offset, int64_t panel,
                             const Int8Epilogue& e) const {
  const Int8Packing packing = int8_packing(weight);
  Int8Gemm g{};
  g.a = from;
  g.a_magnitude = magnitude;
  g.a_pixel = pixel;
  g.pixels = pixels;
  g.lines = g.planes = g.runs = 1;
  g.quads = packing.run / kQuad;
  g.b = p.packed + offset + panel * packing.panel;
  g.extreme = reinterpret_cast<const uint8_t*>(p.packed) + offset + packing.extreme + panel;
  g.epilogue = from_column(e, panel * kPanel);
  return g;
}

void Int8Stages::stage1(int64_t group, Panels panel, const uint8_t* from, int64_t count, float* to,
                        int64_t panel_stride) const {
  Int8Gemm g = product(from, input_pixel(), plan8.staged_magnitude, count * s.in_width, at.c, at.factor_c,
                       group * plan.rank_panels + panel.begin, first);
  g.c = to + panel.begin * panel_stride;
  g.c_pixel = kPanel;
  g.c_panel = panel_stride;
  g.columns = (panel.end - panel.begin) * kPanel;  // whole panels: the lanes past R become zeros
  integers.gemm(g);
}

void Int8Stages::stages23(int64_t group, Panels panel, int64_t first_row, int64_t last_row, uint8_t* to,
                          const Halo<float>* halos) const {
  for (int64_t q = panel.begin; q < panel.end; ++q) {
    for (int64_t row = first_row; row < last_row; ++row) {
      stages23_row(group, q, row, tile, kPanel, halos);
      integers.quantize(tile, s.out_width, to + (row - first_row) * s.out_width * padded_rank + q * kPanel,
                        padded_rank, plan8.rows_magnitude);
    }
  }
}

void Int8Stages::stage4(int64_t image, int64_t group, Panels panel, int64_t first_row, int64_t last_row,
                        const uint8_t* from) const {
  const int64_t area = s.out_height * s.out_width, bytes = int8_output_bytes(p.output);
  const int64_t step = s.channels_last ? panel.end - panel.begin : kPanelsAtOnce;
  float* const results = tile + s.out_width * kPanel;
  uint8_t* const y = static_cast<uint8_t*>(p.y);
  for (int64_t q = panel.begin; q < panel.end; q += step) {
    const int64_t column = q * kPanel, channel = group * group_outputs + column;
    Int8Gemm g = product(from, padded_rank, plan8.rows_magnitude, (last_row - first_row) * s.out_width, at.k,
                         at.factor_k, group * panels(group_outputs) + q, last);
    g.c = s.channels_last ? y + ((image * area + first_row * s.out_width) * s.out_channels + channel) * bytes
                          : static_cast<void*>(results);
    g.c_pixel = s.channels_last ? s.out_channels : plan.tile_columns;
    g.c_panel = kPanel;
    g.columns = std::min(group_outputs, std::min(q + step, panel.end) * kPanel) - column;
    integers.gemm(g);
    if (s.channels_last) continue;
    uint8_t* const to = y + ((image * s.out_channels + channel) * area + first_row * s.out_width) * bytes;
    if (bytes == 1) {
      integers.transpose(reinterpret_cast<uint8_t*>(results), plan.tile_columns, g.pixels, g.columns, to,
                         area);
    } else {
      kernels.transpose(results, plan.tile_columns, g.pixels, g.columns, reinterpret_cast<float*>(to), area);
    }
  }
}

int64_t int8_cp_conv2d_scratch(const Int8Primitives& kernels, const Conv2dShape& shape, int64_t rank,
                               bool x_signed, Int8Output output, int64_t threads) {
  const Int8CpPlan plan = make_plan(kernels, shape, rank, x_signed, output, threads);
  return plan.lead() +
         (plan.shared_size + threads * plan.worker_size()) * static_cast<int64_t>(sizeof(float));
}

void int8_cp_conv2d(const Int8Primitives& kernels, const Int8CpConv2dParams& p) {
  const Conv2dShape& s = p.shape;
  const Int8CpPlan plan = make_plan(kernels, s, p.rank, p.x_signed, p.output, p.threads);
  const Int8PackedFactors at(p.rank, s.in_channels / s.groups, s.out_channels, s.kernel_height,
                             s.kernel_width, s.groups);
  const Int8Conv2dParams first = stage_params(p.packed + at.factor_c, p.rank, p.x_scale, p.factor_c_scale);
  Int8Conv2dParams last = stage_params(p.packed + at.factor_k, s.out_channels, 1.0, p.factor_k_scale);
  last.bias = p.bias;
  last.output = p.output;
  last.out_scale = p.out_scale;
  last.out_zero_point = p.out_zero_point;
  last.relu = p.relu;
  const int32_t as_u8 = p.x_zero_point + (p.x_signed ? 128 : 0), shift = kernels.magnitudes ? 128 : 0;
  const Int8Epilogue c = int8_epilogue(first, at.c, as_u8 - shift, p.scratch);
  const Int8Epilogue k = int8_epilogue(last, at.k, 128 - shift, p.scratch + plan.epilogue_c);
  float* const h = reinterpret_cast<float*>(p.scratch + plan.epilogue_c + plan.epilogue_k);
  std::memcpy(h, p.packed + at.factor_h, static_cast<size_t>(at.size - at.factor_h));
  const int64_t lanes = plan.rank_panels * kPanel;
  const DepthwiseFactors<float> depthwise{h, lanes * s.kernel_height, h + s.groups * lanes * s.kernel_height,
                                          lanes * s.kernel_width};
  parallel(p.threads, [&](const Worker& me) {
    run_stages(Int8Stages(p, plan, primitives<float>(), kernels, at, depthwise, c, k, me));
  });
}

}  // namespace cnnkern
