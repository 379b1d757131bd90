// See patches.h.
#include "cpu/column_sparse_conv2d/patches.h"

#include <algorithm>

namespace cnnkern {
namespace {

bool is_whole(const TapRange& range, int64_t kernel) { return range.begin == 0 && range.end == kernel; }

// Calls `visit(i, j, from, until)` for each tap with columns in [begin, end), which are [from, until).
template <class Visit>
void for_taps(const Conv2dShape& s, const Patches& patches, int64_t begin, int64_t end, const Visit& visit) {
  for (int64_t i = 0, tap = 0; i < s.kernel_height; ++i) {
    for (int64_t j = 0; j < s.kernel_width; ++j, ++tap) {
      const int64_t from = std::max(begin, patches.begin[tap]), until = std::min(end, patches.begin[tap + 1]);
      if (from < until) visit(i, j, from, until);
    }
  }
}

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

// The pixels of a panel that lie in one output row.
struct Run {
  int64_t lane, lanes, top, left, base;
};

// The lanes of a run whose tap (i, j) is inside the image, as bits.
uint32_t lanes_inside(const Conv2dShape& s, const Run& run, int64_t i, int64_t j) {
  const int64_t row = run.top + i * s.dilation_height, column = run.left + j * s.dilation_width;
  if (row < 0 || row >= s.in_height || column >= s.in_width) return 0;
  const int64_t stride = s.stride_width, room = s.in_width - column + stride - 1;
  int64_t begin = 0, end = room;
  if (column < 0) begin = stride == 1 ? -column : (stride - 1 - column) / stride;
  if (stride != 1) end = room / stride;
  end = std::min(end, run.lanes);
  if (begin >= end) return 0;
  return ((1u << (end - begin)) - 1) << (begin + run.lane);
}

}  // namespace

int64_t Patches::words(const Conv2dShape& s, const Blocks& blocks, int64_t window) {
  const int64_t windows = s.channels_last ? blocks.count + 1 + 2 * blocks.kept + 1 : 0;
  const int64_t lanes = s.channels_last ? (blocks.kept * window + 1) / 2 : 0;
  return s.kernel_height * s.kernel_width + 1 + 2 * blocks.kept + windows + lanes;
}

Patches::Patches(int64_t* memory, const Conv2dShape& s, const Blocks& blocks, int64_t window) {
  begin = memory;
  offset = begin + s.kernel_height * s.kernel_width + 1;
  column = offset + blocks.kept;
  const int64_t run = s.in_channels * (s.dilation_width == 1 ? s.kernel_width : 1);
  if (!s.channels_last || run < window) {
    windows = {};
    window_begin = nullptr;
    return;
  }
  window_begin = column + blocks.kept;
  int64_t* const offsets = window_begin + blocks.count + 1;
  int64_t* const first = offsets + blocks.kept;
  windows = {offsets, first, reinterpret_cast<int32_t*>(first + blocks.kept + 1)};
}

void Patches::fill(const Conv2dShape& s, const int32_t* columns, int64_t group, const Blocks& blocks,
                   int64_t window) const {
  const ImageSteps steps = steps_of(s);
  const int64_t group_channels = s.in_channels / s.groups;
  order_by_tap(columns, blocks.kept, s.kernel_height * s.kernel_width, begin,
               [&](int64_t k, int64_t n, int64_t tap, int64_t channel) {
                 column[k] = n;
                 const int64_t i = tap / s.kernel_width, j = tap % s.kernel_width;
                 offset[k] = i * s.dilation_height * steps.row + j * s.dilation_width * steps.column +
                             (group * group_channels + channel) * steps.channel;
               });
  if (!window_begin) return;

  // A window never reaches beyond the taps that lie side by side in memory: what is there may be outside x.
  const bool whole_rows = s.dilation_width == 1;
  const int64_t runs = s.kernel_height * (whole_rows ? 1 : s.kernel_width),
                taps = whole_rows ? s.kernel_width : 1;
  auto* const offsets = const_cast<int64_t*>(windows.offset);
  auto* const first = const_cast<int64_t*>(windows.first);
  auto* const lanes = const_cast<int32_t*>(windows.lanes);
  int64_t count = 0, block = 0;
  window_begin[0] = 0;
  for (int64_t r = 0; r < runs; ++r) {
    const int64_t i = whole_rows ? r : r / s.kernel_width, j = whole_rows ? 0 : r % s.kernel_width;
    const int64_t run_end =
        i * s.dilation_height * steps.row + j * s.dilation_width * steps.column + taps * s.in_channels;
    for (int64_t k = begin[r * taps]; k < begin[(r + 1) * taps]; ++count) {
      for (; k >= blocks.end(block); ++block) window_begin[block + 1] = count;
      const int64_t end = std::min(begin[(r + 1) * taps], blocks.end(block));
      offsets[count] = std::min(offset[k], run_end - window);
      first[count] = k;
      int32_t* const lane = lanes + count * window;
      std::fill_n(lane, window, 0);
      for (const int64_t start = k; k < end && offset[k] < offsets[count] + window; ++k)
        lane[k - start] = static_cast<int32_t>(offset[k] - offsets[count]);
    }
  }
  for (; block < blocks.count; ++block) window_begin[block + 1] = count;
  first[count] = blocks.kept;
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
    const bool by_windows = patches.window_begin && base >= 0 && base + (count - 1) * step + extent <= size;
    if (by_windows)
      kernels.gather_windows(x + base, step, count, patches.windows, patches.window_begin[block],
                             patches.window_begin[block + 1], to, pitch);
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
                   const Blocks& blocks, int64_t block, const T* x, int64_t first, int64_t pixels, T* to) {
  const ImageSteps steps = steps_of(s);
  const int64_t begin = blocks.begin(block), end = blocks.end(block);
  OutputPixel pixel(s, first);
  for (; pixels > 0; pixels -= kPanel, to += (end - begin) * kPanel) {
    Run runs[kPanel];
    int64_t count = 0;
    for (int64_t lane = 0; lane < std::min(kPanel, pixels);) {
      const int64_t lanes = std::min({kPanel - lane, pixels - lane, s.out_width - pixel.column});
      const int64_t base = pixel.base(s, steps) - lane * s.stride_width;
      runs[count++] = {lane, lanes, pixel.top(s), pixel.left(s), base};
      pixel.advance(s, lanes);
      lane += lanes;
    }
    int64_t bases[kPanel];
    uint32_t inside[kPanel];
    GatherPixels<T> gather{x, bases, inside, 0, s.stride_width, nullptr, 0, nullptr};
    const auto copy = [&](int64_t i, int64_t j, int64_t from, int64_t until) {
      gather.runs = 0;
      for (int64_t r = 0; r < count; ++r) {
        bases[gather.runs] = runs[r].base;
        inside[gather.runs] = lanes_inside(s, runs[r], i, j);
        gather.runs += inside[gather.runs] != 0;
      }
      gather.offset = patches.offset + from;
      gather.count = until - from;
      gather.to = to + (from - begin) * kPanel;
      if (gather.runs > 0) return kernels.gather_pixels(gather);
      std::fill_n(gather.to, gather.count * kPanel, T(0));
    };
    constexpr uint32_t kAll = (1u << kPanel) - 1;
    if (lanes_inside(s, runs[0], 0, 0) == kAll &&
        lanes_inside(s, runs[0], s.kernel_height - 1, s.kernel_width - 1) == kAll) {
      if (end > begin) copy(0, 0, begin, end);
    } else {
      for_taps(s, patches, begin, end, copy);
    }
  }
}

template void gather_rows(const Primitives<float>&, const Conv2dShape&, const Patches&, const Blocks&,
                          int64_t, const float*, int64_t, int64_t, float*, int64_t);
template void gather_rows(const Primitives<double>&, const Conv2dShape&, const Patches&, const Blocks&,
                          int64_t, const double*, int64_t, int64_t, double*, int64_t);
template void gather_panels(const Primitives<float>&, const Conv2dShape&, const Patches&, const Blocks&,
                            int64_t, const float*, int64_t, int64_t, float*);
template void gather_panels(const Primitives<double>&, const Conv2dShape&, const Patches&, const Blocks&,
                            int64_t, const double*, int64_t, int64_t, double*);

}  // namespace cnnkern
