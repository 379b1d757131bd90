// See plan.h.
#include "cpu/cp_conv2d/plan.h"

#include <algorithm>

#include "cpu/primitives.h"
#include "cpu/registry.h"

namespace cnnkern {

template <class T>
CpPlan make_cp_plan(const Conv2dShape& s, int64_t rank, int64_t threads) {
  CpPlan plan{};
  const int64_t group_channels = s.in_channels / s.groups, group_rank = rank / s.groups;
  const int64_t span = (s.kernel_height - 1) * s.dilation_height + 1;
  plan.rank_panels = panels(group_rank);
  const int64_t padded_rank = plan.rank_panels * kPanel;

  const bool whole_images = s.batch % threads == 0 || s.batch >= 8 * threads;
  const int64_t weights = rank * (group_channels + s.out_channels / s.groups);
  const int64_t values = s.in_height * s.in_width * (s.in_channels + rank) +
                         s.out_height * s.out_width * (s.out_channels + rank);
  plan.by_rows = whole_images || (weights < 4 * values && s.batch * s.out_height >= 2 * threads);

  // A strip takes half of level 2: `strip_rows` rows after stage 3, and the ring of stage-1 rows under them.
  const int64_t in_row = s.in_width * (padded_rank + (s.channels_last ? 0 : group_channels));
  const int64_t out_row = s.out_width * padded_rank;
  const int64_t budget = level2_cache_bytes() / 2 / static_cast<int64_t>(sizeof(T)) - span * in_row;
  const int64_t fit = std::max<int64_t>(1, budget / (in_row * s.stride_height + out_row));
  const int64_t rows = plan.by_rows && !whole_images
                           ? std::min(s.out_height, (s.batch * s.out_height + threads - 1) / threads)
                           : s.out_height;
  const int64_t strips = (rows + fit - 1) / fit;
  plan.strip_rows = (rows + strips - 1) / strips;
  plan.ring_rows = std::min(s.in_height, strip_rows(s, plan.strip_rows));
  plan.halo_rows =
      plan.by_rows && !whole_images ? std::clamp<int64_t>(span - s.stride_height, 0, s.in_height) : 0;
  plan.tile_columns = s.channels_last ? 0 : std::min(round_up(s.out_channels / s.groups, kPanel), 2 * kPanel);

  const int64_t pixels = plan.strip_rows * s.out_width;
  plan.pointers_size = round_up(s.kernel_height * kPointerSize<T>, kPanel);
  plan.line_size = std::max(s.pad_width + s.in_width, strip_width(s)) * kPanel;
  plan.zeros_size = s.in_width * kPanel;
  plan.staged_size =
      s.channels_last
          ? 0
          : round_up(std::max(plan.ring_rows, plan.halo_rows) * s.in_width * group_channels, kPanel);
  plan.ring_size = plan.rank_panels * plan.ring_rows * s.in_width * kPanel;
  plan.rows_size = plan.by_rows ? pixels * padded_rank : 0;
  plan.tile_size = pixels * plan.tile_columns;
  plan.shared_size = plan.by_rows
                         ? (threads - 1) * s.groups * plan.rank_panels * plan.halo_rows * s.in_width * kPanel
                         : 2 * pixels * padded_rank;
  return plan;
}

template CpPlan make_cp_plan<float>(const Conv2dShape&, int64_t, int64_t);
template CpPlan make_cp_plan<double>(const Conv2dShape&, int64_t, int64_t);

}  // namespace cnnkern
