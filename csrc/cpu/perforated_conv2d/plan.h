// How the outputs of a perforated convolution are cut into work.
//
// Outputs are counted through all images. A worker has a range of them with about as many kept ones as the
// others have, whatever the masks look like; or it has a range of the output channels of all, where the
// weights are most of what has to be read. A band is a part of a worker's range, rows of one image or several
// small images, whose input stays in level 2.
#pragma once
#include <algorithm>

#include "cpu/conv2d/conv2d.h"
#include "cpu/perforated_conv2d/perforated_conv2d.h"
#include "cpu/registry.h"
#include "cpu/strip.h"

namespace cnnkern {

constexpr int64_t kLeastKept = 192;  // of a band where there are as many: the weights are read for each
constexpr int64_t kMostKept = 768;   // of a band of several images
constexpr int64_t kListed = 1024;    // outputs that are looked through at once
constexpr int64_t kTileColumns = 2 * kPanel;  // output channels that a channel-first tile has
constexpr int64_t kDepthwisePixels = 64;      // that are lowered at once
inline int64_t row_pitch(const Conv2dShape& s) { return s.in_width * s.in_channels; }

struct BandPlan {
  int64_t splits;      // of the output channels
  int64_t images;      // of a band; where it is one,
  int64_t out_rows;    // of a band
  int64_t kept;        // most of a band
  int64_t strip_step;  // from the strip of one image to that of the next
};

template <class T>
BandPlan plan_bands(const Conv2dShape& s, int64_t kept, int64_t threads) {
  BandPlan plan{};
  // Every worker reads the weights for its outputs, or the input of all outputs for its channels.
  const bool by_channels = s.groups == 1 && panels(s.out_channels) >= threads && kept < 2 * s.out_channels;
  plan.splits = by_channels ? threads : 1;
  const int64_t columns = (panels(s.out_channels) + plan.splits - 1) / plan.splits * kPanel;
  const int64_t half = level2_cache_bytes() / 2 / static_cast<int64_t>(sizeof(T));
  const int64_t fit = std::max<int64_t>(1, half / row_pitch(s));  // input rows
  const int64_t of_image = std::max<int64_t>(1, kept / s.batch);
  plan.images = std::clamp<int64_t>(std::min(kMostKept / of_image, fit / s.in_height), 1, s.batch);
  plan.out_rows = s.out_height;
  if (plan.images == 1) {
    const int64_t least = (kLeastKept * s.out_height + of_image - 1) / of_image;
    const int64_t most = half / columns * s.out_height / of_image;  // whose results fit as well
    plan.out_rows =
        std::clamp(std::max(least, std::min(fit / s.stride_height, most)), int64_t{1}, s.out_height);
  }
  plan.kept = std::min(plan.images * plan.out_rows * s.out_width, kept);
  plan.strip_step = std::min(s.in_height, strip_rows(s, plan.out_rows)) * row_pitch(s);
  return plan;
}

// Output channels [first, first + count).
struct Channels {
  int64_t first, count;
};

// Outputs [begin, end) of an image.
struct Piece {
  int64_t image, begin, end;
  int64_t first, last;          // the kept ones among them
  const int32_t *owner, *kept;  // of the image's mask
  int64_t count() const { return last - first; }
};

inline Piece piece_of(const Conv2dShape& s, const Perforation& perforation, int64_t image, int64_t begin,
                      int64_t end) {
  const int64_t area = s.out_height * s.out_width, mask = perforation.masks == 1 ? 0 : image;
  const int32_t* const kept = perforation.kept + mask * 2 * area;
  const int64_t count = perforation.begin[image + 1] - perforation.begin[image];
  const auto before = [&](int64_t position) { return std::lower_bound(kept, kept + count, position) - kept; };
  return {image, begin, end, before(begin), before(end), perforation.owner + mask * 2 * area, kept};
}

// The band of outputs, counted through all images, that begins at `begin`, in a worker's range up to `end`.
inline int64_t end_of_band(const Conv2dShape& s, const BandPlan& plan, int64_t begin, int64_t end) {
  const int64_t area = s.out_height * s.out_width, image = begin / area;
  if (plan.images > 1) return std::min(end, (image + plan.images) * area);
  // Equal bands of the rows that are left of the image.
  end = std::min(end, (image + 1) * area);
  const int64_t row = begin % area / s.out_width;
  const int64_t rows = (end - image * area + s.out_width - 1) / s.out_width - row;
  const int64_t bands = (rows + plan.out_rows - 1) / plan.out_rows;
  return std::min(end, image * area + (row + (rows + bands - 1) / bands) * s.out_width);
}

// Where the range of worker `index` of `count` begins.
inline int64_t begin_of_share(const Conv2dShape& s, const Perforation& perforation, int64_t index,
                              int64_t count) {
  const int64_t area = s.out_height * s.out_width, kept = perforation.begin[s.batch];
  if (index == 0) return 0;
  if (index == count) return s.batch * area;
  const int64_t first = kept * index / count;
  const int64_t image =
      std::upper_bound(perforation.begin, perforation.begin + s.batch + 1, first) - perforation.begin - 1;
  if (first == perforation.begin[image]) return image * area;
  return image * area + piece_of(s, perforation, image, 0, area).kept[first - perforation.begin[image]];
}

}  // namespace cnnkern
