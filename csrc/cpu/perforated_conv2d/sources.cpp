// Which kept output every output of a perforated convolution shows. See perforated_conv2d.h.
#include <algorithm>
#include <limits>

#include "cpu/parallel.h"
#include "cpu/perforated_conv2d/perforated_conv2d.h"

namespace cnnkern {
namespace {

// Writes the row of the nearest kept position in the same column, the upper one of two; -1 where there is
// none.
void nearest_in_columns(const uint8_t* mask, int64_t height, int64_t width, int32_t* rows, int32_t* below) {
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const int32_t above = y > 0 ? rows[(y - 1) * width + x] : -1;
      rows[y * width + x] = mask[y * width + x] ? static_cast<int32_t>(y) : above;
    }
  }
  std::fill_n(below, width, -1);
  for (int64_t y = height - 1; y >= 0; --y) {
    for (int64_t x = 0; x < width; ++x) {
      int32_t& row = rows[y * width + x];
      if (mask[y * width + x]) below[x] = static_cast<int32_t>(y);
      if (below[x] >= 0 && (row < 0 || below[x] - y < y - row)) row = below[x];
    }
  }
}

// The nearest in the plane is the nearest of its column: looks at the columns to both sides, and no further
// than the best so far.
int32_t nearest_of_columns(const int32_t* rows, int64_t width, int64_t y, int64_t x) {
  int64_t best = std::numeric_limits<int64_t>::max(), best_row = -1, best_column = -1;
  for (int64_t distance = 0; distance < width && distance * distance <= best; ++distance) {
    for (const int64_t column : {x - distance, x + distance}) {
      if (column < 0 || column >= width || rows[column] < 0) continue;
      const int64_t down = rows[column] - y, squared = distance * distance + down * down;
      if (squared < best || (squared == best && (rows[column] < best_row ||
                                                 (rows[column] == best_row && column < best_column)))) {
        best = squared;
        best_row = rows[column];
        best_column = column;
      }
    }
  }
  return static_cast<int32_t>(best_row < 0 ? -1 : best_row * width + best_column);
}

}  // namespace

void nearest_kept(const uint8_t* mask, int64_t masks, int64_t height, int64_t width, int32_t* sources,
                  int32_t* scratch, int64_t threads) {
  parallel(std::min(threads, masks), [&](const Worker& me) {
    int32_t* const rows = scratch + me.index * 2 * width;
    const auto [begin, end] = me.share(masks);
    for (int64_t m = begin; m < end; ++m) {
      int32_t* const plane = sources + m * height * width;
      nearest_in_columns(mask + m * height * width, height, width, plane, rows + width);
      for (int64_t y = 0; y < height; ++y) {
        std::copy_n(plane + y * width, width, rows);
        for (int64_t x = 0; x < width; ++x) plane[y * width + x] = nearest_of_columns(rows, width, y, x);
      }
    }
  });
}

int64_t arrange(const int32_t* sources, int64_t area, int32_t* owner, int32_t* kept) {
  // No branch depends on the mask: half of them would be mispredicted.
  int64_t count = 0;
  for (int64_t p = 0; p < area; ++p) {
    kept[count] = static_cast<int32_t>(p);
    owner[p] = static_cast<int32_t>(count);
    count += sources[p] == p;
  }
  // Until now `owner` says how many are kept before; a kept one, and so every source, must stay as it is.
  for (int64_t p = 0; p < area; ++p)
    owner[p] = sources[p] < 0 ? -1 : sources[p] == p ? owner[p] : -2 - sources[p];
  for (int64_t p = 0; p < area; ++p) owner[p] = owner[p] < -1 ? owner[-2 - owner[p]] : owner[p];
  std::fill(kept + count, kept + area, -1);
  return count;
}

int64_t count_kept(const int32_t* owner, const int32_t* kept, int64_t area) {
  const int64_t count = std::partition_point(kept, kept + area, [](int32_t p) { return p >= 0; }) - kept;
  if (count == 0) return -1;
  int32_t wrong =
      kept[0] < 0 || kept[count - 1] >= area;  // an int, and no branches: the compiler makes vectors
  for (int64_t i = 1; i < count; ++i) wrong |= kept[i] <= kept[i - 1];
  for (int64_t p = 0; p < area; ++p) wrong |= owner[p] < -1 || owner[p] >= static_cast<int32_t>(count);
  return wrong ? -1 : count;
}

}  // namespace cnnkern
