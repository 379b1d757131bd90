// Weights into panels of output channels, k by k in the order of columns.h.
#include "cpu/column_sparse_conv2d/column_sparse_conv2d.h"
#include "cpu/column_sparse_conv2d/columns.h"
#include "cpu/primitives.h"

namespace cnnkern {

int64_t column_sparse_conv2d_packed_size(int64_t out_channels, int64_t kept, int64_t groups) {
  return groups * panels(out_channels / groups) * kept * kPanel;
}

template <class T>
void column_sparse_conv2d_pack(const T* weight, const int64_t* stride, int64_t out_channels,
                               const KeptColumns& kept, int64_t taps, int64_t groups, T* packed,
                               int64_t* scratch) {
  int64_t* const begin = scratch;
  int64_t* const column = scratch + taps + 1;  // (kept): which column comes k-th
  const int64_t group_channels = out_channels / groups;
  for (int64_t g = 0; g < groups; ++g) {
    order_by_tap(kept.index + g * kept.count, kept.count, taps, begin,
                 [&](int64_t k, int64_t n, int64_t) { column[k] = n; });
    for (int64_t first = 0; first < group_channels; first += kPanel) {
      const int64_t valid = std::min(kPanel, group_channels - first);
      const T* const from = weight + (g * group_channels + first) * stride[0];
      for (int64_t k = 0; k < kept.count; ++k, packed += kPanel) {
        const T* const value = from + column[k] * stride[1];
        for (int64_t i = 0; i < valid; ++i) packed[i] = value[i * stride[0]];
        std::fill(packed + valid, packed + kPanel, T(0));
      }
    }
  }
}

template void column_sparse_conv2d_pack(const float*, const int64_t*, int64_t, const KeptColumns&, int64_t,
                                        int64_t, float*, int64_t*);
template void column_sparse_conv2d_pack(const double*, const int64_t*, int64_t, const KeptColumns&, int64_t,
                                        int64_t, double*, int64_t*);

}  // namespace cnnkern
