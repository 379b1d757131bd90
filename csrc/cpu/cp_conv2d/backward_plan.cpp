// See backward_plan.h.
#include "cpu/cp_conv2d/backward_plan.h"

#include <algorithm>

#include "cpu/cp_conv2d/plan.h"
#include "cpu/primitives.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

constexpr int64_t kMostParts = 8;
constexpr int64_t kShareOfMaps = 16;   // what the parts' sums may take of what the intermediate maps would
constexpr int64_t kStripPixels = 128;  // enough for the sums over pixels to be read rarely,
constexpr int64_t kWholePixels = 256;  // and images up to this need no stage-1 rows of the strip before
constexpr int64_t kRowsPerHalo = 4;    // of a band, or its halo would be computed too often

void choose_parts(CpBackwardPlan& plan, const Conv2dShape& s, int64_t rank, int64_t threads) {
  const int64_t span = (s.kernel_height - 1) * s.dilation_height + 1;
  plan.halo_rows = (span - 1 + s.stride_height - 1) / s.stride_height;
  const int64_t maps = s.batch * rank * (s.in_height * s.in_width + 2 * s.out_height * s.out_width);
  const int64_t fit = 1 + maps / (kShareOfMaps * plan.others_size());
  const int64_t most_bands =
      std::max<int64_t>(1, s.out_height / std::max(int64_t{1}, kRowsPerHalo * plan.halo_rows));
  const int64_t most = std::min({kMostParts, fit, s.batch * most_bands});
  plan.parts = 1;
  while (2 * plan.parts <= most) plan.parts *= 2;
  plan.bands = (plan.parts + s.batch - 1) / s.batch;
  plan.by_parts = plan.parts >= threads;
}

template <class T>
void choose_strips(CpBackwardPlan& plan, const Conv2dShape& s) {
  const int64_t in_row = s.in_width * kPanel * (2 * plan.rank_panels + plan.channel_panels) * s.stride_height;
  const int64_t out_row = s.out_width * kPanel * plan.output_panels * (s.channels_last ? 1 : 2);
  const int64_t fit = std::max<int64_t>(
      1, level2_cache_bytes() * 3 / 4 / static_cast<int64_t>(sizeof(T)) / (in_row + out_row));
  const int64_t pixels = s.out_height * s.out_width <= kWholePixels ? kWholePixels : kStripPixels;
  const int64_t wanted = std::min(fit, (pixels + s.out_width - 1) / s.out_width);
  const int64_t rows = (s.out_height + plan.bands - 1) / plan.bands;
  const int64_t strips = (rows + wanted - 1) / wanted;
  plan.strip_rows = (rows + strips - 1) / strips;
  plan.whole = plan.strip_rows == s.out_height;
  plan.images = 1;
  if (plan.whole) {
    const int64_t most = std::max<int64_t>(1, wanted / s.out_height);
    const int64_t of_part = (s.batch + plan.parts - 1) / plan.parts, turns = (of_part + most - 1) / most;
    plan.images = (of_part + turns - 1) / turns;
  }
  plan.ring_rows = plan.whole ? plan.images * s.in_height
                              : std::min(s.in_height, strip_rows(s, plan.strip_rows) + s.stride_height - 1);
}

}  // namespace

template <class T>
CpBackwardPlan make_cp_backward_plan(const Conv2dShape& s, int64_t rank, int64_t threads) {
  CpBackwardPlan plan{};
  plan.group_rank = rank / s.groups;
  plan.group_channels = s.in_channels / s.groups;
  plan.group_outputs = s.out_channels / s.groups;
  plan.rank_panels = panels(plan.group_rank);
  plan.channel_panels = panels(plan.group_channels);
  plan.output_panels = panels(plan.group_outputs);
  const bool whole_rank = plan.group_rank % kPanel == 0;
  plan.k_in_place = whole_rank && (s.channels_last || plan.group_outputs % kPanel == 0);
  plan.c_in_place = whole_rank && plan.group_channels % kPanel == 0;

  const int64_t padded_rank = plan.rank_panels * kPanel;
  plan.factor_c_size = padded_rank * plan.channel_panels * kPanel;
  plan.factor_h_size = padded_rank * s.kernel_height;
  plan.factor_w_size = padded_rank * s.kernel_width;
  plan.by_rank_size = plan.k_in_place ? 0 : padded_rank * plan.output_panels * kPanel;
  plan.by_channel_size = plan.c_in_place ? 0 : plan.factor_c_size;

  plan.sum_h_size = s.groups * plan.factor_h_size;
  plan.sum_w_size = s.groups * plan.factor_w_size;
  plan.sum_c_size = round_up(rank * plan.group_channels, kPanel);
  plan.sum_k_size = round_up(s.out_channels * plan.group_rank, kPanel);
  plan.sum_bias_size = round_up(s.out_channels, kPanel);

  choose_parts(plan, s, rank, threads);
  choose_strips<T>(plan, s);

  const int64_t pixels = plan.images * plan.strip_rows * s.out_width, row = s.in_width * kPanel;
  plan.grad_pitch = apart(pixels);
  plan.x_size = plan.channel_panels * plan.ring_rows * row;
  plan.grad_size = plan.group_outputs * plan.grad_pitch;
  plan.grad_panels_size = s.channels_last ? 0 : plan.output_panels * pixels * kPanel;
  plan.ring_size = plan.rank_panels * plan.ring_rows * row;
  plan.stage1_size = plan.whole ? 0 : plan.ring_size;

  plan.pointers_size = round_up((s.kernel_height + s.kernel_width) * kPointerSize<T>, kPanel);
  plan.line_size = std::max(s.pad_width + s.in_width, strip_width(s)) * kPanel;
  plan.zeros_size = row;
  plan.own_stage1_size = plan.whole ? 2 * plan.ring_rows * row : 0;
  plan.rows_size = 2 * kPanel * std::max(pixels, apart(plan.ring_rows * s.in_width));
  return plan;
}

template CpBackwardPlan make_cp_backward_plan<float>(const Conv2dShape&, int64_t, int64_t);
template CpBackwardPlan make_cp_backward_plan<double>(const Conv2dShape&, int64_t, int64_t);

}  // namespace cnnkern
