// How the gradients of a fused CP convolution are cut. Work is cut into parts, each some images or a band of
// rows of one, whose sums over pixels are kept apart and added in order at the end. How many depends on the
// shape alone, so that the bits do not depend on the number of threads.
#pragma once
#include "params/conv2d.h"

namespace cnnkern {

struct CpBackwardPlan {
  int64_t parts;
  int64_t bands;  // of an image, where there are fewer images than parts
  bool by_parts;  // workers share the parts, each with a team's scratch of its own; else the whole team
                  // shares the rank and the channels of each

  // A strip: output rows of one image, or several whole images, which then count as one tall image.
  int64_t images, strip_rows;
  int64_t halo_rows;  // output rows above a band that reach into its input rows
  bool whole;         // a strip has all rows, so that no stage-1 row outlives it
  int64_t ring_rows;  // input rows that a strip touches, or completes

  int64_t group_rank, group_channels, group_outputs;
  int64_t rank_panels, channel_panels, output_panels;  // of a group
  // The factors need no packing where their rows are whole panels.
  bool k_in_place, c_in_place;

  // Elements of a group's packed factors, in this order: factor_c (panel of R, C, kPanel), factor_h
  // (panel, kH, kPanel), factor_w (panel, kW, kPanel), and the other way round factor_k (panel of R, K,
  // kPanel) and factor_c (panel of C, R, kPanel). All in whole panels, in depth too.
  int64_t factor_c_size, factor_h_size, factor_w_size, by_rank_size, by_channel_size;
  int64_t factors_size() const {
    return factor_c_size + factor_h_size + factor_w_size + by_rank_size + by_channel_size;
  }

  // Of the sums of one part and all groups: the depthwise ones in lanes, as above; and where it is not the
  // first part, whose others are the gradients themselves, factor_c (R, C/G), factor_k (K, R/G), bias (K).
  int64_t sum_h_size, sum_w_size, sum_c_size, sum_k_size, sum_bias_size;
  int64_t lanes_size() const { return sum_h_size + sum_w_size; }
  int64_t others_size() const { return sum_c_size + sum_k_size + sum_bias_size; }
  int64_t sums_size() const { return parts * lanes_size() + (parts - 1) * others_size(); }

  // Of what a team shares, in this order: x (panel, ring row, W, kPanel), y's gradient transposed
  // (K, `grad_pitch`) and, channel first, in panels (panel, pixel, kPanel), the stage-1 rows unless `whole`,
  // and their gradient, both like x.
  int64_t grad_pitch;
  int64_t x_size, grad_size, grad_panels_size, stage1_size, ring_size;
  int64_t team_size() const { return x_size + grad_size + grad_panels_size + stage1_size + ring_size; }

  // Of one worker's own: pointers to the stage-1 rows and the stage-2 taps under an output row, a padded
  // stage-2 row and its gradient, a row of zeros, the stage-1 rows of two panels if `whole`, stage-3 rows and
  // their gradients of two panels, or afterwards the transposed gradient of stage-1 rows, or a tile of
  // grad_x.
  int64_t pointers_size, line_size, zeros_size, own_stage1_size, rows_size;
  int64_t worker_size() const {
    return pointers_size + 2 * line_size + zeros_size + own_stage1_size + 2 * rows_size;
  }
  int64_t teams(int64_t threads) const { return by_parts ? threads : 1; }
};

template <class T>
CpBackwardPlan make_cp_backward_plan(const Conv2dShape& shape, int64_t rank, int64_t threads);

}  // namespace cnnkern
