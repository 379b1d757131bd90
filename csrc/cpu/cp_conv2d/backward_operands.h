// What the gradients of a fused CP convolution read and add to: the factors as operands of products, and the
// sums over pixels, which are the gradients themselves for the first part and scratch for the others.
#pragma once
#include <algorithm>

#include "cpu/cp_conv2d/backward_plan.h"
#include "cpu/cp_conv2d/cp_conv2d.h"
#include "cpu/parallel.h"

namespace cnnkern {

// The right side of a product: from one panel of columns to the next, and from one k to the next.
template <class T>
struct Operand {
  const T* data;
  int64_t panel, step;
};

// C (rows, columns) = A B, whose A from_rows or from_panels gives.
template <class T>
Gemm<T> product(int64_t rows, const Operand<T>& b, int64_t columns, T* c, int64_t c_pixel, int64_t c_panel) {
  Gemm<T> gemm{};
  gemm.pixels = rows;
  gemm.lines = 1;
  gemm.b = b.data;
  gemm.b_panel = b.panel;
  gemm.b_step = b.step;
  gemm.c = c;
  gemm.c_pixel = c_pixel;
  gemm.c_panel = c_panel;
  gemm.columns = columns;
  return gemm;
}

template <class T>
void from_rows(Gemm<T>& gemm, const T* a, int64_t a_pixel, int64_t depth) {
  gemm.a = a;
  gemm.a_pixel = a_pixel;
  gemm.patch = Patch::line(depth);
}

// `channels` in panels, `panel` elements apart; the last panel's lanes past them are zeros on either side.
template <class T>
void from_panels(Gemm<T>& gemm, const T* a, int64_t channels, int64_t panel) {
  gemm.a = a;
  gemm.a_pixel = kPanel;
  gemm.patch = Patch::whole(1, 0, panels(channels), panel, std::min(kPanel, channels));
}

// The factors of every group, at the beginning of the scratch; in place where they can be.
template <class T>
struct BackwardFactors {
  const CpConv2dBackwardParams<T>& p;
  const CpBackwardPlan& plan;
  T* packed;

  BackwardFactors(const CpConv2dBackwardParams<T>& params, const CpBackwardPlan& backward_plan, T* scratch)
      : p(params), plan(backward_plan), packed(scratch) {}

  T* of(int64_t group) const { return packed + group * plan.factors_size(); }
  T* packed_h(int64_t group) const { return of(group) + plan.factor_c_size; }
  T* packed_w(int64_t group) const { return packed_h(group) + plan.factor_h_size; }
  T* packed_by_rank(int64_t group) const { return packed_w(group) + plan.factor_w_size; }
  T* packed_by_channel(int64_t group) const { return packed_by_rank(group) + plan.by_rank_size; }
  static Operand<T> panel_of(const T* from, int64_t panel, int64_t depth) {
    return {from + panel * depth * kPanel, depth * kPanel, kPanel};
  }

  // The panels of R from `panel` on, for sums over C/G, kH, kW and K/G.
  Operand<T> c(int64_t group, int64_t panel) const {
    return panel_of(of(group), panel, plan.channel_panels * kPanel);
  }
  const T* h(int64_t group, int64_t panel) const {
    return packed_h(group) + panel * p.shape.kernel_height * kPanel;
  }
  const T* w(int64_t group, int64_t panel) const {
    return packed_w(group) + panel * p.shape.kernel_width * kPanel;
  }
  Operand<T> k_by_rank(int64_t group, int64_t panel) const {
    if (!plan.k_in_place) return panel_of(packed_by_rank(group), panel, plan.output_panels * kPanel);
    return {p.factor_k + group * plan.group_outputs * plan.group_rank + panel * kPanel, kPanel,
            plan.group_rank};
  }
  // The panels of C/G from `panel` on, for sums over R/G.
  Operand<T> c_by_channel(int64_t group, int64_t panel) const {
    if (!plan.c_in_place) return panel_of(packed_by_channel(group), panel, plan.rank_panels * kPanel);
    return {p.factor_c + group * plan.group_rank * plan.group_channels + panel * kPanel, kPanel,
            plan.group_channels};
  }

  // This worker's share.
  void pack(const Primitives<T>& kernels, const Worker& me) const {
    const Conv2dShape& s = p.shape;
    const int64_t padded_channels = plan.channel_panels * kPanel,
                  padded_outputs = plan.output_panels * kPanel;
    const auto of_rank = me.share(s.groups * plan.rank_panels);
    for (int64_t i = of_rank.begin; i < of_rank.end; ++i) {
      const int64_t group = i / plan.rank_panels, panel = i % plan.rank_panels;
      const int64_t local = panel * kPanel, rows = std::min(kPanel, plan.group_rank - local),
                    first = group * plan.group_rank + local;
      const auto pack_panel = [&](const T* factor, int64_t depth, int64_t full_depth, T* to) {
        pack_rows(kernels, Factor<T>{factor, {depth, 1}}, first, rows, depth, full_depth,
                  to + panel * full_depth * kPanel);
      };
      pack_panel(p.factor_c, plan.group_channels, padded_channels, of(group));
      pack_panel(p.factor_h, s.kernel_height, s.kernel_height, packed_h(group));
      pack_panel(p.factor_w, s.kernel_width, s.kernel_width, packed_w(group));
      if (plan.k_in_place) continue;
      const T* const k = p.factor_k + group * plan.group_outputs * plan.group_rank;
      pack_rows(kernels, Factor<T>{k, {1, plan.group_rank}}, local, rows, plan.group_outputs, padded_outputs,
                packed_by_rank(group) + panel * padded_outputs * kPanel);
    }
    if (plan.c_in_place) return;
    const auto of_channels = me.share(s.groups * plan.channel_panels);
    const int64_t padded_rank = plan.rank_panels * kPanel;
    for (int64_t i = of_channels.begin; i < of_channels.end; ++i) {
      const int64_t group = i / plan.channel_panels, panel = i % plan.channel_panels;
      const int64_t first = panel * kPanel, rows = std::min(kPanel, plan.group_channels - first);
      const T* const c = p.factor_c + group * plan.group_rank * plan.group_channels;
      pack_rows(kernels, Factor<T>{c, {1, plan.group_channels}}, first, rows, plan.group_rank, padded_rank,
                packed_by_channel(group) + panel * padded_rank * kPanel);
    }
  }
};

// The sums of one part, after the factors in the scratch: those of the depthwise factors of all parts, then
// the others of all parts but the first.
template <class T>
struct PartSums {
  const CpConv2dBackwardParams<T>* p = nullptr;
  const CpBackwardPlan* plan = nullptr;
  T *all_h = nullptr, *all_w = nullptr, *all_c = nullptr, *all_k = nullptr, *all_bias = nullptr;

