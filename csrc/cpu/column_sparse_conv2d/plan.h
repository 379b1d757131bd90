// How the work of a column-sparse convolution is cut, and what a piece of it knows.
#pragma once
#include "cpu/bands.h"
#include "cpu/column_sparse_conv2d/patches.h"
#include "cpu/registry.h"
#include "params/column_sparse_conv2d.h"

namespace cnnkern {

// How the patches become an operand of the product.
enum class Way {
  in_place,  // not at all: the product reads a channels-last image through a table of offsets
  rows,      // gathered from a channels-last image, a row for each pixel
  panels,    // gathered from a channel-first image, a column for each pixel
};

constexpr int64_t kPanelsAtOnce = 3;  // of pixels that meet all weights

struct Plan : Bands {
  Way way;
  bool strip;     // channel-first rows are made channels last first; not for panels
  Blocks blocks;  // of the sum, where patches are gathered; else one

  // In place and rows, beside Bands.
  int64_t pitch;            // elements of an input row
  int64_t strip_rows;       // most input rows of a band
  int64_t columns_at_once;  // output channels of one product

  // Panels: the pixels of one image, or of all; `bands` are those of a span.
  int64_t spans;   // ranges of pixels that bands do not cross
  int64_t span;    // pixels of one
  int64_t pixels;  // of a band, at most

  // Elements that the workers share, and of one worker's scratch, in this order.
  int64_t table_words, tables_size, parts_size, terms_size, strip_size, gathered_size, tile_size;
  int64_t worker_size() const { return parts_size + terms_size + strip_size + gathered_size + tile_size; }
};

template <class T>
Plan make_plan(const Conv2dShape& shape, int64_t kept, int64_t threads);

// From one gathered row to the next: an odd number of cache lines, which do not fall into the same sets.
inline int64_t row_pitch(int64_t depth) { return round_up(depth, kPanel) | kPanel; }

// What one worker works with.
template <class T>
struct Work {
  const Primitives<T>& kernels;
  const ColumnSparseConv2dParams<T>& p;
  const Plan& plan;
  T* scratch;  // the worker's own

  Gemm<T>* parts() const { return reinterpret_cast<Gemm<T>*>(scratch); }
  Terms* terms() const { return reinterpret_cast<Terms*>(scratch + plan.parts_size); }
  T* strip() const { return scratch + plan.parts_size + plan.terms_size; }
  T* gathered() const { return strip() + plan.strip_size; }
  T* tile() const { return gathered() + plan.gathered_size; }

  Patches patches(int64_t group) const {
    return Patches(reinterpret_cast<int64_t*>(p.scratch) + group * plan.table_words, table_shape(),
                   plan.blocks, window());
  }
  // A strip is channels last whatever the image is.
  Conv2dShape table_shape() const {
    Conv2dShape s = p.shape;
    s.channels_last = s.channels_last || plan.strip;
    return s;
  }
  // Only rows are gathered by windows.
  int64_t window() const { return plan.way == Way::rows ? kernels.window : 0; }
  int64_t channel(int64_t group, int64_t column) const { return group * plan.group_columns + column; }
  const T* bias(int64_t group, int64_t column) const {
    return p.bias ? p.bias + channel(group, column) : nullptr;
  }
  const T* weights(int64_t group, int64_t column) const {
    return p.packed + (group * panels(plan.group_columns) + column / kPanel) * p.kept.count * kPanel;
  }
};

// The work items [begin, end).
template <class T>
void compute_rows(const Work<T>& work, int64_t begin, int64_t end);
template <class T>
void compute_panels(const Work<T>& work, int64_t begin, int64_t end);

// How many work items there are.
inline int64_t work_items(const Plan& plan, const Conv2dShape& s) {
  return (plan.way == Way::panels ? plan.spans * plan.bands : plan.count(s)) * plan.splits;
}

}  // namespace cnnkern
