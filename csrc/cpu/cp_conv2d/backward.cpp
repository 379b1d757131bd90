// Gradients of the fused CP convolution, strip by strip of output rows. Stages 1 to 3 are computed again, so
// that nothing but x outlives the forward pass. For a strip, panel by panel of the rank:
//
//   stage-3 rows  (again)                                 with the gradient of y: gradient of factor_k
//   their gradient: y's gradient times factor_k           with stage-2 rows:      gradient of factor_w
//   spread by factor_w: gradient of stage-2 rows          with stage-1 rows:      gradient of factor_h
//   spread by factor_h into a ring: gradient of stage-1 rows; a row is complete once no later output row
//   reads it
//
// and for the rows that the strip completes: with x, the gradient of factor_c; times factor_c, the gradient
// of x.
#include <algorithm>

#include "cpu/cp_conv2d/backward_plan.h"
#include "cpu/cp_conv2d/stages.h"
#include "cpu/panel_rows.h"

namespace cnnkern {
namespace {

template <class T>
struct Backward {
  const CpConv2dBackwardParams<T>& p;
  const Conv2dShape& s;
  const CpBackwardPlan& plan;
  const Primitives<T>& kernels;
  const Worker& me;
  const CpConv2dParams<T> forward;
  const Stages<T> stages;
  T* grad_line;    // padded gradient of a stage-2 row
  T* ones;         // (kPanel)
  T* grad;         // the strip's gradient of y (panel of K, pixel, kPanel)
  T* x;            // completed rows of x (panel of C, pixel, kPanel)
  T* stage3;       // two panels of the rank (panel, pixel, kPanel) ...
  T* by_rank;      // ... transposed (rank, pixel)
  T* grad_stage3;  // like stage3
  T* grad_stage1;  // completed rows, (panel, pixel, kPanel)
  T* tile;
  T* ring;  // gradient of stage-1 rows (panel, ring row, W, kPanel)
  T* sums;  // of all parts
  TransposedFactors transposed_at;

  Backward(const CpConv2dBackwardParams<T>& params, const CpBackwardPlan& backward_plan,
           const Primitives<T>& primitives, const Worker& worker)
      : p(params),
        s(params.shape),
        plan(backward_plan),
        kernels(primitives),
        me(worker),
        forward{params.shape,
                params.rank,
                params.x,
                params.packed,
                nullptr,
                nullptr,
                scratch_of(worker.index),
                1},
        stages(forward, plan.recompute, primitives, kAlone),
        transposed_at(stages.group_rank, stages.group_channels, stages.group_outputs) {
    grad_line = forward.scratch + plan.recompute.worker_size();
    ones = grad_line + plan.grad_line_size;
    grad = ones + plan.ones_size;
    x = grad + plan.grad_size;
    stage3 = x + plan.x_size;
    by_rank = stage3 + plan.rows_size;
    grad_stage3 = by_rank + plan.rows_size;
    grad_stage1 = grad_stage3 + plan.rows_size;
    tile = grad_stage1 + plan.rows_size;
    T* const rings = scratch_of(params.threads);
    ring = rings + (plan.by_parts ? worker.index : 0) * plan.ring_size;
    sums = rings + (plan.by_parts ? params.threads : 1) * plan.ring_size;
    std::fill_n(ones, kPanel, T(1));
  }

  static constexpr Worker kAlone{0, 1};

  T* scratch_of(int64_t worker) const { return p.scratch + worker * plan.worker_size(); }
  T* sums_of(int64_t part, int64_t group) const { return sums + (part * s.groups + group) * plan.sums_size; }
  bool wants_stage1() const { return p.grad_x || p.grad_c || p.grad_h || p.grad_w; }

  // The product of whole panels, for all operands here: A (row, k), B (panel, k, kPanel).
  Gemm<T> product(const T* a, int64_t a_pixel, int64_t rows, const T* b, int64_t depth,
                  int64_t column_panels) const {
    Gemm<T> gemm{};
    gemm.a = a;
    gemm.a_pixel = a_pixel;
    gemm.pixels = rows;
    gemm.lines = 1;
    gemm.patch = Patch::line(depth);
    gemm.b = b;
    gemm.b_panel = depth * kPanel;
    gemm.b_step = kPanel;
    gemm.c_panel = kPanel;
    gemm.columns = column_panels * kPanel;
    return gemm;
  }

