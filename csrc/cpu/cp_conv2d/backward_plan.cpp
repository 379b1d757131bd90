// See backward_plan.h.
#include "cpu/cp_conv2d/backward_plan.h"

#include <algorithm>

#include "cpu/primitives.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

constexpr int64_t kParts = 8;
// The parts' sums may take this share of what the three intermediate maps would.
constexpr int64_t kShareOfMaps = 8;

}  // namespace

template <class T>
CpBackwardPlan make_cp_backward_plan(const Conv2dShape& s, int64_t rank, int64_t threads) {
  CpBackwardPlan plan{};
  const int64_t group_channels = s.in_channels / s.groups;
  plan.rank_panels = panels(rank / s.groups);
  plan.channel_panels = panels(group_channels);
  plan.output_panels = panels(s.out_channels / s.groups);

  const int64_t span = (s.kernel_height - 1) * s.dilation_height + 1;
  const int64_t in_row = s.in_width * kPanel * (2 * plan.rank_panels + plan.channel_panels);
  const int64_t out_row = s.out_width * kPanel * (plan.output_panels + 6);
  const int64_t budget =
      level2_cache_bytes() / 2 / static_cast<int64_t>(sizeof(T)) - (span + s.stride_height) * in_row;
  const int64_t fit = std::max<int64_t>(1, budget / (in_row * s.stride_height + out_row));
  const int64_t strips = (s.out_height + fit - 1) / fit;
  plan.strip_rows = (s.out_height + strips - 1) / strips;
  plan.ring_rows = std::min(s.in_height, strip_rows(s, plan.strip_rows) + s.stride_height);

  CpPlan& recompute = plan.recompute;
  recompute.by_rows = true;
  recompute.strip_rows = plan.strip_rows;
  recompute.ring_rows = plan.ring_rows;
  recompute.rank_panels = plan.rank_panels;
  recompute.pointers_size = round_up(s.kernel_height * kPointerSize<T>, kPanel);
  recompute.line_size = std::max(s.pad_width + s.in_width, strip_width(s)) * kPanel;
  recompute.zeros_size = s.in_width * kPanel;
  recompute.staged_size =
      s.channels_last ? 0 : round_up(plan.ring_rows * s.in_width * group_channels, kPanel);
  recompute.ring_size = plan.rank_panels * plan.ring_rows * s.in_width * kPanel;

  const int64_t pixels = plan.strip_rows * s.out_width, in_pixels = plan.ring_rows * s.in_width;
  plan.grad_line_size = recompute.line_size;
  plan.ones_size = kPanel;
  plan.grad_size = plan.output_panels * pixels * kPanel;
  plan.x_size = plan.channel_panels * in_pixels * kPanel;
  plan.rows_size = 2 * kPanel * std::max(pixels, in_pixels);
  plan.tile_size = s.channels_last ? 0 : in_pixels * 2 * kPanel;
  plan.ring_size = recompute.ring_size;

  const int64_t padded_rank = plan.rank_panels * kPanel;
  plan.sum_k = 0;
  plan.sum_c = plan.sum_k + padded_rank * plan.output_panels * kPanel;
  plan.sum_h = plan.sum_c + padded_rank * plan.channel_panels * kPanel;
  plan.sum_w = plan.sum_h + padded_rank * s.kernel_height;
  plan.sum_bias = plan.sum_w + padded_rank * s.kernel_width;
  plan.sums_size = plan.sum_bias + plan.output_panels * kPanel;
  const int64_t maps = s.batch * rank * (s.in_height * s.in_width + 2 * s.out_height * s.out_width);
  plan.parts =
      std::clamp<int64_t>(maps / (kShareOfMaps * s.groups * plan.sums_size), 1, std::min(s.batch, kParts));
  plan.by_parts = plan.parts >= threads;
  return plan;
}

template CpBackwardPlan make_cp_backward_plan<float>(const Conv2dShape&, int64_t, int64_t);
template CpBackwardPlan make_cp_backward_plan<double>(const Conv2dShape&, int64_t, int64_t);

}  // namespace cnnkern
