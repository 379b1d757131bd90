// See patches.h.
#include "cpu/column_sparse_conv2d/patches.h"

#include <algorithm>

namespace cnnkern {
namespace {

bool is_whole(const TapRange& range, int64_t kernel) { return range.begin == 0 && range.end == kernel; }

// The columns [begin, end) of one pixel's patch that lie inside the image.
template <class T>
void copy_inside(const Conv2dShape& s, const Patches& patches, int64_t begin, int64_t end,
                 const TapRange& rows, const TapRange& columns, const T* x, int64_t base, T* to) {
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const int64_t* const row = patches.begin + i * s.kernel_width;
    const int64_t until = std::min(end, row[columns.end]);
    for (int64_t k = std::max(begin, row[columns.begin]); k < until; ++k)
      to[k - begin] = x[base + patches.offset[k]];
  }
}

// Zeros for those that do not.
template <class T>
void clear_outside(const Conv2dShape& s, const Patches& patches, int64_t begin, int64_t end,
                   const TapRange& rows, const TapRange& columns, T* to) {
  const auto clear = [&](int64_t first_tap, int64_t end_tap) {
    const int64_t until = std::min(end, patches.begin[end_tap]);
    for (int64_t k = std::max(begin, patches.begin[first_tap]); k < until; ++k) to[k - begin] = T(0);
  };
  clear(0, rows.begin * s.kernel_width);
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    clear(i * s.kernel_width, i * s.kernel_width + columns.begin);
    clear(i * s.kernel_width + columns.end, (i + 1) * s.kernel_width);
  }
  clear(rows.end * s.kernel_width, s.kernel_height * s.kernel_width);
}

// Pixels of a panel, from `lane` on, that lie in one output row.
struct Run {
  int64_t lane, lanes, top, left;
};

uint32_t bits(int64_t first, int64_t count) { return ((1u << count) - 1) << first; }

// The lanes of a run whose tap column j is inside the image.
uint32_t lanes_inside(const Conv2dShape& s, const Run& run, int64_t j) {
  const int64_t column = run.left + j * s.dilation_width, stride = s.stride_width;
  if (column >= s.in_width) return 0;
  int64_t begin = column < 0 ? -column : 0, end = s.in_width - column;
  if (stride != 1) {
    begin = (begin + stride - 1) / stride;
    end = (end + stride - 1) / stride;
  }
  end = std::min(end, run.lanes);
  return begin < end ? bits(run.lane + begin, end - begin) : 0;
}

// Adds a run to the lanes that are inside the image, tap row by tap row and tap column by tap column.
void add_inside(const Conv2dShape& s, const Run& run, uint32_t* rows, uint32_t* columns) {
  const TapRange range = taps_inside(run.top, s.in_height, s.kernel_height, s.dilation_height);
  for (int64_t i = range.begin; i < range.end; ++i) rows[i] |= bits(run.lane, run.lanes);
  for (int64_t j = 0; j < s.kernel_width; ++j) columns[j] |= lanes_inside(s, run, j);
}

}  // namespace

int64_t Patches::words(const Conv2dShape& s, const Blocks& blocks, int64_t window) {
  // For windows: a begin for each block, a begin for each vector, an offset and lanes for each window.
  const int64_t kept = blocks.kept, windows = 2 * (blocks.count + 1) + 2 * kept + (kept * window + 1) / 2;
  return s.kernel_height * s.kernel_width + 1 + 2 * kept + (s.channels_last && window > 0 ? windows : 0);
}

Patches::Patches(int64_t* memory, const Conv2dShape& s, const Blocks& blocks, int64_t window) {
  begin = memory;
  offset = begin + s.kernel_height * s.kernel_width + 1;
  column = offset + blocks.kept;
  const int64_t run = s.in_channels * (s.dilation_width == 1 ? s.kernel_width : 1);
  if (!s.channels_last || window == 0 || run < window) {
    windows = {};
    vector_begin = nullptr;
    return;
  }
  vector_begin = column + blocks.kept;
  int64_t* const vectors = vector_begin + blocks.count + 1;
  int64_t* const offsets = vectors + blocks.kept + blocks.count + 1;
  windows = {vectors, offsets, reinterpret_cast<int32_t*>(offsets + blocks.kept)};
}

void Patches::fill(const Conv2dShape& s, const int32_t* columns, int64_t group, const Blocks& blocks,
                   int64_t window) const {
  const ImageSteps steps = steps_of(s);
  const int64_t group_channels = s.in_channels / s.groups;
  order_by_tap(columns, blocks.kept, s.kernel_height * s.kernel_width, begin,
               [&](int64_t k, int64_t n, int64_t channel) {
                 column[k] = n;
                 offset[k] = (group * group_channels + channel) * steps.channel;
               });
  for (int64_t i = 0, tap = 0; i < s.kernel_height; ++i) {
    for (int64_t j = 0; j < s.kernel_width; ++j, ++tap) {
      const int64_t at = i * s.dilation_height * steps.row + j * s.dilation_width * steps.column;
      for (int64_t k = begin[tap]; k < begin[tap + 1]; ++k) offset[k] += at;
    }
  }
  if (!vector_begin) return;

  // A window never reaches beyond the taps that lie side by side in memory: what is there may be outside x.
  const int64_t taps = s.dilation_width == 1 ? s.kernel_width : 1;
  auto* const vectors = const_cast<int64_t*>(windows.vector);
  auto* const offsets = const_cast<int64_t*>(windows.offset);
  auto* const lanes = const_cast<int32_t*>(windows.lanes);
  int64_t vector = 0, count = 0, tap = 0;
  vector_begin[0] = 0;
  for (int64_t block = 0; block < blocks.count; ++block) {
    for (int64_t k = blocks.begin(block); k < blocks.end(block);) {
      const int64_t first = k, end = std::min(k + window, blocks.end(block));
      vectors[vector++] = count;
      for (; k < end; ++count) {
        while (k >= begin[tap + taps]) tap += taps;
        const int64_t row = tap / s.kernel_width * s.dilation_height * steps.row;
        const int64_t run = row + tap % s.kernel_width * s.dilation_width * steps.column;
        offsets[count] = std::min(offset[k], run + taps * s.in_channels - window);
        int32_t* const lane = lanes + count * window;
        for (int64_t i = 0; i < window; ++i) lane[i] = static_cast<int32_t>(i);
        const int64_t until = std::min(end, begin[tap + taps]);
        for (; k < until && offset[k] < offsets[count] + window; ++k)
          lane[k - first] = static_cast<int32_t>(window + offset[k] - offsets[count]);
      }
    }
    vector_begin[block + 1] = vector;
  }
  vectors[vector] = count;
}