  // A product whose rows are pixels in panels, `panel_size` elements apart.
  Gemm<T> product_of_panels(const T* a, int64_t panel_size, int64_t count, int64_t rows, const T* b,
                            int64_t column_panels) const {
    Gemm<T> gemm = product(a, kPanel, rows, b, count * kPanel, column_panels);
    gemm.patch = Patch::whole(1, 0, count, panel_size, kPanel);
    return gemm;
  }

  // sum[rank][column] += sum over pixels of rows[pixel][rank] columns[pixel][column].
  void add_products_over_pixels(const T* rows, Panels panel, int64_t pixels, const T* columns,
                                int64_t column_panels, T* sum) const {
    const int64_t count = panel.end - panel.begin;
    for (int64_t q = 0; q < count; ++q)
      kernels.transpose(rows + q * pixels * kPanel, kPanel, pixels, kPanel, by_rank + q * kPanel * pixels,
                        pixels);
    Gemm<T> gemm = product(by_rank, pixels, count * kPanel, columns, pixels, column_panels);
    gemm.c = sum + panel.begin * kPanel * column_panels * kPanel;
    gemm.c_pixel = column_panels * kPanel;
    gemm.accumulate = true;
    kernels.gemm(gemm);
  }

  // One output row of one panel, from the gradient of stage 3 to those of both depthwise factors and of
  // stage 1.
  void depthwise_row(int64_t group, int64_t panel, int64_t row, const T* grad_row, T* sum_h, T* sum_w) const {
    const int64_t step = s.stride_width * kPanel;
    std::fill_n(grad_line, plan.grad_line_size, T(0));
    for (int64_t j = 0; j < s.kernel_width; ++j) {
      const int64_t tap = j * s.dilation_width * kPanel;
      kernels.dot_line(grad_row, kPanel, stages.line + tap, step, s.out_width, sum_w + j * kPanel);
      kernels.multiply_add_line(stages.factor_w(group, panel) + j * kPanel, grad_row, kPanel, grad_line + tap,
                                step, s.out_width);
    }
    const T* const inside = grad_line + s.pad_width * kPanel;
    for (int64_t i = 0; i < s.kernel_height; ++i) {
      const int64_t in_row = row * s.stride_height - s.pad_height + i * s.dilation_height;
      if (in_row < 0 || in_row >= s.in_height) continue;
      kernels.dot_line(inside, kPanel, stages.pointers[i], kPanel, s.in_width, sum_h + i * kPanel);
      kernels.multiply_add_line(stages.factor_h(group, panel) + i * kPanel, inside, kPanel,
                                ring_row(panel, in_row), kPanel, s.in_width);
    }
  }

  T* ring_row(int64_t panel, int64_t row) const {
    return ring + (panel * plan.ring_rows + row % plan.ring_rows) * stages.row_size();
  }

  // Output rows [first, last) for two panels of the rank at most.
  void rank_panels(int64_t group, Panels panel, int64_t first, int64_t last, T* sum) const {
    const Halo<T> none[2] = {};
    const int64_t pixels = (last - first) * s.out_width, count = panel.end - panel.begin;
    if (wants_stage1()) {
      const T* const factor = p.transposed + group * transposed_at.size + transposed_at.factor_k +
                              panel.begin * plan.output_panels * kPanel * kPanel;
      Gemm<T> gemm = product_of_panels(grad, pixels * kPanel, plan.output_panels, pixels, factor, count);
      gemm.c = grad_stage3;
      gemm.c_pixel = kPanel;
      gemm.c_panel = pixels * kPanel;
      kernels.gemm(gemm);
    }
    for (int64_t q = panel.begin; q < panel.end; ++q) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t at = ((q - panel.begin) * pixels + (row - first) * s.out_width) * kPanel;
        stages.stages23_row(group, q, row, stage3 + at, kPanel, none);
        if (wants_stage1()) {
          depthwise_row(group, q, row, grad_stage3 + at, sum + plan.sum_h + q * s.kernel_height * kPanel,
                        sum + plan.sum_w + q * s.kernel_width * kPanel);
        }
      }
    }
    if (p.grad_k) add_products_over_pixels(stage3, panel, pixels, grad, plan.output_panels, sum + plan.sum_k);
  }

