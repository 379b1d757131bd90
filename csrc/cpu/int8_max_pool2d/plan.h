// How a max pooling is cut: bands of output rows, each the greatest of the image's rows first.
//
// A row of a band is a row of the image with padding around it; the windows of an output row begin at its
// first byte. Channels first, with a stride, the columns that a stride apart lie next to each other in a row
// of the band's phases instead, phase p being the columns p, p + stride, ...
#pragma once
#include <algorithm>

#include "cpu/int8_primitives.h"
#include "params/int8_max_pool2d.h"

namespace cnnkern {

struct MaxPoolPlan {
  PoolAxis height, width;  // with the values alone that are inside the image for some window
  int64_t planes;          // each height.in rows in memory; planes whose windows line up are one
  int64_t pixel;           // bytes
  int64_t image_row;       // bytes of a row of x
  int64_t out_row;         // bytes of a row of y
  int64_t left;            // where x begins in a row of the band
  int64_t right;           // where the padding behind x begins, if there is any in front of `windows_end`
  int64_t windows_end;     // where the last window of a row ends
  int64_t skipped;         // where the first one begins: behind `left`, or at 0
  int64_t band_row;        // bytes, whole vectors behind `left`
  int64_t rows;            // of a band
  bool split;              // into phases
  int64_t phases;          // that windows have columns of
  int64_t in_phase;        // columns of a row of a phase
  int64_t phase_row;       // whole vectors of them
  int64_t offsets_bytes, band_bytes, phases_bytes;

  explicit MaxPoolPlan(const Int8MaxPool2dParams& p)
      : height(clipped(p.height)), width(clipped(p.width)), planes(p.batch) {
    pixel = p.channels_last ? p.channels : 1;
    if (!p.channels_last) planes *= p.channels;
    if (is_tiled(height)) {
      height.in *= planes;
      height.out *= planes;
      planes = 1;
    }
    image_row = width.in * pixel;
    out_row = width.out * pixel;
    split = !p.channels_last && width.stride > 1;
    left = std::max<int64_t>(width.pad, 0) * pixel;
    skipped = std::max<int64_t>(-width.pad, 0) * pixel;
    right = left + image_row;
    const int64_t reach = (width.out - 1) * width.stride + (width.kernel - 1) * width.dilation + 1;
    windows_end = skipped + reach * pixel;
    band_row =
        round_up(std::max(left + round_up(image_row, kMostVectorBytes), windows_end), kMostVectorBytes);
    rows = std::clamp<int64_t>(kBandBytes / band_row, 1, planes * height.out);
    phases = std::min(width.stride, (width.kernel - 1) * width.dilation + 1);
    in_phase = (reach + width.stride - 1) / width.stride;
    phase_row = round_up(in_phase, kMostVectorBytes);
    offsets_bytes = round_up((height.kernel + width.kernel) * int64_t{sizeof(int64_t)}, kMostVectorBytes);
    // Whole vectors are read where the last window of the last row ends.
    band_bytes = rows * band_row + kMostVectorBytes * (split ? width.stride : 1);
    phases_bytes = split ? phases * rows * phase_row + kMostVectorBytes : 0;
  }
  int64_t bytes() const { return offsets_bytes + band_bytes + phases_bytes; }
  bool is_empty() const { return height.kernel == 0 || width.kernel == 0; }  // all windows are outside

 private:
  static constexpr int64_t kBandBytes = 8 << 10;  // phases can take twice as much, and x passes level 1 too

  // The windows of a plane are followed by those of the next one, as those of one image would be.
  static bool is_tiled(const PoolAxis& a) {
    return a.pad == 0 && a.in == a.out * a.stride && (a.kernel - 1) * a.dilation < a.stride;
  }
  // Without the values that are outside in all windows: what is left is no larger than the image suggests,
  // whatever the kernel's size. Then `pad` can be negative.
  static PoolAxis clipped(PoolAxis a) {
    const int64_t last = (a.out - 1) * a.stride - a.pad;  // where the last window begins
    const int64_t first = last < 0 ? (-last + a.dilation - 1) / a.dilation : 0;
    a.kernel = std::max<int64_t>(std::min(a.kernel, (a.in - 1 + a.pad) / a.dilation + 1) - first, 0);
    a.pad -= first * a.dilation;
    if (a.out == 1) a.stride = 1;
    return a;
  }
};

}  // namespace cnnkern
