// See patches.h.
#include "cpu/column_sparse_conv2d/patches.h"

#include <algorithm>

namespace cnnkern {
namespace {

// An output pixel, and where its patch begins.
struct Pixel {
  int64_t image, row, column;

  Pixel(const Conv2dShape& s, int64_t index)
      : image(index / (s.out_height * s.out_width)),
        row(index / s.out_width % s.out_height),
        column(index % s.out_width) {}

  void advance(const Conv2dShape& s, int64_t pixels) {
    column += pixels;
    if (column < s.out_width) return;
    column = 0;
    if (++row < s.out_height) return;
    row = 0;
    ++image;
  }

  int64_t top(const Conv2dShape& s) const { return row * s.stride_height - s.pad_height; }
  int64_t left(const Conv2dShape& s) const { return column * s.stride_width - s.pad_width; }
  int64_t base(const Conv2dShape& s, const ImageSteps& steps) const {
    return image * s.in_channels * s.in_height * s.in_width + top(s) * steps.row + left(s) * steps.column;
  }
};

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
  return s.kernel_height * s.kernel_width + 1 + blocks.kept + windows + lanes;
}

Patches::Patches(int64_t* memory, const Conv2dShape& s, const Blocks& blocks, int64_t window) {
  begin = memory;
  offset = begin + s.kernel_height * s.kernel_width + 1;
  const int64_t run = s.in_channels * (s.dilation_width == 1 ? s.kernel_width : 1);
  if (!s.channels_last || run < window) {
    windows = {};
    window_begin = nullptr;
    return;
  }
  window_begin = offset + blocks.kept;
  int64_t* const offsets = window_begin + blocks.count + 1;
  int64_t* const first = offsets + blocks.kept;
  windows = {offsets, first, reinterpret_cast<int32_t*>(first + blocks.kept + 1)};
}

void Patches::fill(const Conv2dShape& s, const KeptColumns& kept, int64_t group, const Blocks& blocks,
                   int64_t window) const {
  const ImageSteps steps = steps_of(s);
  const int64_t group_channels = s.in_channels / s.groups;
  order_by_tap(kept.index + group * kept.count, kept.count, s.kernel_height * s.kernel_width, begin,
               [&](int64_t k, int64_t, int64_t tap, int64_t channel) {
                 const int64_t i = tap / s.kernel_width, j = tap % s.kernel_width;
                 offset[k] = i * s.dilation_height * steps.row + j * s.dilation_width * steps.column +
                             (group * group_channels + channel) * steps.channel;
               });
  if (!window_begin) return;

  // A window never reaches beyond the taps that lie side by side in memory: what is there may be outside x.
  const bool whole_rows = s.dilation_width == 1;
  const int64_t runs = s.kernel_height * (whole_rows ? 1 : s.kernel_width), taps = whole_rows ? s.kernel_width : 1;
  auto* const offsets = const_cast<int64_t*>(windows.offset);
  auto* const first = const_cast<int64_t*>(windows.first);
  auto* const lanes = const_cast<int32_t*>(windows.lanes);
  int64_t count = 0, block = 0;
  window_begin[0] = 0;
  for (int64_t r = 0; r < runs; ++r) {
    const int64_t i = whole_rows ? r : r / s.kernel_width, j = whole_rows ? 0 : r % s.kernel_width;
    const int64_t run_end = i * s.dilation_height * steps.row + j * s.dilation_width * steps.column +
                            taps * s.in_channels;
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
                 const Blocks& blocks, int64_t block, const T* x, int64_t first, int64_t pixels, T* to) {
  const ImageSteps steps = steps_of(s);
  const int64_t begin = blocks.begin(block), end = blocks.end(block);
  const auto copy = [&](int64_t base, int64_t from, int64_t until) {
    for (int64_t k = from; k < until; ++k) to[k - begin] = x[base + patches.offset[k]];
  };
  Pixel pixel(s, first);
  for (int64_t p = 0; p < pixels; ++p, to += end - begin, pixel.advance(s, 1)) {
    const int64_t base = pixel.base(s, steps);
    const TapRange rows = taps_inside(pixel.top(s), s.in_height, s.kernel_height, s.dilation_height);
    const TapRange columns = taps_inside(pixel.left(s), s.in_width, s.kernel_width, s.dilation_width);
    if (!is_whole(rows, s.kernel_height) || !is_whole(columns, s.kernel_width)) {
      for_taps(s, patches, begin, end, [&](int64_t i, int64_t j, int64_t from, int64_t until) {
        if (i >= rows.begin && i < rows.end && j >= columns.begin && j < columns.end) {
          copy(base, from, until);
        } else {
          std::fill(to + from - begin, to + until - begin, T(0));
        }
      });
    } else if (patches.window_begin) {
      kernels.gather_windows(x + base, patches.windows, patches.window_begin[block],
                             patches.window_begin[block + 1], to);
    } else {
      copy(base, begin, end);
    }
  }
}

template <class T>
void gather_panels(const Primitives<T>& kernels, const Conv2dShape& s, const Patches& patches,
                   const Blocks& blocks, int64_t block, const T* x, int64_t first, int64_t pixels, T* to) {
  const ImageSteps steps = steps_of(s);
  const int64_t begin = blocks.begin(block), end = blocks.end(block);
  Pixel pixel(s, first);
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

template void gather_rows(const Primitives<float>&, const Conv2dShape&, const Patches&, const Blocks&, int64_t,
                          const float*, int64_t, int64_t, float*);
template void gather_rows(const Primitives<double>&, const Conv2dShape&, const Patches&, const Blocks&, int64_t,
                          const double*, int64_t, int64_t, double*);
template void gather_panels(const Primitives<float>&, const Conv2dShape&, const Patches&, const Blocks&, int64_t,
                            const float*, int64_t, int64_t, float*);
template void gather_panels(const Primitives<double>&, const Conv2dShape&, const Patches&, const Blocks&,
                            int64_t, const double*, int64_t, int64_t, double*);

}  // namespace cnnkern
