// Gradients of the fused CP convolution, strip by strip of output rows. Stages 1 to 3 are computed again, so
// that nothing but x outlives the forward pass. For a strip, two panels of the rank at a time:
//
//   stage-3 rows  (again)                                 with the gradient of y: gradient of factor_k
//   their gradient: y's gradient times factor_k           with stage-2 rows:      gradient of factor_w
//   spread by factor_w: gradient of stage-2 rows          with stage-1 rows:      gradient of factor_h
//   spread by factor_h into a ring: gradient of stage-1 rows; a row is complete once no later output row
//   reads it
//
// and for the rows that the strip completes: with x, the gradient of factor_c; times factor_c, the gradient
// of x. Sums over pixels are added to the gradients themselves.
#include <algorithm>

#include "cpu/cp_conv2d/backward_operands.h"
#include "cpu/cp_conv2d/backward_plan.h"
#include "cpu/cp_conv2d/stages.h"
#include "cpu/panel_rows.h"

namespace cnnkern {
namespace {

// Output rows of one image, or all rows of several. Input rows are those of the images on top of one another.
struct Strip {
  int64_t image, images, group;
  int64_t first, last;
  bool counted;       // in the sums; else rows above a band, which reach into its input rows
  RowRange own;       // input rows whose gradients this part computes
  RowRange fresh;     // input rows whose stage 1 is new
  RowRange complete;  // input rows whose gradients are then complete
  int64_t out_rows() const { return last - first; }
};

template <class T>
struct Backward {
  const CpConv2dBackwardParams<T>& p;
  const Conv2dShape& s;
  const CpBackwardPlan& plan;
  const Primitives<T>& kernels;
  const Worker& me;
  const Worker team;  // that works on a strip together: all, or this worker alone
  const BackwardFactors<T> factors;
  PartSums<T> sums;  // of the part that is being worked on
  // The team's; see backward_plan.h.
  T *x, *grad, *grad_panels, *stage1_ring, *ring;
  // This worker's own.
  const T** pointers;
  T *line, *grad_line, *zeros, *own_stage1, *rows, *grad_rows;
  T *by_rank, *tile;  // in place of the rows, when those have been used

  Backward(const CpConv2dBackwardParams<T>& params, const CpBackwardPlan& backward_plan,
           const Primitives<T>& primitives, const Worker& worker)
      : p(params),
        s(params.shape),
        plan(backward_plan),
        kernels(primitives),
        me(worker),
        team(plan.by_parts ? Worker{0, 1} : worker),
        factors(params, plan, params.scratch) {
    T* const teams = params.scratch + s.groups * plan.factors_size() + plan.sums_size();
    T* const workers = teams + plan.teams(params.threads) * plan.team_size();
    x = teams + (plan.by_parts ? me.index : 0) * plan.team_size();
    grad = x + plan.x_size;
    grad_panels = grad + plan.grad_size;
    stage1_ring = grad_panels + plan.grad_panels_size;
    ring = stage1_ring + plan.stage1_size;
    T* const own = workers + me.index * plan.worker_size();
    pointers = reinterpret_cast<const T**>(own);
    line = own + plan.pointers_size;
    grad_line = line + plan.line_size;
    zeros = grad_line + plan.line_size;
    own_stage1 = zeros + plan.zeros_size;
    rows = own_stage1 + plan.own_stage1_size;
    grad_rows = rows + plan.rows_size;
    by_rank = rows;
    tile = rows;
    std::fill(line, own_stage1, T(0));
  }

  bool wants_stage1() const { return p.grad_h || p.grad_w || p.grad_k; }
  bool wants_ring() const { return p.grad_x || p.grad_c; }
  bool wants_grad_stage3() const { return wants_ring() || p.grad_h || p.grad_w; }

  int64_t row_size() const { return s.in_width * kPanel; }
  int64_t ring_panel() const { return plan.ring_rows * row_size(); }
  int64_t pixels_of(const Strip& t) const { return t.images * t.out_rows() * s.out_width; }

  // Calls `body` with the pieces of a range of input rows that are adjacent in the ring.
  template <class Body>
  void for_each_piece(RowRange r, const Body& body) const {
    for (int64_t row = r.begin; row < r.end;) {
      const int64_t end = std::min(r.end, (row / plan.ring_rows + 1) * plan.ring_rows);
      body(RowRange{row, end});
      row = end;
    }
  }