  PartSums() = default;
  PartSums(const CpConv2dBackwardParams<T>& params, const CpBackwardPlan& backward_plan, int64_t part)
      : p(&params), plan(&backward_plan) {
    T* const lanes = params.scratch + params.shape.groups * plan->factors_size();
    all_h = lanes + part * plan->lanes_size();
    all_w = all_h + plan->sum_h_size;
    if (part == 0) {
      all_c = params.grad_c;
      all_k = params.grad_k;
      all_bias = params.grad_bias;
    } else {
      all_c = lanes + plan->parts * plan->lanes_size() + (part - 1) * plan->others_size();
      all_k = all_c + plan->sum_c_size;
      all_bias = all_k + plan->sum_k_size;
    }
  }

  T* h(int64_t group, int64_t panel) const {
    return all_h + group * plan->factor_h_size + panel * p->shape.kernel_height * kPanel;
  }
  T* w(int64_t group, int64_t panel) const {
    return all_w + group * plan->factor_w_size + panel * p->shape.kernel_width * kPanel;
  }
  T* c(int64_t group) const { return all_c + group * plan->group_rank * plan->group_channels; }
  T* k(int64_t group) const { return all_k + group * plan->group_outputs * plan->group_rank; }
  T* bias(int64_t group) const { return all_bias + group * plan->group_outputs; }
};

// Calls `body` with this worker's share of every gradient that is the sums of part 0: the same share of the
// sums of `part`, those of part 0, and their number.
template <class T, class Body>
void for_each_sum(const CpConv2dBackwardParams<T>& p, const CpBackwardPlan& plan, int64_t part,
                  const Worker& me, const Body& body) {
  const PartSums<T> first(p, plan, 0), sums(p, plan, part);
  const auto share = [&](T* from, T* to, int64_t size) {
    if (!to) return;  // not asked for
    const auto [begin, end] = me.share(size);
    body(from + begin, to + begin, end - begin);
  };
  share(sums.all_c, first.all_c, p.rank * plan.group_channels);
  share(sums.all_k, first.all_k, p.shape.out_channels * plan.group_rank);
  share(sums.all_bias, first.all_bias, p.shape.out_channels);
}

// This worker's share of all sums, to zero.
template <class T>
void clear_sums(const CpConv2dBackwardParams<T>& p, const CpBackwardPlan& plan, const Worker& me) {
  const auto [begin, end] = me.share(plan.parts * plan.lanes_size());
  T* const lanes = p.scratch + p.shape.groups * plan.factors_size();
  std::fill(lanes + begin, lanes + end, T(0));
  for (int64_t part = 0; part < plan.parts; ++part)
    for_each_sum(p, plan, part, me, [](T* sums, T*, int64_t size) { std::fill_n(sums, size, T(0)); });
}

// This worker's share of all gradients: the sums of the parts, in order, and out of their lanes.
template <class T>
void add_parts(const CpConv2dBackwardParams<T>& p, const CpBackwardPlan& plan, const Worker& me) {
  for (int64_t part = 1; part < plan.parts; ++part) {
    for_each_sum(p, plan, part, me, [](const T* sums, T* to, int64_t size) {
      for (int64_t i = 0; i < size; ++i) to[i] += sums[i];
    });
  }
  const auto [begin, end] = me.share(p.rank);
  for (int64_t r = begin; r < end; ++r) {
    const int64_t group = r / plan.group_rank, local = r % plan.group_rank;
    const auto gather = [&](T* to, int64_t taps, const auto& sums_of) {
      for (int64_t t = 0; to && t < taps; ++t) {
        T sum = 0;
        for (int64_t part = 0; part < plan.parts; ++part)
          sum += sums_of(PartSums<T>(p, plan, part))[t * kPanel + local % kPanel];
        to[r * taps + t] = sum;
      }
    };
    const int64_t panel = local / kPanel;
    gather(p.grad_h, p.shape.kernel_height, [&](const PartSums<T>& sums) { return sums.h(group, panel); });
    gather(p.grad_w, p.shape.kernel_width, [&](const PartSums<T>& sums) { return sums.w(group, panel); });
  }
}

}  // namespace cnnkern
