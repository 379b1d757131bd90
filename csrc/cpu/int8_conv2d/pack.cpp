// Weights into panels and quads: k runs over (kH, kW, C/G), the order in which a channels-last patch lies in
// memory, and each row of the kernel is filled up with zeros to whole quads. A sum of the weights, which the
// zero point is multiplied with, follows for every output channel.
#include <algorithm>
#include <cstring>

#include "cpu/int8_conv2d/int8_conv2d.h"
#include "cpu/parallel.h"

namespace cnnkern {

Int8Packing int8_packing(const Int8Weight& w) {
  const int64_t parts = w.depthwise ? 1 : w.groups;
  Int8Packing p{};
  p.run = w.depthwise ? w.kernel_width : round_up(w.kernel_width * w.group_channels, kQuad);
  p.panel = w.kernel_height * p.run * kPanel;
  p.panels = parts * panels(w.out_channels / parts);
  p.extreme = p.panels * p.panel;
  p.sums = p.extreme + p.panels;
  p.size = p.sums + w.out_channels * static_cast<int64_t>(sizeof(int32_t));
  return p;
}

void int8_conv2d_pack(const int8_t* values, const int64_t* stride, const Int8Weight& w, int8_t* packed,
                      int64_t threads) {
  const Int8Packing layout = int8_packing(w);
  const int64_t parts = w.depthwise ? 1 : w.groups, depth = w.depthwise ? 1 : kQuad;
  const int64_t part_channels = w.out_channels / parts, part_panels = panels(part_channels);
  parallel(layout.size < (1 << 16) ? 1 : threads, [&](const Worker& me) {
    const auto [begin, end] = me.share(layout.panels);
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p % part_panels * kPanel, channel = p / part_panels * part_channels + first;
      const int64_t valid = std::min(kPanel, part_channels - first);
      int8_t* const to = packed + p * layout.panel;
      std::fill(to, to + layout.panel, int8_t{0});
      bool extreme = false;
      for (int64_t k = 0; k < valid; ++k) {
        const int8_t* const from = values + (channel + k) * stride[0];
        int32_t sum = 0;
        for (int64_t i = 0; i < w.kernel_height; ++i) {
          for (int64_t r = 0; r < w.kernel_width * w.group_channels; ++r) {
            const int8_t value =
                from[r % w.group_channels * stride[1] + i * stride[2] + r / w.group_channels * stride[3]];
            to[((i * layout.run + r) / depth * kPanel + k) * depth + r % depth] = value;
            sum += value;
            extreme |= value == INT8_MIN;
          }
        }
        std::memcpy(packed + layout.sums + (channel + k) * static_cast<int64_t>(sizeof sum), &sum,
                    sizeof sum);
      }
      packed[layout.extreme + p] = extreme;
    }
  });
}

}  // namespace cnnkern