  // A row of a ring whose first panel is at `from`.
  T* ring_row(T* from, int64_t panel, int64_t row) const {
    return from + panel * ring_panel() + row % plan.ring_rows * row_size();
  }

  // x under the strip's new rows into its ring: this worker's share of the channels.
  void load_x(const Strip& t) const {
    const int64_t area = s.in_height * s.in_width;
    const auto [begin, end] = team.share(plan.channel_panels);
    const int64_t first = begin * kPanel, channels = std::min(plan.group_channels, end * kPanel) - first;
    for_each_piece(t.fresh, [&](RowRange r) {
      // Channel first, images are not adjacent.
      const int64_t height = s.channels_last ? t.images * s.in_height : s.in_height;
      for (int64_t row = r.begin; row < r.end;) {
        const int64_t last = std::min(r.end, (row / height + 1) * height);
        const int64_t channel = t.group * plan.group_channels + first;
        const int64_t pixel = row % height * s.in_width;
        const T* const from = p.x + (t.image + row / height) * s.in_channels * area +
                              (s.channels_last ? pixel * s.in_channels + channel : channel * area + pixel);
        pack_pixels(kernels, from, s.channels_last, s.in_channels, area, channels, (last - row) * s.in_width,
                    ring_row(x, begin, row), ring_panel());
        row = last;
      }
    });
  }

  // y's gradient, transposed or its rows copied, and channel first also in panels: this worker's share.
  void load_grad(const Strip& t) const {
    const int64_t area = s.out_height * s.out_width, pixels = t.out_rows() * s.out_width;
    const auto [begin, end] = team.share(plan.output_panels);
    const int64_t first = begin * kPanel, last = std::min(plan.group_outputs, end * kPanel);
    const int64_t channel = t.group * plan.group_outputs + first, pixel = t.first * s.out_width;
    for (int64_t image = 0; image < t.images; ++image) {
      const T* const from = p.grad + (t.image + image) * s.out_channels * area;
      T* const to = grad + first * plan.grad_pitch + image * pixels;
      if (s.channels_last) {
        for (int64_t i = 0; i < pixels; i += kPanel)  // of which a few rows stay in the cache
          kernels.transpose(from + (pixel + i) * s.out_channels + channel, s.out_channels,
                            std::min(kPanel, pixels - i), last - first, to + i, plan.grad_pitch);
        continue;
      }
      for (int64_t k = 0; k < last - first; ++k)
        std::copy_n(from + (channel + k) * area + pixel, pixels, to + k * plan.grad_pitch);
      pack_pixels(kernels, from + channel * area + pixel, false, s.out_channels, area, last - first, pixels,
                  grad_panels + begin * pixels_of(t) * kPanel + image * pixels * kPanel,
                  pixels_of(t) * kPanel);
    }
  }

  void add_bias(const Strip& t, T* sum) const {
    T ones[kPanel];
    std::fill_n(ones, kPanel, T(1));
    const auto [begin, end] = team.share(plan.output_panels);
    const int64_t pixels = pixels_of(t);
    for (int64_t k = begin * kPanel; k < std::min(plan.group_outputs, end * kPanel); ++k) {
      T* const row = grad + k * plan.grad_pitch;
      T lanes[kPanel] = {};
      std::fill(row + pixels, row + plan.grad_pitch, T(0));
      kernels.dot_line(row, kPanel, ones, 0, panels(pixels), lanes);
      for (int64_t half = kPanel / 2; half > 0; half /= 2) {
        for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
      }
      sum[k] += lanes[0];
    }
  }

  // Stage 1 of the new rows for some panels of the rank, into a ring whose panel 0 is the first of them.
  void stage1(const Strip& t, Panels panel, T* to) const {
    for_each_piece(t.fresh, [&](RowRange r) {
      Gemm<T> gemm =
          product((r.end - r.begin) * s.in_width, factors.c(t.group, panel.begin),
                  (panel.end - panel.begin) * kPanel, ring_row(to, 0, r.begin), kPanel, ring_panel());
      if (s.channels_last) {
        from_rows(gemm,
                  p.x + (t.image * s.in_height + r.begin) * s.in_width * s.in_channels +
                      t.group * plan.group_channels,
                  s.in_channels, plan.group_channels);
      } else {
        from_panels(gemm, ring_row(x, 0, r.begin), plan.group_channels, ring_panel());
      }
      kernels.gemm(gemm);
    });
  }