  // Rows [r.begin, r.end) of the ring are complete: the gradient of factor_c for some panels of the rank.
  void complete_factor_c(int64_t image, int64_t group, Panels rank, RowRange r, T* sum) const {
    const int64_t area = s.in_height * s.in_width, pixels = (r.end - r.begin) * s.in_width;
    const int64_t channel = group * stages.group_channels, pixel = r.begin * s.in_width;
    const T* const from = p.x + image * s.in_channels * area +
                          (s.channels_last ? pixel * s.in_channels + channel : channel * area + pixel);
    pack_pixels(kernels, from, s.channels_last, s.in_channels, area, stages.group_channels, pixels, x);
    for (int64_t q = rank.begin; q < rank.end; q += kPanelsAtOnce) {
      const Panels panel{q, std::min(rank.end, q + kPanelsAtOnce)};
      for (int64_t i = panel.begin; i < panel.end; ++i) {
        for (int64_t row = r.begin; row < r.end; ++row)
          std::copy_n(ring_row(i, row), stages.row_size(),
                      grad_stage1 + ((i - panel.begin) * pixels + (row - r.begin) * s.in_width) * kPanel);
      }
      add_products_over_pixels(grad_stage1, panel, pixels, x, plan.channel_panels, sum + plan.sum_c);
    }
  }

  // ... and the gradient of x for some panels of the input channels.
  void complete_x(int64_t image, int64_t group, Panels channels, RowRange r) const {
    const int64_t area = s.in_height * s.in_width, padded_rank = plan.rank_panels * kPanel;
    const int64_t step = s.channels_last ? channels.end - channels.begin : kPanelsAtOnce;
    for (int64_t row = r.begin; row < r.end;) {
      const int64_t count = std::min(r.end - row, plan.ring_rows - row % plan.ring_rows);
      for (int64_t q = channels.begin; q < channels.end; q += step) {
        const int64_t last = std::min(channels.end, q + step),
                      channel = group * stages.group_channels + q * kPanel;
        Gemm<T> gemm = product_of_panels(
            ring_row(0, row), plan.ring_rows * stages.row_size(), plan.rank_panels, count * s.in_width,
            p.transposed + group * transposed_at.size + transposed_at.factor_c + q * padded_rank * kPanel,
            last - q);
        gemm.columns = std::min(last * kPanel, stages.group_channels) - q * kPanel;
        gemm.c =
            s.channels_last ? p.grad_x + (image * area + row * s.in_width) * s.in_channels + channel : tile;
        gemm.c_pixel = s.channels_last ? s.in_channels : kPanelsAtOnce * kPanel;
        kernels.gemm(gemm);
        if (!s.channels_last) {
          kernels.transpose(tile, gemm.c_pixel, gemm.pixels, gemm.columns,
                            p.grad_x + (image * s.in_channels + channel) * area + row * s.in_width, area);
        }
      }
      row += count;
    }
  }

  void load_grad(int64_t image, int64_t group, int64_t first, int64_t last) const {
    const int64_t area = s.out_height * s.out_width, pixel = first * s.out_width;
    const int64_t channel = group * stages.group_outputs;
    const T* const from = p.grad + image * s.out_channels * area +
                          (s.channels_last ? pixel * s.out_channels + channel : channel * area + pixel);
    pack_pixels(kernels, from, s.channels_last, s.out_channels, area, stages.group_outputs,
                (last - first) * s.out_width, grad);
  }

  // One group of one image. `rank` and `channels` are this worker's shares; `meet` waits for those who have
  // the others.
  template <class Meet>
  void run_image(int64_t image, int64_t group, Panels rank, Panels outputs, Panels channels, T* sum,
                 const Meet& meet) const {
    const Halo<T> none[2] = {};
    int64_t computed = 0, completed = 0;
    for (int64_t row = 0; row < s.out_height; row += plan.strip_rows) {
      const int64_t end = std::min(s.out_height, row + plan.strip_rows), pixels = (end - row) * s.out_width;
      const RowRange under = rows_under(s, row, end);
      const RowRange fresh{std::min(std::max(computed, under.begin), under.end), under.end};
      load_grad(image, group, row, end);
      if (p.grad_bias) {
        for (int64_t q = outputs.begin; q < outputs.end; ++q)
          kernels.dot_line(grad + q * pixels * kPanel, kPanel, ones, 0, pixels,
                           sum + plan.sum_bias + q * kPanel);
      }
      const T* const from = stages.input_rows(image, group, fresh);
      for (int64_t q = rank.begin; q < rank.end; q += kPanelsAtOnce) {
        const Panels panel{q, std::min(rank.end, q + kPanelsAtOnce)};
        stages.fill_ring(group, panel, fresh, from, none);
        rank_panels(group, panel, row, end, sum);
      }
      computed = std::max(computed, under.end);
      const int64_t until = end == s.out_height
                                ? s.in_height
                                : std::clamp<int64_t>(end * s.stride_height - s.pad_height, 0, s.in_height);
      const RowRange complete{completed, std::max(completed, until)};
      completed = complete.end;
      meet();
      if (p.grad_c) complete_factor_c(image, group, rank, complete, sum);
      if (p.grad_x) complete_x(image, group, channels, complete);
      meet();
      for (int64_t q = rank.begin; q < rank.end; ++q) {
        for (int64_t r = complete.begin; r < complete.end; ++r)
          std::fill_n(ring_row(q, r), stages.row_size(), T(0));
      }
    }
  }

