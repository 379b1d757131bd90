// The four stages of a fused CP convolution, as one worker runs them on the rows and panels that it is told
// to. The two depthwise stages are those of the int8 form too.
#pragma once
#include <algorithm>

#include "cpu/cp_conv2d/cp_conv2d.h"
#include "cpu/cp_conv2d/plan.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"

namespace cnnkern {

constexpr int64_t kPanelsAtOnce = 2;  // how many go through stages 1 to 3 before the next, to stay in level 1

struct Panels {
  int64_t begin, end;
};

// Stage-1 rows of one boundary between two workers: (panel of all groups, row, W, kPanel).
template <class T>
struct Halo {
  RowRange rows{0, 0};
  T* data = nullptr;
  bool covers(int64_t row) const { return row >= rows.begin && row < rows.end; }
};

// Stages 2 and 3 of one output row for one panel, from the stage-1 rows under it, into `to` (oW pixels,
// `to_pixel` apart). `line` has zeros outside the image, and then the stage-2 row.
template <class T>
void separable_row(const Conv2dShape& s, const Primitives<T>& kernels, const T* const* rows,
                   const T* factor_h, const T* factor_w, T* line, T* to, int64_t to_pixel) {
  SeparableLine<T> separable{};
  separable.rows = rows;
  separable.kernel_height = s.kernel_height;
  separable.kernel_width = s.kernel_width;
  separable.width = s.in_width;
  separable.pad_left = s.pad_width;
  separable.stride = s.stride_width;
  separable.dilation = s.dilation_width;
  separable.factor_h = factor_h;
  separable.factor_w = factor_w;
  separable.line = line;
  separable.out = to;
  separable.out_width = s.out_width;
  separable.out_pixel = to_pixel;
  kernels.separable_line(separable);
}

// The depthwise factors of group 0, and how far the next group's are.
template <class T>
struct DepthwiseFactors {
  const T* h;  // (panels of R/G, kH, kPanel)
  int64_t h_group;
  const T* w;  // (panels of R/G, kW, kPanel)
  int64_t w_group;
};

// The depthwise stages as one worker runs them, the ring of stage-1 rows before them, and what all stages
// know.
template <class T>
struct DepthwiseStages {
  const Conv2dShape& s;
  const CpPlan& plan;
  const Primitives<T>& kernels;
  const Worker& me;
  const T** pointers;  // (kH)
  T *line, *zeros, *staged, *ring, *rows, *tile, *shared;
  DepthwiseFactors<T> factors23;
  int64_t group_channels, group_rank, group_outputs, padded_rank;

  DepthwiseStages(const Conv2dShape& shape, int64_t rank, const CpPlan& cp_plan,
                  const Primitives<T>& primitives, const Worker& worker, T* scratch,
                  const DepthwiseFactors<T>& depthwise)
      : s(shape),
        plan(cp_plan),
        kernels(primitives),
        me(worker),
        pointers(reinterpret_cast<const T**>(scratch + plan.shared_size + worker.index * plan.worker_size())),
        line(reinterpret_cast<T*>(pointers) + plan.pointers_size),
        zeros(line + plan.line_size),
        staged(zeros + plan.zeros_size),
        ring(staged + plan.staged_size),
        rows(ring + plan.ring_size),
        tile(rows + plan.rows_size),
        shared(scratch),
        factors23(depthwise),
        group_channels(s.in_channels / s.groups),
        group_rank(rank / s.groups),
        group_outputs(s.out_channels / s.groups),
        padded_rank(plan.rank_panels * kPanel) {
    std::fill(line, line + plan.line_size + plan.zeros_size, T(0));
  }

  const T* factor_h(int64_t group, int64_t panel) const {
    return factors23.h + group * factors23.h_group + panel * s.kernel_height * kPanel;
  }
  const T* factor_w(int64_t group, int64_t panel) const {
    return factors23.w + group * factors23.w_group + panel * s.kernel_width * kPanel;
  }
  int64_t row_size() const { return s.in_width * kPanel; }

  // A stage-1 row of one panel, wherever it is; zeros outside the image.
  const T* stage1_row(int64_t group, int64_t panel, int64_t row, const Halo<T>* halos) const {
    if (row < 0 || row >= s.in_height) return zeros;
    for (const Halo<T>* halo = halos; halo < halos + 2; ++halo) {
      if (!halo->covers(row)) continue;
      const int64_t index = group * plan.rank_panels + panel;
      return halo->data + (index * plan.halo_rows + row - halo->rows.begin) * row_size();
    }
    return ring + (panel * plan.ring_rows + row % plan.ring_rows) * row_size();
  }

