// See backward_pack.h. The values of 16 input channels that belong to one output channel lie together, (16,
// kH * kW): transposed they are one row of 16 for each tap, and each row has its place in the packed weight.
#include "cpu/conv2d/backward_pack.h"

#include <algorithm>
#include <cstring>

#include "cpu/conv2d/backward_phases.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

constexpr int64_t kWorthSharing = 1 << 16;  // elements
constexpr int64_t kOutputs = 16;  // read side by side, each from where the last panel's values ended

// Where a tap's rows go: `first` in the first panel, `next` from one panel to the next.
struct Place {
  int64_t first, next;
};

void find_places(const Conv2dShape& s, Place* places) {
  const int64_t group_outputs = s.out_channels / s.groups;
  int64_t begin = 0;
  for (int64_t a = 0; a < s.stride_height; ++a) {
    const Phase rows = phase_of(s.kernel_height, s.stride_height, s.dilation_height, a);
    for (int64_t b = 0; b < s.stride_width; ++b) {
      const Phase columns = phase_of(s.kernel_width, s.stride_width, s.dilation_width, b);
      const int64_t taps = rows.taps * columns.taps;
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t i = rows.first + t / columns.taps * rows.step;
        const int64_t j = columns.first + t % columns.taps * columns.step;
        places[i * s.kernel_width + j] = {begin + (taps - 1 - t) * group_outputs * kPanel,
                                          taps * group_outputs * kPanel};
      }
      begin += taps_packed_size(s, taps);
    }
  }
}

int64_t places_size(const Conv2dShape& s, int64_t element_size) {
  return round_up(s.kernel_height * s.kernel_width * static_cast<int64_t>(sizeof(Place)) / element_size,
                  kPanel);
}

}  // namespace

int64_t taps_packed_size(const Conv2dShape& s, int64_t taps) {
  return s.groups * panels(s.in_channels / s.groups) * taps * (s.out_channels / s.groups) * kPanel;
}

template <class T>
int64_t taps_pack_scratch(const Conv2dShape& s, int64_t threads) {
  return places_size(s, sizeof(T)) + threads * s.kernel_height * s.kernel_width * kPanel;
}

template <class T>
void pack_taps(const Conv2dShape& s, const T* weight, T* packed, T* scratch, int64_t threads) {
  const Primitives<T>& kernels = primitives<T>();
  const int64_t group_channels = s.in_channels / s.groups, group_outputs = s.out_channels / s.groups;
  const int64_t taps = s.kernel_height * s.kernel_width, group_panels = panels(group_channels);
  Place* const places = reinterpret_cast<Place*>(scratch);
  find_places(s, places);
  parallel(taps_packed_size(s, taps) < kWorthSharing ? 1 : threads, [&](const Worker& me) {
    T* const rows = scratch + places_size(s, sizeof(T)) + me.index * taps * kPanel;
    std::fill_n(rows, taps * kPanel, T(0));
    const int64_t blocks = (group_outputs + kOutputs - 1) / kOutputs;
    const auto [begin, end] = me.share(s.groups * blocks);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / blocks, first = item % blocks * kOutputs;
      const int64_t last = std::min(group_outputs, first + kOutputs);
      for (int64_t panel = 0; panel < group_panels; ++panel) {
        const int64_t channels = std::min(kPanel, group_channels - panel * kPanel);
        if (channels < kPanel) std::fill_n(rows, taps * kPanel, T(0));
        for (int64_t k = first; k < last; ++k) {
          const T* const from =
              weight + ((group * group_outputs + k) * group_channels + panel * kPanel) * taps;
          if (taps == 1) {
            std::copy_n(from, channels, rows);
          } else {
            kernels.transpose(from, taps, channels, taps, rows, kPanel);
          }
          for (int64_t t = 0; t < taps; ++t) {
            T* const to =
                packed + places[t].first + (group * group_panels + panel) * places[t].next + k * kPanel;
            std::memcpy(to, rows + t * kPanel, sizeof(T) * kPanel);
          }
        }
      }
    }
  });
}

template int64_t taps_pack_scratch<float>(const Conv2dShape&, int64_t);
template int64_t taps_pack_scratch<double>(const Conv2dShape&, int64_t);
template void pack_taps(const Conv2dShape&, const float*, float*, float*, int64_t);
template void pack_taps(const Conv2dShape&, const double*, double*, double*, int64_t);

}  // namespace cnnkern