  void run() const {
    const auto image_of = [&](int64_t part) { return s.batch * part / plan.parts; };
    const Panels all_rank{0, plan.rank_panels}, all_outputs{0, plan.output_panels},
        all_channels{0, plan.channel_panels};
    const auto mine = me.share(plan.parts);
    const auto rank = me.share(plan.rank_panels), outputs = me.share(plan.output_panels);
    const auto channels = me.share(plan.channel_panels);
    const auto zeroed = me.share(plan.parts * s.groups * plan.sums_size);
    std::fill(sums + zeroed.begin, sums + zeroed.end, T(0));
    // From here on every strip leaves the ring's free rows at zero.
    const Panels cleared = plan.by_parts ? all_rank : Panels{rank.begin, rank.end};
    std::fill(ring_row(cleared.begin, 0), ring_row(cleared.end, 0), T(0));
    me.barrier();
    for (int64_t part = plan.by_parts ? mine.begin : 0; part < (plan.by_parts ? mine.end : plan.parts);
         ++part) {
      for (int64_t image = image_of(part); image < image_of(part + 1); ++image) {
        for (int64_t group = 0; group < s.groups; ++group) {
          T* const sum = sums_of(part, group);
          if (plan.by_parts) {
            run_image(image, group, all_rank, all_outputs, all_channels, sum, [] {});
          } else {
            run_image(image, group, {rank.begin, rank.end}, {outputs.begin, outputs.end},
                      {channels.begin, channels.end}, sum, [&] { me.barrier(); });
          }
        }
      }
    }
    me.barrier();
    add_parts();
  }

  // The sums of the parts, in order, into those of the first; then out of their panels.
  void add_parts() const {
    const int64_t all = s.groups * plan.sums_size;
    const auto [begin, end] = me.share(all);
    for (int64_t part = 1; part < plan.parts; ++part) {
      for (int64_t i = begin; i < end; ++i) sums[i] += sums[part * all + i];
    }
    me.barrier();
    const auto [first, last] = me.share(p.rank);
    for (int64_t r = first; r < last; ++r) {
      const int64_t group = r / stages.group_rank, local = r % stages.group_rank;
      const T* const sum = sums_of(0, group);
      const int64_t outputs = plan.output_panels * kPanel, inputs = plan.channel_panels * kPanel;
      if (p.grad_c)
        std::copy_n(sum + plan.sum_c + local * inputs, stages.group_channels,
                    p.grad_c + r * stages.group_channels);
      if (p.grad_h) unpack(sum + plan.sum_h, local, s.kernel_height, p.grad_h + r * s.kernel_height);
      if (p.grad_w) unpack(sum + plan.sum_w, local, s.kernel_width, p.grad_w + r * s.kernel_width);
      for (int64_t k = 0; p.grad_k && k < stages.group_outputs; ++k)
        p.grad_k[(group * stages.group_outputs + k) * stages.group_rank + local] =
            sum[plan.sum_k + local * outputs + k];
    }
    for (int64_t group = 0; p.grad_bias && me.index == 0 && group < s.groups; ++group)
      std::copy_n(sums_of(0, group) + plan.sum_bias, stages.group_outputs,
                  p.grad_bias + group * stages.group_outputs);
  }

  // Lane `rank` of (panel, taps, kPanel).
  static void unpack(const T* sum, int64_t rank, int64_t taps, T* to) {
    for (int64_t t = 0; t < taps; ++t) to[t] = sum[(rank / kPanel * taps + t) * kPanel + rank % kPanel];
  }
};

}  // namespace

template <class T>
int64_t cp_conv2d_backward_scratch(const Conv2dShape& shape, int64_t rank, int64_t threads) {
  const CpBackwardPlan plan = make_cp_backward_plan<T>(shape, rank, threads);
  return threads * plan.worker_size() + (plan.by_parts ? threads : 1) * plan.ring_size +
         plan.parts * shape.groups * plan.sums_size;
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
