// Weights into panels: k runs over (kH, kW, C/G), the order in which a channels-last patch lies in memory.
#include "cpu/conv2d/conv2d.h"
#include "cpu/parallel.h"
#include "cpu/primitives.h"

namespace cnnkern {

int64_t conv2d_packed_size(int64_t out_channels, int64_t group_channels, int64_t kernel_height,
                           int64_t kernel_width, int64_t groups) {
  const int64_t taps = kernel_height * kernel_width;
  if (group_channels == 1) return panels(out_channels) * taps * kPanel;
  return groups * panels(out_channels / groups) * taps * group_channels * kPanel;
}

template <class T>
void conv2d_pack(const T* weight, const int64_t* stride, int64_t out_channels, int64_t group_channels,
                 int64_t kernel_height, int64_t kernel_width, int64_t groups, T* packed, int64_t threads) {
  // A depthwise weight is one group of K channels with one value a tap.
  const int64_t parts = group_channels == 1 ? 1 : groups;
  const int64_t part_channels = out_channels / parts;
  const int64_t part_panels = panels(part_channels);
  const int64_t depth = kernel_height * kernel_width * group_channels;
  parallel(depth * out_channels < (1 << 16) ? 1 : threads, [&](const Worker& me) {
    const auto [begin, end] = me.share(parts * part_panels);
    for (int64_t p = begin; p < end; ++p) {
      const int64_t part = p / part_panels, first = p % part_panels * kPanel;
      const int64_t valid = part_channels - first < kPanel ? part_channels - first : kPanel;
      const T* const from = weight + (part * part_channels + first) * stride[0];
      T* to = packed + p * depth * kPanel;
      for (int64_t i = 0; i < kernel_height; ++i) {
        for (int64_t j = 0; j < kernel_width; ++j) {
          const T* const tap = from + i * stride[2] + j * stride[3];
          for (int64_t c = 0; c < group_channels; ++c, to += kPanel) {
            for (int64_t k = 0; k < valid; ++k) to[k] = tap[c * stride[1] + k * stride[0]];
            for (int64_t k = valid; k < kPanel; ++k) to[k] = T(0);
          }
        }
      }
    }
  });
}

template void conv2d_pack(const float*, const int64_t*, int64_t, int64_t, int64_t, int64_t, int64_t, float*,
                          int64_t);
template void conv2d_pack(const double*, const int64_t*, int64_t, int64_t, int64_t, int64_t, int64_t, double*,
                          int64_t);

}  // namespace cnnkern
