// How the work of a convolution by rows is cut: bands of output rows of one image, or of several whole images
// where these are small, against ranges of a group's output channels.
#pragma once
#include <algorithm>

#include "cpu/primitives.h"
#include "params/conv2d.h"

namespace cnnkern {

// A band of rows of one image, or several whole images, against a range of a group's output channels.
struct BandItem {
  int64_t image, images, first_row, row_end, column, column_end;
  int64_t rows() const { return row_end - first_row; }
};

struct Bands {
  int64_t images;         // of one band; more than one are whole
  int64_t out_rows;       // of a band
  int64_t bands;          // of an image
  int64_t splits;         // of a group's output channels
  int64_t group_columns;  // K / G

  // Bands of the whole batch.
  int64_t count(const Conv2dShape& s) const { return (s.batch + images - 1) / images * bands; }

  BandItem item(const Conv2dShape& s, int64_t band, int64_t split) const {
    const int64_t column_panels = panels(group_columns);
    const int64_t image = band / bands * images, first_row = band % bands * out_rows;
    return {image,
            std::min(images, s.batch - image),
            first_row,
            std::min(s.out_height, first_row + out_rows),
            column_panels * split / splits * kPanel,
            std::min(group_columns, column_panels * (split + 1) / splits * kPanel)};
  }
};

// At least `bands` bands an image, or up to `most_images` images a band, in equal shares for the threads.
inline Bands cut_into_bands(const Conv2dShape& s, int64_t bands, int64_t most_images, bool heavy_weights,
                            int64_t threads) {
  Bands cut{};
  cut.group_columns = s.out_channels / s.groups;
  const int64_t a_worker = (s.batch + threads - 1) / threads;  // images, in equal bands
  cut.images = (a_worker - 1) / ((a_worker - 1) / most_images + 1) + 1;
  cut.splits = 1;
  if (cut.images == 1 && s.batch % threads != 0 && s.batch < 8 * threads) {
    // Too few images to go round: share the channels where the weights are what has to be read, else the
    // rows.
    const int64_t most = panels(cut.group_columns);
    if (heavy_weights && most >= threads) {
      cut.splits = threads;
    } else {
      bands = std::min(s.out_height, round_up(bands, threads));
      cut.splits = std::min(most, (threads + bands * s.batch - 1) / (bands * s.batch));
    }
  }
  cut.out_rows = (s.out_height + bands - 1) / bands;
  cut.bands = (s.out_height + cut.out_rows - 1) / cut.out_rows;
  return cut;
}

}  // namespace cnnkern
