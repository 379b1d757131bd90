// How the kept columns are cut into chunks, which the gradients of input and weight work through one by one.
#pragma once
#include <algorithm>

#include "cpu/column_sparse_conv2d/patches.h"
#include "cpu/registry.h"
#include "params/column_sparse_conv2d.h"

namespace cnnkern {

// A range of one group's input channels with all their columns, which are adjacent in KeptColumns::index.
struct Chunk {
  int64_t group;
  int64_t channel, channels;  // within the group
  int64_t column, count;      // within the group
};

struct BackwardPlan {
  int64_t chunks;   // of a group
  int64_t columns;  // of a chunk, at most
  int64_t pixels;   // of a band
  int64_t table_words;
  // Elements that the workers share: the chunks, and a table for each.
  int64_t tables_size;

  Chunk* chunk(void* scratch, int64_t index) const { return static_cast<Chunk*>(scratch) + index; }
  Patches patches(void* scratch, const Conv2dShape& s, int64_t index, int64_t window) const {
    const Chunk& c = *chunk(scratch, index);
    auto* const tables = reinterpret_cast<int64_t*>(chunk(scratch, chunks * s.groups));
    return Patches(tables + index * table_words, s, {c.count, 1}, window);
  }
};

// Nothing that a gradient's sums depend on depends on the chunks: each of its elements is summed over pixels
// in their order, whatever other columns do.
template <class T>
BackwardPlan make_backward_plan(const Conv2dShape& s, int64_t kept, int64_t threads) {
  constexpr int64_t kColumns = 256, kLeastColumns = 32, kPixels = 256;
  const int64_t taps = s.kernel_height * s.kernel_width, area = s.out_height * s.out_width;
  BackwardPlan plan{};
  const int64_t shared = (2 * threads + s.groups - 1) / s.groups;
  plan.chunks = std::max((kept + kColumns - 1) / kColumns, std::min(shared, kept / kLeastColumns));
  plan.chunks = std::clamp<int64_t>(plan.chunks, 1, s.in_channels / s.groups);
  plan.columns = std::min(kept, (kept + plan.chunks - 1) / plan.chunks + taps);
  plan.pixels = std::min(kPixels, s.batch * area);
  plan.table_words = Patches::words(s, {plan.columns, 1}, primitives<T>().window);
  const int64_t chunk_words = static_cast<int64_t>(sizeof(Chunk) / sizeof(int64_t));
  plan.tables_size = round_up(s.groups * plan.chunks * (chunk_words + plan.table_words) *
                                  static_cast<int64_t>(sizeof(int64_t) / sizeof(T)),
                              kPanel);
  return plan;
}

// Writes the chunks of all groups, and their tables, to `scratch`.
void fill_chunks(const BackwardPlan& plan, const Conv2dShape& s, const KeptColumns& kept, int64_t window,
                 void* scratch);

// The gradients, each with scratch of its own behind the tables.
template <class T>
int64_t column_sparse_backward_input_scratch(const BackwardPlan& plan, const Conv2dShape& s, int64_t threads);
template <class T>
void column_sparse_backward_input(const BackwardPlan& plan,
                                  const ColumnSparseConv2dBackwardParams<T>& params);

template <class T>
int64_t column_sparse_backward_weight_scratch(const BackwardPlan& plan, const Conv2dShape& s,
                                              int64_t threads);
template <class T>
void column_sparse_backward_weight(const BackwardPlan& plan,
                                   const ColumnSparseConv2dBackwardParams<T>& params);

}  // namespace cnnkern
