// How the gradients of a fused CP convolution are cut. The images are split into parts whose sums over pixels
// are kept apart and added in order at the end. How many depends on the shape alone, so that the bits do not
// depend on the number of threads.
#pragma once
#include "cpu/cp_conv2d/plan.h"

namespace cnnkern {

struct CpBackwardPlan {
  CpPlan recompute;  // stages 1 to 3, as in the forward pass
  int64_t parts;
  bool by_parts;       // workers share the parts, else the whole team shares the rank of each
  int64_t strip_rows;  // output rows of a strip
  int64_t ring_rows;   // stage-1 rows that a strip's outputs touch, and those that it completes
  int64_t rank_panels, channel_panels, output_panels;  // of a group

  // Elements of a worker's scratch, after that of `recompute`.
  int64_t grad_line_size, ones_size, grad_size, x_size, rows_size, tile_size;
  int64_t worker_size() const {
    return recompute.worker_size() + grad_line_size + ones_size + grad_size + x_size + 4 * rows_size +
           tile_size;
  }
  int64_t
      ring_size;  // gradient of stage-1 rows (panel, ring row, W, kPanel): one a worker, or one for the team

  // Sums of one part and group: (R, K), (R, C), (panel, kH, kPanel), (panel, kW, kPanel), (K), all in whole
  // panels.
  int64_t sum_k, sum_c, sum_h, sum_w, sum_bias, sums_size;
};

template <class T>
CpBackwardPlan make_cp_backward_plan(const Conv2dShape& shape, int64_t rank, int64_t threads);

}  // namespace cnnkern
