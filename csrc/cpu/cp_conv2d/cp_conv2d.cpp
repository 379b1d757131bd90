// Fused CP convolution (Lebedev et al. 2015): 1x1 (C -> R), kH x 1 and 1 x kW depthwise, 1x1 (R -> K) in one
// pass over strips of output rows. A strip's rank-R intermediates stay in cache and no intermediate map
// exists in memory:
//
//   stage 1   new rows of the strip into a ring of rows, panel by panel of the rank: (panel, ring row, W,
//   kPanel) stage 2+3 both depthwise passes of an output row while its panel is warm, into rows of pixels:
//   (pixel, R) stage 4   a matrix product whose rows are those pixels, straight into y
//
// Channel-first images are transposed row by row on the way in, and panel by panel on the way out.
#include "cpu/cp_conv2d/cp_conv2d.h"

#include "cpu/cp_conv2d/stages.h"

namespace cnnkern {
namespace {

// Output rows [first, last) of one group of one image, strip by strip, on one worker.
template <class T>
void run_rows(const Stages<T>& stages, int64_t image, int64_t group, int64_t first, int64_t last,
              const Halo<T>* halos) {
  const Conv2dShape& s = stages.s;
  const CpPlan& plan = stages.plan;
  int64_t done = rows_under(s, first, first + 1).begin;  // stage-1 rows that exist
  for (int64_t row = first; row < last; row += plan.strip_rows) {
    const int64_t end = std::min(last, row + plan.strip_rows);
    const RowRange under = rows_under(s, row, end);
    const RowRange fresh{std::min(std::max(done, under.begin), under.end), under.end};
    const T* const from = stages.input_rows(image, group, fresh);
    for (int64_t q = 0; q < plan.rank_panels; q += kPanelsAtOnce) {
      const Panels panel{q, std::min(plan.rank_panels, q + kPanelsAtOnce)};
      stages.fill_ring(group, panel, fresh, from, halos);
      stages.stages23(group, panel, row, end, stages.rows, halos);
    }
    done = std::max(done, under.end);
    stages.stage4(image, group, {0, panels(stages.group_outputs)}, row, end, stages.rows);
  }
}

// The halo between workers `boundary` - 1 and `boundary`, and where it lies in the shared scratch.
template <class T>
Halo<T> halo_at(const Stages<T>& stages, int64_t boundary) {
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
template <class T>
void fill_halo(const Stages<T>& stages, const Halo<T>& halo, int64_t image, bool lower_half) {
  const CpPlan& plan = stages.plan;
  const int64_t middle = (halo.rows.begin + halo.rows.end + 1) / 2;
  const RowRange mine = lower_half ? RowRange{middle, halo.rows.end} : RowRange{halo.rows.begin, middle};
  if (mine.begin == mine.end) return;
  const int64_t panel_size = plan.halo_rows * stages.row_size();
  for (int64_t group = 0; group < stages.s.groups; ++group) {
    T* const to = halo.data + group * plan.rank_panels * panel_size +
                  (mine.begin - halo.rows.begin) * stages.row_size();
    stages.stage1(group, {0, plan.rank_panels}, stages.input_rows(image, group, mine), mine.end - mine.begin,
                  to, panel_size);
  }
}

template <class T>
void run_by_rows(const Stages<T>& stages) {
  const Conv2dShape& s = stages.s;
  const Worker& me = stages.me;
  const auto [begin, end] = me.share(s.batch * s.out_height);
  const Halo<T> above = halo_at(stages, me.index), below = halo_at(stages, me.index + 1), none{};
  if (stages.plan.halo_rows > 0) {
    fill_halo(stages, above, begin / s.out_height, true);
    fill_halo(stages, below, end / s.out_height, false);
    me.barrier();
  }
  for (int64_t row = begin; row < end;) {
    const int64_t image = row / s.out_height, first = row % s.out_height;
    const int64_t last = std::min(s.out_height, first + end - row);
    const Halo<T> halos[2] = {row == begin ? above : none, row + last - first == end ? below : none};
    for (int64_t group = 0; group < s.groups; ++group) run_rows(stages, image, group, first, last, halos);
    row += last - first;
  }
}

// The whole team on every strip. Two buffers of stage-3 rows, so that one meeting a strip is enough: nobody
// can be two strips ahead.
template <class T>
void run_by_team(const Stages<T>& stages) {
  const Conv2dShape& s = stages.s;
  const CpPlan& plan = stages.plan;
  const Worker& me = stages.me;
  const Halo<T> none[2] = {};
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
        T* const rows = stages.shared + strip % 2 * plan.strip_rows * s.out_width * stages.padded_rank;
        const T* const from = stages.input_rows(image, group, fresh);
        for (int64_t q = first_rank; q < last_rank; q += kPanelsAtOnce) {
          const Panels panel{q, std::min(last_rank, q + kPanelsAtOnce)};
          stages.fill_ring(group, panel, fresh, from, none);
          stages.stages23(group, panel, row, end, rows, none);
        }
        done = std::max(done, under.end);
        me.barrier();
        stages.stage4(image, group, {first_output, last_output}, row, end, rows);
      }
    }
  }
}

}  // namespace

template <class T>
int64_t cp_conv2d_scratch(const Conv2dShape& shape, int64_t rank, int64_t threads) {
  const CpPlan plan = make_cp_plan<T>(shape, rank, threads);
  return plan.shared_size + threads * plan.worker_size();
}

template <class T>
void cp_conv2d(const CpConv2dParams<T>& p) {
  const Primitives<T>& kernels = primitives<T>();
  const CpPlan plan = make_cp_plan<T>(p.shape, p.rank, p.threads);
  parallel(p.threads, [&](const Worker& me) {
    const Stages<T> stages(p, plan, kernels, me);
    if (plan.by_rows) {
      run_by_rows(stages);
    } else {
      run_by_team(stages);
    }
  });
}

template int64_t cp_conv2d_scratch<float>(const Conv2dShape&, int64_t, int64_t);
template int64_t cp_conv2d_scratch<double>(const Conv2dShape&, int64_t, int64_t);
template void cp_conv2d(const CpConv2dParams<float>&);
template void cp_conv2d(const CpConv2dParams<double>&);

}  // namespace cnnkern