  // The gradient of stage-3 rows, for some panels of the rank.
  void grad_stage3(const Strip& t, Panels panel) const {
    const int64_t pixels = pixels_of(t);
    Gemm<T> gemm = product(pixels, factors.k_by_rank(t.group, panel.begin),
                           (panel.end - panel.begin) * kPanel, grad_rows, kPanel, pixels * kPanel);
    if (s.channels_last) {
      from_rows(gemm,
                p.grad + (t.image * s.out_height + t.first) * s.out_width * s.out_channels +
                    t.group * plan.group_outputs,
                s.out_channels, plan.group_outputs);
    } else {
      from_panels(gemm, grad_panels, plan.group_outputs, pixels * kPanel);
    }
    kernels.gemm(gemm);
  }

  // One output row of one panel, from the gradient of stage 3 to those of both depthwise factors and of
  // stage 1. `pointers` has the stage-1 rows, `line` the stage-2 row; `base` is the image's first input row.
  void depthwise_row(const Strip& t, int64_t panel, int64_t row, int64_t base, const T* grad_row) const {
    const int64_t step = s.stride_width * kPanel;
    std::fill_n(grad_line, plan.line_size, T(0));
    const T** const taps = pointers + s.kernel_height;
    for (int64_t j = 0; j < s.kernel_width; ++j) {
      const int64_t tap = j * s.dilation_width * kPanel;
      taps[j] = line + tap;
      kernels.multiply_add_line(factors.w(t.group, panel) + j * kPanel, grad_row, kPanel, grad_line + tap,
                                step, s.out_width);
    }
    const T* const inside = grad_line + s.pad_width * kPanel;
    if (t.counted && p.grad_w)
      kernels.dot_lines(taps, s.kernel_width, step, grad_row, kPanel, s.out_width, sums.w(t.group, panel));
    if (t.counted && p.grad_h)
      kernels.dot_lines(pointers, s.kernel_height, kPanel, inside, kPanel, s.in_width,
                        sums.h(t.group, panel));
    for (int64_t i = 0; wants_ring() && i < s.kernel_height; ++i) {
      const int64_t in_row = row * s.stride_height - s.pad_height + i * s.dilation_height;
      if (in_row < 0 || in_row >= s.in_height) continue;
      if (base + in_row >= t.own.begin && base + in_row < t.own.end)
        kernels.multiply_add_line(factors.h(t.group, panel) + i * kPanel, inside, kPanel,
                                  ring_row(ring, panel, base + in_row), kPanel, s.in_width);
    }
  }

  // The strip's output rows for two panels of the rank at most.
  void rank_panels(const Strip& t, Panels panel) const {
    const int64_t pixels = pixels_of(t), count = panel.end - panel.begin;
    const bool forward = t.counted && wants_stage1();
    T* const stage1_rows = plan.whole ? own_stage1 : stage1_ring + panel.begin * ring_panel();
    if (forward) stage1(t, panel, stage1_rows);
    if (wants_grad_stage3()) grad_stage3(t, panel);
    for (int64_t q = 0; q < count; ++q) {
      for (int64_t i = 0; i < t.images * t.out_rows(); ++i) {
        const int64_t row = t.first + i % t.out_rows(), base = i / t.out_rows() * s.in_height;
        const int64_t at = (q * pixels + i * s.out_width) * kPanel;
        if (forward) stages23(t, panel.begin + q, ring_row(stage1_rows, q, 0), row, base, rows + at);
        if (wants_grad_stage3()) depthwise_row(t, panel.begin + q, row, base, grad_rows + at);
      }
    }
    if (!t.counted || !p.grad_k) return;
    const int64_t first = panel.begin * kPanel;
    Gemm<T> gemm = product(plan.group_outputs, Operand<T>{rows, pixels * kPanel, kPanel},
                           std::min(count * kPanel, plan.group_rank - first), sums.k(t.group) + first,
                           plan.group_rank, kPanel);
    from_rows(gemm, grad, plan.grad_pitch, pixels);
    gemm.accumulate = true;
    kernels.gemm(gemm);
  }

