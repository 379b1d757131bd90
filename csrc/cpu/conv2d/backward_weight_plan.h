// How the gradient of a weight is cut into pieces; see backward_weight.cpp for what is done with them.
#pragma once
#include <cstdint>

#include "cpu/conv2d/backward_phases.h"
#include "params/conv2d.h"

namespace cnnkern {

struct WeightPlan {
  Conv2dShape shape;  // of the products: `swapped` and with groups merged
  bool swapped;       // the output's gradient is the rows of the products, and x the columns
  int64_t merged;     // groups that are computed as one, of whose products only some are wanted

  // A band: output rows of one image, or several whole images.
  int64_t images, image_groups;
  int64_t out_rows, bands;  // of a band; of an image

  // A channel's plane: (image, phase of columns, phase of rows, row, column).
  bool in_place;  // it is the channel itself, in memory
  bool copied;    // instead of phases of columns, a copy for every tap column
  int64_t pitch;  // from row to row
  int64_t phase_rows;
  int64_t sub_size;    // of a phase of columns, or of a copy
  int64_t image_size;  // from one image's to the next
  int64_t plane;       // from one channel's to the next

  int64_t group_channels, group_outputs, taps;
  int64_t columns;  // of an accumulator: K / G in whole panels
  bool one_band;    // accumulators are written out as soon as a block of channels is done
  int64_t parts;    // of the sum over bands
  int64_t block;    // channels of which the planes are there at a time

  // How a part is shared: blocks of groups, channels on either side.
  int64_t groups_at_once, group_blocks, channel_splits, output_splits;
  int64_t units() const { return parts * group_blocks * channel_splits * output_splits; }

  // Elements of the accumulators of all parts, and of one worker's scratch in this order.
  int64_t part_size, sums_size, planes_size, panels_size, staged_size;
  int64_t worker_size() const { return sums_size + planes_size + panels_size + staged_size; }
};

template <class T>
WeightPlan make_weight_plan(const Conv2dShape& shape, int64_t threads, int64_t tile_rows);

inline Phase column_phase(const Conv2dShape& s, int64_t residue) {
  return phase_of(s.kernel_width, s.stride_width, s.dilation_width, residue);
}

// What one worker adds up at a time: some groups' channels on either side, over one part of the bands.
struct WeightUnit {
  int64_t part;
  int64_t group, groups;
  int64_t channel, channels;  // of each group
  int64_t output, outputs;    // of each group; `output` begins a panel
};
WeightUnit weight_unit(const WeightPlan& plan, int64_t index);

// Output rows [first, first + rows) of images [image, image + images).
struct WeightBand {
  int64_t image, images, first, rows;
};
WeightBand weight_band(const WeightPlan& plan, int64_t index);

}  // namespace cnnkern
