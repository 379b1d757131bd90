// What a stride does to gradients, along one axis: input row y lies under tap i of output row o when
// y + pad = o * stride + i * dilation. Rows with the same residue of y + pad by the stride, a phase, meet the
// same taps, and within a phase the convolution has stride 1: its u-th row meets output rows u - reach, one
// for each tap.
#pragma once
#include <algorithm>
#include <cstdint>
#include <numeric>

namespace cnnkern {

// The taps of a phase: first, first + step, ..., reaching back reach, reach + reach_step, ... output rows.
struct Phase {
  int64_t taps, first, step;
  int64_t reach, reach_step;
  int64_t last_reach() const { return reach + (taps - 1) * reach_step; }
};

inline Phase phase_of(int64_t kernel, int64_t stride, int64_t dilation, int64_t residue) {
  const int64_t common = std::gcd(stride, dilation), step = stride / common;
  for (int64_t first = 0; first < std::min(kernel, step); ++first) {
    if (first * dilation % stride == residue)
      return {(kernel - 1 - first) / step + 1, first, step, first * dilation / stride, dilation / common};
  }
  return {0, 0, step, 0, dilation / common};
}

// The input rows of [begin, end) in a phase: first, first + stride, ...; the first of them meets output row
// `out` - reach.
struct PhaseRows {
  int64_t first, count, out;
};

inline PhaseRows rows_of_phase(int64_t begin, int64_t end, int64_t stride, int64_t pad, int64_t residue) {
  const int64_t first = begin + ((residue - begin - pad) % stride + stride) % stride;
  return {first, first < end ? (end - first + stride - 1) / stride : 0, (first + pad - residue) / stride};
}

// The output rows [begin, begin + count) that input rows [first, last) meet; some may lie outside the output.
struct RowsMet {
  int64_t begin, count;
};

inline RowsMet rows_met(int64_t first, int64_t last, int64_t kernel, int64_t stride, int64_t pad,
                        int64_t dilation) {
  const int64_t lowest = first + pad - (kernel - 1) * dilation;
  const int64_t begin = lowest >= 0 ? lowest / stride : -((stride - 1 - lowest) / stride);
  return {begin, (last - 1 + pad) / stride - begin + 1};
}

// No `rows` input rows meet more output rows than this.
inline int64_t most_rows_met(int64_t rows, int64_t kernel, int64_t stride, int64_t dilation) {
  return (rows - 1 + (kernel - 1) * dilation) / stride + 2;
}

}  // namespace cnnkern
