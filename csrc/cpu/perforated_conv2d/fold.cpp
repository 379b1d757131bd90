// The gradient of the interpolation: every output's gradient is added to that of the kept output that it
// shows.
#include <algorithm>

#include "cpu/parallel.h"
#include "cpu/perforated_conv2d/perforated_conv2d.h"

namespace cnnkern {
namespace {

// Channels [first, last) of a channels-last image.
template <class T>
void fold_pixels(const Conv2dShape& s, const int32_t* kept, const int32_t* owner, int64_t first, int64_t last,
                 const T* grad, T* folded) {
  const int64_t area = s.out_height * s.out_width, channels = s.out_channels;
  for (int64_t p = 0; p < area; ++p)
    std::fill(folded + p * channels + first, folded + p * channels + last, T(0));
  for (int64_t p = 0; p < area; ++p) {
    if (owner[p] < 0) continue;
    const T* const from = grad + p * channels;
    T* const to = folded + kept[owner[p]] * channels;
    for (int64_t k = first; k < last; ++k) to[k] += from[k];
  }
}

template <class T>
void fold_plane(int64_t area, const int32_t* kept, const int32_t* owner, const T* grad, T* folded) {
  std::fill_n(folded, area, T(0));
  for (int64_t p = 0; p < area; ++p) {
    if (owner[p] >= 0) folded[kept[owner[p]]] += grad[p];
  }
}

}  // namespace

template <class T>
void fold(const Conv2dShape& s, const Perforation& perforation, const T* grad, T* folded, int64_t threads) {
  const int64_t area = s.out_height * s.out_width;
  // Workers share images and channels, so that the additions to one value come in the order of the positions.
  parallel(threads, [&](const Worker& me) {
    const auto [begin, end] = me.share(s.batch * s.out_channels);
    for (int64_t i = begin; i < end;) {
      const int64_t image = i / s.out_channels, channel = i % s.out_channels;
      const int64_t part = perforation.masks == 1 ? 0 : image * 2 * area;
      const int32_t *const kept = perforation.kept + part, *const owner = perforation.owner + part;
      const int64_t offset = image * s.out_channels * area;
      if (s.channels_last) {
        const int64_t last = std::min(s.out_channels, channel + end - i);
        fold_pixels(s, kept, owner, channel, last, grad + offset, folded + offset);
        i += last - channel;
      } else {
        fold_plane(area, kept, owner, grad + i * area, folded + i * area);
        ++i;
      }
    }
  });
}

template void fold(const Conv2dShape&, const Perforation&, const float*, float*, int64_t);
template void fold(const Conv2dShape&, const Perforation&, const double*, double*, int64_t);

}  // namespace cnnkern
