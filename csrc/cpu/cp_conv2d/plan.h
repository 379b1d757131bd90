// How a fused CP convolution is cut: into strips of output rows that keep the rank-R intermediates in level
// 2, and over threads by one of two schemes.
#pragma once
#include "cpu/strip.h"
#include "params/conv2d.h"

namespace cnnkern {

struct CpPlan {
  // Workers share the output rows of all images; where a boundary cuts an image, both sides need the same
  // stage-1 rows (the halo), compute half of them each, and meet once. Else the whole team works on every
  // strip, sharing first the rank and then the output channels: better where there are more weights than
  // pixels, or too few rows.
  bool by_rows;
  int64_t strip_rows;    // output rows of a strip
  int64_t ring_rows;     // stage-1 rows that one strip can see
  int64_t halo_rows;     // of one boundary between workers
  int64_t rank_panels;   // of a group
  int64_t tile_columns;  // output channels at once where the result is transposed from a tile, else 0

  // Elements of a worker's scratch, in this order ...
  int64_t pointers_size, line_size, zeros_size, staged_size, ring_size, rows_size, tile_size;
  int64_t worker_size() const {
    return pointers_size + line_size + zeros_size + staged_size + ring_size + rows_size + tile_size;
  }
  // ... and of what the team shares: halos, or stage-3 rows twice.
  int64_t shared_size;
};

template <class T>
CpPlan make_cp_plan(const Conv2dShape& shape, int64_t rank, int64_t threads);

}  // namespace cnnkern
