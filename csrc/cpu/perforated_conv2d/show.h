// From computed rows of channels to all outputs that show them.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/primitives.h"
#include "params/perforated_conv2d.h"

namespace cnnkern {

constexpr int64_t kRunPixels = 128;          // of a run that is transposed at once
constexpr int64_t kRunColumns = 2 * kPanel;  // of one transposition

// Computed rows: those of the kept outputs [begin, end) of all images together, then one of zeros.
template <class T>
struct Shown {
  const T* rows;  // (end - begin + 1, width)
  int64_t width;
  int64_t begin, end;
  int64_t channel, channels;  // of y, which the columns of the rows belong to
};

// Calls body(image, its mask's part of the arrays, first, last) for the kept outputs [first, last) of an
// image that are among [begin, end) of all.
template <class Body>
void for_images(const Conv2dShape& s, const Perforation& perforation, int64_t begin, int64_t end,
                const Body& body) {
  const int64_t* const starts = perforation.begin;
  int64_t image = std::upper_bound(starts, starts + s.batch + 1, begin) - starts - 1;
  for (; begin < end; begin = starts[++image]) {
    const int64_t part = perforation.masks == 1 ? 0 : image * s.out_height * s.out_width;
    body(image, part, begin - starts[image], std::min(end, starts[image + 1]) - starts[image]);
  }
}

// Writes the rows `row` of adjacent outputs of an image that is channel first, whose channel 0 of the first
// of them is `y`.
template <class T>
void show_run(const Primitives<T>& kernels, const Shown<T>& shown, const int64_t* row, int64_t pixels,
              T* expanded, T* y, int64_t area) {
  for (int64_t column = 0; column < shown.channels; column += kRunColumns) {
    const int64_t columns = std::min(kRunColumns, shown.channels - column);
    for (int64_t i = 0; i < pixels; ++i) {
      const T* const from = shown.rows + row[i] * shown.width + column;
      if (columns == kRunColumns) {
        std::memcpy(expanded + i * kRunColumns, from, sizeof(T) * kRunColumns);
      } else {
        std::copy_n(from, columns, expanded + i * kRunColumns);
      }
    }
    kernels.transpose(expanded, kRunColumns, pixels, columns, y + column * area, area);
  }
}

// Writes every output whose owner is among the computed rows. `expanded` holds kRunPixels * kRunColumns
// values.
template <class T>
void show(const Primitives<T>& kernels, const Conv2dShape& s, const Perforation& perforation,
          const Shown<T>& shown, T* expanded, T* y) {
  const int64_t area = s.out_height * s.out_width;
  for_images(s, perforation, shown.begin, shown.end,
             [&](int64_t image, int64_t part, int64_t first, int64_t last) {
               const int32_t* const owner = perforation.owner + part;
               const int64_t lowest =
                   *std::min_element(perforation.first + part + first, perforation.first + part + last);
               const int64_t highest =
                   *std::max_element(perforation.last + part + first, perforation.last + part + last);
               const int64_t offset = perforation.begin[image] - shown.begin;
               T* const to = y + (s.channels_last ? image * area * s.out_channels + shown.channel
                                                  : (image * s.out_channels + shown.channel) * area);
               int64_t row[kRunPixels], pixels = 0;
               for (int64_t p = lowest; p <= highest + 1; ++p) {
                 const int64_t named = p <= highest ? owner[p] : last, kept = named < 0 ? ~named : named;
                 const bool ours = kept >= first && kept < last;
                 if (pixels > 0 && (!ours || pixels == kRunPixels)) {
                   show_run(kernels, shown, row, pixels, expanded, to + p - pixels, area);
                   pixels = 0;
                 }
                 if (!ours) continue;
                 const int64_t from = named < 0 ? shown.end - shown.begin : offset + kept;
                 if (s.channels_last) {
                   std::memcpy(to + p * s.out_channels, shown.rows + from * shown.width,
                               sizeof(T) * static_cast<size_t>(shown.channels));
                 } else {
                   row[pixels++] = from;
                 }
               }
             });
}

}  // namespace cnnkern