  // Stages 2 and 3 of one output row for one panel, into `to` (oW pixels, `to_pixel` apart).
  void stages23_row(int64_t group, int64_t panel, int64_t row, T* to, int64_t to_pixel,
                    const Halo<T>* halos) const {
    for (int64_t i = 0; i < s.kernel_height; ++i)
      pointers[i] =
          stage1_row(group, panel, row * s.stride_height - s.pad_height + i * s.dilation_height, halos);
    separable_row(s, kernels, pointers, factor_h(group, panel), factor_w(group, panel), line, to, to_pixel);
  }
};

// The four stages as one worker runs them.
template <class T>
struct Stages : DepthwiseStages<T> {
  using Real = T;
  using Base = DepthwiseStages<T>;
  using Base::group_channels, Base::group_outputs, Base::group_rank, Base::kernels, Base::padded_rank,
      Base::plan, Base::rows, Base::s, Base::shared, Base::staged, Base::tile;
  const CpConv2dParams<T>& p;
  PackedFactors at;

  Stages(const CpConv2dParams<T>& params, const CpPlan& cp_plan, const Primitives<T>& primitives,
         const PackedFactors& factors, const Worker& worker)
      : Base(
            params.shape, params.rank, cp_plan, primitives, worker, params.scratch,
            {params.packed + factors.factor_h, factors.size, params.packed + factors.factor_w, factors.size}),
        p(params),
        at(factors) {}

  const T* factors(int64_t group) const { return p.packed + group * at.size; }
  // Stage-3 rows: this worker's own, or one of the two buffers that the team shares.
  T* own_rows() const { return rows; }
  T* shared_rows(int64_t which) const { return shared + which * plan.strip_rows * s.out_width * padded_rank; }

  // Rows [begin, end) of the group's input as pixels of channels: in place, or staged.
  const T* input_rows(int64_t image, int64_t group, RowRange r) const {
    const int64_t area = s.in_height * s.in_width, channel = group * group_channels;
    const T* const x = p.x + image * s.in_channels * area;
    if (s.channels_last) return x + r.begin * s.in_width * s.in_channels + channel;
    kernels.transpose(x + channel * area + r.begin * s.in_width, area, group_channels,
                      (r.end - r.begin) * s.in_width, staged, group_channels);
    return staged;
  }
  // From one pixel of these rows to the next.
  int64_t input_pixel() const { return s.channels_last ? s.in_channels : group_channels; }

  // Stage 1 of `count` rows at `from` for some panels of the rank, into rows of a (panel, row, W, kPanel)
  // buffer.
  void stage1(int64_t group, Panels panel, const T* from, int64_t count, T* to, int64_t panel_stride) const {
    Gemm<T> gemm{};
    gemm.a = from;
    gemm.a_pixel = input_pixel();
    gemm.pixels = count * s.in_width;
    gemm.lines = 1;
    gemm.patch = Patch::line(group_channels);
    gemm.b = factors(group) + at.factor_c + panel.begin * group_channels * kPanel;
    gemm.b_panel = group_channels * kPanel;
    gemm.b_step = kPanel;
    gemm.c = to + panel.begin * panel_stride;
    gemm.c_pixel = kPanel;
    gemm.c_panel = panel_stride;
    gemm.columns = (panel.end - panel.begin) * kPanel;  // whole panels: the lanes past R become zeros
    kernels.gemm(gemm);
  }

  // Stages 2 and 3 of output rows [first, last) for some panels, into `to` (pixel, padded_rank).
  void stages23(int64_t group, Panels panel, int64_t first, int64_t last, T* to, const Halo<T>* halos) const {
    for (int64_t q = panel.begin; q < panel.end; ++q) {
      for (int64_t row = first; row < last; ++row)
        this->stages23_row(group, q, row, to + (row - first) * s.out_width * padded_rank + q * kPanel,
                           padded_rank, halos);
    }
  }

  // Stage 4 of output rows [first, last) for some panels of the group's output channels, from `from` into y.
  void stage4(int64_t image, int64_t group, Panels panel, int64_t first, int64_t last, const T* from) const {
    const int64_t area = s.out_height * s.out_width;
    const int64_t step = s.channels_last ? panel.end - panel.begin : kPanelsAtOnce;
    for (int64_t q = panel.begin; q < panel.end; q += step) {
      const int64_t column = q * kPanel, channel = group * group_outputs + column;
      Gemm<T> gemm{};
      gemm.a = from;
      gemm.a_pixel = padded_rank;
      gemm.pixels = (last - first) * s.out_width;
      gemm.lines = 1;
      gemm.patch = Patch::line(group_rank);
      gemm.b = factors(group) + at.factor_k + q * group_rank * kPanel;
      gemm.b_panel = group_rank * kPanel;
      gemm.b_step = kPanel;
      gemm.c = s.channels_last ? p.y + (image * area + first * s.out_width) * s.out_channels + channel : tile;
      gemm.c_pixel = s.channels_last ? s.out_channels : plan.tile_columns;
      gemm.c_panel = kPanel;
      gemm.columns = std::min(group_outputs, std::min(q + step, panel.end) * kPanel) - column;
      gemm.bias = p.bias ? p.bias + channel : nullptr;
      kernels.gemm(gemm);
      if (!s.channels_last) {
        kernels.transpose(tile, plan.tile_columns, gemm.pixels, gemm.columns,
                          p.y + (image * s.out_channels + channel) * area + first * s.out_width, area);
      }
    }
  }
};

}  // namespace cnnkern