template <class T>
void gather_rows(const Primitives<T>& kernels, const Conv2dShape& s, const Patches& patches,
                 const Blocks& blocks, int64_t block, const T* x, int64_t first, int64_t pixels, T* to,
                 int64_t pitch) {
  const ImageSteps steps = steps_of(s);
  const int64_t begin = blocks.begin(block), end = blocks.end(block), step = s.stride_width * steps.column;
  const int64_t size = s.batch * s.in_channels * s.in_height * s.in_width;
  const int64_t extent = (s.kernel_height - 1) * s.dilation_height * steps.row +
                         ((s.kernel_width - 1) * s.dilation_width + 1) * steps.column;
  OutputPixel pixel(s, first);
  while (pixels > 0) {
    const int64_t count = std::min(pixels, s.out_width - pixel.column), base = pixel.base(s, steps);
    const TapRange rows = taps_inside(pixel.top(s), s.in_height, s.kernel_height, s.dilation_height);
    // Windows may read what lies around an image, as long as it is memory of x.
    const bool by_windows = patches.vector_begin && base >= 0 && base + (count - 1) * step + extent <= size;
    if (by_windows)
      kernels.gather_windows(x + base, step, count, patches.windows, patches.vector_begin[block],
                             patches.vector_begin[block + 1], to, pitch);
    for (int64_t i = 0; i < count; ++i, to += pitch) {
      const int64_t left = pixel.left(s) + i * s.stride_width;
      const bool whole = is_whole(rows, s.kernel_height) && left >= 0 &&
                         left + (s.kernel_width - 1) * s.dilation_width < s.in_width;
      if (by_windows && whole) continue;
      const TapRange columns = taps_inside(left, s.in_width, s.kernel_width, s.dilation_width);
      if (!by_windows) copy_inside(s, patches, begin, end, rows, columns, x, base + i * step, to);
      if (!whole) clear_outside(s, patches, begin, end, rows, columns, to);
    }
    pixels -= count;
    pixel.advance(s, count);
  }
}

template <class T>
void gather_panels(const Primitives<T>& kernels, const Conv2dShape& s, const Patches& patches,
                   const Blocks& blocks, int64_t block, const T* x, int64_t first, int64_t pixels,
                   uint32_t* inside, T* to) {
  const ImageSteps steps = steps_of(s);
  uint32_t* const rows = inside;
  uint32_t* const columns = rows + s.kernel_height;
  int64_t base[kPanel];
  uint32_t lanes[kPanel];
  GatherPixels<T> gather{x,
                         base,
                         lanes,
                         0,
                         s.stride_width,
                         rows,
                         columns,
                         s.kernel_height,
                         s.kernel_width,
                         patches.begin,
                         patches.offset,
                         blocks.begin(block),
                         blocks.end(block),
                         to};
  OutputPixel pixel(s, first);
  for (; pixels > 0; pixels -= kPanel, gather.to += (gather.last - gather.first) * kPanel) {
    std::fill_n(inside, s.kernel_height + s.kernel_width, 0u);
    gather.runs = 0;
    for (int64_t lane = 0; lane < std::min(kPanel, pixels);) {
      const int64_t count = std::min({kPanel - lane, pixels - lane, s.out_width - pixel.column});
      const int64_t of_lane_0 = pixel.base(s, steps) - lane * s.stride_width;
      // Rows that follow one another in memory are one.
      if (gather.runs == 0 || base[gather.runs - 1] != of_lane_0) {
        base[gather.runs] = of_lane_0;
        lanes[gather.runs++] = 0;
      }
      lanes[gather.runs - 1] |= bits(lane, count);
      add_inside(s, {lane, count, pixel.top(s), pixel.left(s)}, rows, columns);
      pixel.advance(s, count);
      lane += count;
    }
    kernels.gather_pixels(gather);
  }
}

template void gather_rows(const Primitives<float>&, const Conv2dShape&, const Patches&, const Blocks&,
                          int64_t, const float*, int64_t, int64_t, float*, int64_t);
template void gather_rows(const Primitives<double>&, const Conv2dShape&, const Patches&, const Blocks&,
                          int64_t, const double*, int64_t, int64_t, double*, int64_t);
template void gather_panels(const Primitives<float>&, const Conv2dShape&, const Patches&, const Blocks&,
                            int64_t, const float*, int64_t, int64_t, uint32_t*, float*);
template void gather_panels(const Primitives<double>&, const Conv2dShape&, const Patches&, const Blocks&,
                            int64_t, const double*, int64_t, int64_t, uint32_t*, double*);

}  // namespace cnnkern