  // Stages 2 and 3 of one output row of one panel, whose ring is at `from`.
  void stages23(const Strip& t, int64_t panel, T* from, int64_t row, int64_t base, T* to) const {
    for (int64_t i = 0; i < s.kernel_height; ++i) {
      const int64_t in_row = row * s.stride_height - s.pad_height + i * s.dilation_height;
      pointers[i] = in_row < 0 || in_row >= s.in_height ? zeros : ring_row(from, 0, base + in_row);
    }
    separable_row(s, kernels, pointers, factors.h(t.group, panel), factors.w(t.group, panel), line, to,
                  kPanel);
  }

  // Adjacent complete rows: the gradient of factor_c for two panels of the rank at most.
  void complete_factor_c(const Strip& t, Panels panel, RowRange r) const {
    const int64_t pixels = (r.end - r.begin) * s.in_width, pitch = apart(pixels),
                  first = panel.begin * kPanel;
    for (int64_t q = panel.begin; q < panel.end; ++q)
      kernels.transpose(ring_row(ring, q, r.begin), kPanel, pixels, kPanel,
                        by_rank + (q - panel.begin) * kPanel * pitch, pitch);
    Gemm<T> gemm = product(std::min(panel.end * kPanel, plan.group_rank) - first,
                           Operand<T>{ring_row(x, 0, r.begin), ring_panel(), kPanel}, plan.group_channels,
                           sums.c(t.group) + first * plan.group_channels, plan.group_channels, kPanel);
    from_rows(gemm, by_rank, pitch, pixels);
    gemm.accumulate = true;
    kernels.gemm(gemm);
  }

  // ... and the gradient of x for some panels of the input channels.
  void complete_x(const Strip& t, Panels panel, RowRange r) const {
    const int64_t area = s.in_height * s.in_width, pixels = (r.end - r.begin) * s.in_width;
    const int64_t step = s.channels_last ? panel.end - panel.begin : kPanelsAtOnce;
    for (int64_t q = panel.begin; q < panel.end; q += step) {
      const int64_t first = q * kPanel, channel = t.group * plan.group_channels + first;
      const int64_t columns = std::min(std::min(q + step, panel.end) * kPanel, plan.group_channels) - first;
      const int64_t row = t.image * s.in_height + r.begin;
      Gemm<T> gemm =
          product(pixels, factors.c_by_channel(t.group, q), columns, tile, kPanelsAtOnce * kPanel, kPanel);
      if (s.channels_last) {
        gemm.c = p.grad_x + row * s.in_width * s.in_channels + channel;
        gemm.c_pixel = s.in_channels;
      }
      from_panels(gemm, ring_row(ring, 0, r.begin), plan.group_rank, ring_panel());
      kernels.gemm(gemm);
      for (int64_t i = row; !s.channels_last && i < row + r.end - r.begin;) {
        const int64_t image = i / s.in_height, in_row = i % s.in_height;
        const int64_t count = std::min(s.in_height - in_row, row + r.end - r.begin - i);
        kernels.transpose(tile + (i - row) * s.in_width * gemm.c_pixel, gemm.c_pixel, count * s.in_width,
                          columns, p.grad_x + (image * s.in_channels + channel) * area + in_row * s.in_width,
                          area);
        i += count;
      }
    }
  }

  void run_strip(const Strip& t) const {
    const auto rank = team.share(plan.rank_panels), channels = team.share(plan.channel_panels);
    const auto for_each_pair = [&](const auto& body) {
      for (int64_t q = rank.begin; q < rank.end; q += kPanelsAtOnce)
        body(Panels{q, std::min(rank.end, q + kPanelsAtOnce)});
    };
    if (p.grad_c || !s.channels_last) load_x(t);
    if ((t.counted && (p.grad_k || p.grad_bias)) || !s.channels_last) load_grad(t);
    if (t.counted && p.grad_bias) add_bias(t, sums.bias(t.group));
    team.barrier();
    for_each_pair([&](Panels panel) { rank_panels(t, panel); });
    if (!wants_ring()) return team.barrier();
    team.barrier();
    // Rows that no output reads have no gradient, and x was not loaded.
    const RowRange read{t.complete.begin, std::min(t.complete.end, t.fresh.end)};
    for_each_piece(read, [&](RowRange r) {
      if (p.grad_c) for_each_pair([&](Panels panel) { complete_factor_c(t, panel, r); });
    });
    for_each_piece(t.complete, [&](RowRange r) {
      if (p.grad_x) complete_x(t, {channels.begin, channels.end}, r);
    });
    team.barrier();
    for (int64_t q = rank.begin; q < rank.end; ++q)
      for_each_piece(t.complete, [&](RowRange r) {
        std::fill_n(ring_row(ring, q, r.begin), (r.end - r.begin) * row_size(), T(0));
      });
  }

