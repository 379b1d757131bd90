// Who computes which strips of a fused CP convolution when: the same for every kind of stages `S`, float32 or
// int8.
#pragma once
#include "cpu/cp_conv2d/stages.h"

namespace cnnkern {

// Stage 1 of the rows in `r`, whose input is at `from`, into the ring, but for those that a halo holds.
template <class S, class X>
void fill_ring(const S& stages, int64_t group, Panels panel, RowRange r, const X* from,
               const Halo<typename S::Real>* halos) {
  const int64_t ring_rows = stages.plan.ring_rows, row_size = stages.row_size();
  const int64_t input_row = stages.s.in_width * stages.input_pixel();
  for (int64_t row = r.begin; row < r.end;) {
    const bool held = halos[0].covers(row) || halos[1].covers(row);
    int64_t count = 1;
    while (row + count < r.end && (row + count) % ring_rows != 0 &&
           (halos[0].covers(row + count) || halos[1].covers(row + count)) == held)
      ++count;
    if (!held)
      stages.stage1(group, panel, from + (row - r.begin) * input_row, count,
                    stages.ring + row % ring_rows * row_size, ring_rows * row_size);
    row += count;
  }
}

// Output rows [first, last) of one group of one image, strip by strip, on one worker.
template <class S>
void run_rows(const S& stages, int64_t image, int64_t group, int64_t first, int64_t last,
              const Halo<typename S::Real>* halos) {
  const Conv2dShape& s = stages.s;
  const CpPlan& plan = stages.plan;
  int64_t done = rows_under(s, first, first + 1).begin;  // stage-1 rows that exist
  for (int64_t row = first; row < last; row += plan.strip_rows) {
    const int64_t end = std::min(last, row + plan.strip_rows);
    const RowRange under = rows_under(s, row, end);
    const RowRange fresh{std::min(std::max(done, under.begin), under.end), under.end};
    const auto* const from = stages.input_rows(image, group, fresh);
    for (int64_t q = 0; q < plan.rank_panels; q += kPanelsAtOnce) {
      const Panels panel{q, std::min(plan.rank_panels, q + kPanelsAtOnce)};
      fill_ring(stages, group, panel, fresh, from, halos);
      stages.stages23(group, panel, row, end, stages.own_rows(), halos);
    }
    done = std::max(done, under.end);
    stages.stage4(image, group, {0, panels(stages.group_outputs)}, row, end, stages.own_rows());
  }
}

// The halo between workers `boundary` - 1 and `boundary`, and where it lies in the shared scratch.
template <class S>
Halo<typename S::Real> halo_at(const S& stages, int64_t boundary) {
  const Conv2dShape& s = stages.s;
  const CpPlan& plan = stages.plan;
  if (boundary <= 0 || boundary >= stages.me.count || plan.halo_rows == 0) return {};
  const int64_t row = s.batch * s.out_height * boundary / stages.me.count % s.out_height;
  if (row == 0) return {};  // between two images
  const int64_t begin = rows_under(s, row, row + 1).begin, end = rows_under(s, row - 1, row).end;
  const int64_t size = s.groups * plan.rank_panels * plan.halo_rows * stages.row_size();
  return {{begin, std::max(begin, end)}, stages.shared + (boundary - 1) * size};
}

// This worker's half of a halo: the rows nearer to its own side.
template <class S>
void fill_halo(const S& stages, const Halo<typename S::Real>& halo, int64_t image, bool lower_half) {
  const CpPlan& plan = stages.plan;
  const int64_t middle = (halo.rows.begin + halo.rows.end + 1) / 2;
  const RowRange mine = lower_half ? RowRange{middle, halo.rows.end} : RowRange{halo.rows.begin, middle};
  if (mine.begin == mine.end) return;
  const int64_t panel_size = plan.halo_rows * stages.row_size();
  for (int64_t group = 0; group < stages.s.groups; ++group) {
    auto* const to = halo.data + group * plan.rank_panels * panel_size +
                     (mine.begin - halo.rows.begin) * stages.row_size();
    stages.stage1(group, {0, plan.rank_panels}, stages.input_rows(image, group, mine), mine.end - mine.begin,
                  to, panel_size);
  }
}

template <class S>
void run_by_rows(const S& stages) {
  using Rows = Halo<typename S::Real>;
  const Conv2dShape& s = stages.s;
  const Worker& me = stages.me;
  const auto [begin, end] = me.share(s.batch * s.out_height);
  const Rows above = halo_at(stages, me.index), below = halo_at(stages, me.index + 1), none{};
  if (stages.plan.halo_rows > 0) {
    fill_halo(stages, above, begin / s.out_height, true);
    fill_halo(stages, below, end / s.out_height, false);
    me.barrier();
  }
  for (int64_t row = begin; row < end;) {
    const int64_t image = row / s.out_height, first = row % s.out_height;
    const int64_t last = std::min(s.out_height, first + end - row);
    const Rows halos[2] = {row == begin ? above : none, row + last - first == end ? below : none};
    for (int64_t group = 0; group < s.groups; ++group) run_rows(stages, image, group, first, last, halos);
    row += last - first;
  }
}

// The whole team on every strip. Two buffers of stage-3 rows, so that one meeting a strip is enough: nobody
// can be two strips ahead.
template <class S>
void run_by_team(const S& stages) {
  const Conv2dShape& s = stages.s;
  const CpPlan& plan = stages.plan;
  const Worker& me = stages.me;
  const Halo<typename S::Real> none[2] = {};
  const auto [first_rank, last_rank] = me.share(plan.rank_panels);
  const auto [first_output, last_output] = me.share(panels(stages.group_outputs));
  int64_t strip = 0;
  for (int64_t image = 0; image < s.batch; ++image) {
    for (int64_t group = 0; group < s.groups; ++group) {
      int64_t done = 0;
      for (int64_t row = 0; row < s.out_height; row += plan.strip_rows, ++strip) {
        const int64_t end = std::min(s.out_height, row + plan.strip_rows);
        const RowRange under = rows_under(s, row, end);
        const RowRange fresh{std::min(std::max(done, under.begin), under.end), under.end};
        auto* const rows = stages.shared_rows(strip % 2);
        const auto* const from = stages.input_rows(image, group, fresh);
        for (int64_t q = first_rank; q < last_rank; q += kPanelsAtOnce) {
          const Panels panel{q, std::min(last_rank, q + kPanelsAtOnce)};
          fill_ring(stages, group, panel, fresh, from, none);
          stages.stages23(group, panel, row, end, rows, none);
        }
        done = std::max(done, under.end);
        me.barrier();
        stages.stage4(image, group, {first_output, last_output}, row, end, rows);
      }
    }
  }
}

template <class S>
void run_stages(const S& stages) {
  stages.plan.by_rows ? run_by_rows(stages) : run_by_team(stages);
}

}  // namespace cnnkern