  // Output rows [first, last) of one image, or all rows of several; of one group.
  void run_band(int64_t image, int64_t images, int64_t group, int64_t first, int64_t last) const {
    const auto under = [&](int64_t row) {
      return std::clamp<int64_t>(row * s.stride_height - s.pad_height, 0, s.in_height);
    };
    Strip t{};
    t.image = image;
    t.images = images;
    t.group = group;
    t.own = {first == 0 ? 0 : under(first), last == s.out_height ? images * s.in_height : under(last)};
    t.fresh = {t.own.begin, t.own.begin};
    t.complete = t.fresh;
    const int64_t begin = wants_ring() ? std::max<int64_t>(0, first - plan.halo_rows) : first;
    for (int64_t row = begin; row < last; row = t.last) {
      t.counted = row >= first;
      t.first = row;
      t.last = std::min(t.counted ? last : first, row + plan.strip_rows);
      t.fresh.begin = t.fresh.end;
      if (t.counted)
        t.fresh.end = plan.whole ? t.own.end : std::max(t.fresh.begin, rows_under(s, row, t.last).end);
      t.complete.begin = t.complete.end;
      t.complete.end = std::max(t.complete.begin, t.last == last ? t.own.end : under(t.last));
      run_strip(t);
    }
  }

  void run_part(int64_t part) {
    sums = PartSums<T>(p, plan, part);
    const int64_t units = s.batch * plan.bands;
    const int64_t begin = units * part / plan.parts, end = units * (part + 1) / plan.parts;
    const int64_t step = plan.images;
    for (int64_t unit = begin; unit < end; unit += step) {
      const int64_t band = unit % plan.bands;
      const int64_t first = s.out_height * band / plan.bands, last = s.out_height * (band + 1) / plan.bands;
      for (int64_t group = 0; group < s.groups; ++group)
        run_band(unit / plan.bands, std::min(step, end - unit), group, first, last);
    }
  }

  void run() {
    factors.pack(kernels, me);
    clear_sums(p, plan, me);
    const auto rank = team.share(plan.rank_panels);  // from here on every strip leaves the ring at zero
    std::fill(ring + rank.begin * ring_panel(), ring + rank.end * ring_panel(), T(0));
    me.barrier();
    const auto mine = plan.by_parts ? me.share(plan.parts) : Worker{0, 1}.share(plan.parts);
    for (int64_t part = mine.begin; part < mine.end; ++part) run_part(part);
    me.barrier();
    add_parts(p, plan, me);
  }
};

}  // namespace

template <class T>
int64_t cp_conv2d_backward_scratch(const Conv2dShape& shape, int64_t rank, int64_t threads) {
  const CpBackwardPlan plan = make_cp_backward_plan<T>(shape, rank, threads);
  return shape.groups * plan.factors_size() + plan.sums_size() + plan.teams(threads) * plan.team_size() +
         threads * plan.worker_size();
}

template <class T>
void cp_conv2d_backward(const CpConv2dBackwardParams<T>& p) {
  const Primitives<T>& kernels = primitives<T>();
  const CpBackwardPlan plan = make_cp_backward_plan<T>(p.shape, p.rank, p.threads);
  parallel(p.threads, [&](const Worker& me) { Backward<T>(p, plan, kernels, me).run(); });
}

template int64_t cp_conv2d_backward_scratch<float>(const Conv2dShape&, int64_t, int64_t);
template int64_t cp_conv2d_backward_scratch<double>(const Conv2dShape&, int64_t, int64_t);
template void cp_conv2d_backward(const CpConv2dBackwardParams<float>&);
template void cp_conv2d_backward(const CpConv2dBackwardParams<double>&);

}  // namespace cnnkern
