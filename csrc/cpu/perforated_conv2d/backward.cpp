// The gradients of a perforated convolution, of chunks of images after one another.
//
// The gradients of all outputs that show a kept one are added up first, into a row for each kept output: rows
// G of K values, in panels. Then the gradient of the weight is a product that sums over kept outputs: of G
// with the values of x under one tap, which are read where they lie. For the gradient of x, the product of G
// with the weight gives each kept output's gradient of its patch, and patches are added up where they
// overlap. Everything is done by panels of input channels, each by one worker, so that no two ever write to
// the same place.
#include "cpu/perforated_conv2d/backward.h"

#include <algorithm>

#include "cpu/parallel.h"
#include "cpu/perforated_conv2d/pixels.h"
#include "cpu/registry.h"
#include "cpu/strip.h"

namespace cnnkern {
namespace {

constexpr int64_t kChunkKept = 4096;    // of a chunk: what the product for the weight sums over at least
constexpr int64_t kSummedAtOnce = 512;  // by that product
constexpr int64_t kPatches = 64;        // whose gradients are computed at once
constexpr int64_t kFoldPixels = 128;    // transposed at once

struct Sizes {
  int64_t group_in, group_out;    // channels
  int64_t in_panels, out_panels;  // of a group
  int64_t taps;
  int64_t rows, columns;  // of a padded image
  int64_t image;          // elements of a panel of it
  int64_t images;         // of a chunk
  int64_t most;           // kept outputs of a chunk

  Sizes(const Conv2dShape& s, int64_t kept)
      : group_in(s.in_channels / s.groups),
        group_out(s.out_channels / s.groups),
        in_panels(panels(group_in)),
        out_panels(panels(group_out)),
        taps(s.kernel_height * s.kernel_width),
        rows(strip_rows(s, s.out_height)),
        columns(strip_width(s)),
        image(rows * columns * kPanel),
        images(std::clamp<int64_t>(kChunkKept * s.batch / kept, 1, s.batch)),
        most(images * s.out_height * s.out_width) {}
  int64_t all_in() const { return in_panels * kPanel; }
  int64_t all_out() const { return out_panels * kPanel; }
};

// What the workers share, and what each has for itself; its size alone, where there is no memory yet.
template <class T>
struct Scratch {
  int64_t* offsets;  // (most): where each kept output's tap (0, 0) lies in a panel of a chunk's padded images
  T* folded;         // (G, out_panels, most, kPanel)
  T* weight;         // (G, in_panels, taps, all_out, kPanel)
  T* grad_weight;    // (G, in_panels, taps, kPanel, all_out)
  T* padded;         // (images, rows, columns, kPanel), a panel of x
  T* grad_padded;    // (rows, columns, kPanel)
  T* patches;        // (kPatches, taps, kPanel)
  T* pixels;         // (kFoldPixels, kPanel)
  int64_t size = 0;

  Scratch(const Conv2dShape& s, const Sizes& n, GradientsAsked asked, int64_t threads, int64_t index,
          T* base) {
    const auto take = [&]<class U>(U*& array, int64_t count, int64_t copies) {
      const int64_t length =
          round_up(count * static_cast<int64_t>(sizeof(U)) / static_cast<int64_t>(sizeof(T)), kPanel);
      array = base ? reinterpret_cast<U*>(base + size + (copies > 1 ? index * length : 0)) : nullptr;
      size += length * copies;
    };
    const int64_t weights = s.groups * n.in_panels * n.taps * n.all_out() * kPanel;
    take(offsets, n.most, 1);
    take(folded, s.groups * n.out_panels * n.most * kPanel, 1);
    take(weight, asked.x ? weights : 0, 1);
    take(grad_weight, asked.weight ? weights : 0, 1);
    take(padded, asked.weight ? n.images * n.image : 0, threads);
    take(grad_padded, asked.x ? n.image : 0, threads);
    take(patches, asked.x ? kPatches * n.taps * kPanel : 0, threads);
    take(pixels, kFoldPixels * kPanel, threads);
  }
};

template <class T>
struct Work {
  const Primitives<T>& kernels;
  const PerforatedConv2dBackwardParams<T>& p;
  const Sizes& n;
  const Scratch<T>& scratch;
};

// Images [first, last), whose kept outputs are `begin` and following ones of all.
struct Chunk {
  int64_t first, last, begin, kept;
};

Piece image_of(const Conv2dShape& s, const Perforation& perforation, int64_t image) {
  return piece_of(s, perforation, image, 0, s.out_height * s.out_width);
}

// Weights of a group for input channels in panels: K rows of kPanel values for each tap.
template <class T>
void pack_weight(const Work<T>& work, int64_t group, int64_t panel) {
  const Sizes& n = work.n;
  const int64_t lanes = std::min(kPanel, n.group_in - panel * kPanel), step = n.all_out() * kPanel;
  T* const to = work.scratch.weight + (group * n.in_panels + panel) * n.taps * step;
  if (lanes < kPanel || n.group_out < n.all_out()) std::fill_n(to, n.taps * step, T(0));
  const T* from = work.p.weight + (group * n.group_out * n.group_in + panel * kPanel) * n.taps;
  for (int64_t k = 0; k < n.group_out; ++k, from += n.group_in * n.taps)
    work.kernels.transpose(from, n.taps, lanes, n.taps, to + k * kPanel, step);
}

// The rows of one image and one panel of output channels.
template <class T>
void fold_panel(const Work<T>& work, const Piece& piece, int64_t channel, int64_t lanes, T* rows) {
  const Conv2dShape& s = work.p.shape;
  const int64_t area = s.out_height * s.out_width;
  std::fill_n(rows, piece.count() * kPanel, T(0));
  for (int64_t first = 0; first < area; first += kFoldPixels) {
    const int64_t pixels = std::min(kFoldPixels, area - first);
    const T* from = work.p.grad + (piece.image * area + first) * s.out_channels + channel;
    int64_t step = s.out_channels;
    if (!s.channels_last) {
      from = work.p.grad + (piece.image * s.out_channels + channel) * area + first;
      work.kernels.transpose(from, area, lanes, pixels, work.scratch.pixels, kPanel);
      from = work.scratch.pixels;
      step = kPanel;
    }
    for (int64_t i = 0; i < pixels; ++i, from += step) {
      const int32_t owner = piece.owner[first + i];
      if (owner < 0) continue;
      T* const to = rows + owner * kPanel;
      if (lanes == kPanel) {
        for (int64_t lane = 0; lane < kPanel; ++lane) to[lane] += from[lane];
      } else {
        for (int64_t lane = 0; lane < lanes; ++lane) to[lane] += from[lane];
      }
    }
  }
}

// The worker's share of the chunk's rows, and of where their patches begin.
template <class T>
void fold_chunk(const Work<T>& work, const Chunk& chunk, const Worker& me) {
  const Conv2dShape& s = work.p.shape;
  const Sizes& n = work.n;
  const int64_t images = chunk.last - chunk.first, all = s.groups * n.out_panels;
  const auto [begin, end] = me.share(images * all);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t panel = i % all, group = panel / n.out_panels, within = panel % n.out_panels * kPanel;
    const Piece piece = image_of(s, work.p.perforation, chunk.first + i / all);
    const int64_t before = work.p.perforation.begin[piece.image] - chunk.begin;
    fold_panel(work, piece, group * n.group_out + within, std::min(kPanel, n.group_out - within),
               work.scratch.folded + (panel * n.most + before) * kPanel);
    if (panel > 0) continue;
    int64_t* offset = work.scratch.offsets + before;
    const int64_t image = (piece.image - chunk.first) * n.image;
    for_kept(s, piece, [&](int64_t, int64_t y, int64_t x, int64_t) {
      *offset++ = image + (y * s.stride_height * n.columns + x * s.stride_width) * kPanel;
    });
  }
}

template <class T>
void sum_bias(const Work<T>& work, const Chunk& chunk, const Worker& me) {
  const Sizes& n = work.n;
  const auto [begin, end] = me.share(work.p.shape.groups * n.out_panels);
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t within = panel % n.out_panels * kPanel;
    T* const bias = work.p.grad_bias + panel / n.out_panels * n.group_out + within;
    T sum[kPanel] = {};
    const T* row = work.scratch.folded + panel * n.most * kPanel;
    for (int64_t i = 0; i < chunk.kept; ++i, row += kPanel) {
      for (int64_t lane = 0; lane < kPanel; ++lane) sum[lane] += row[lane];
    }
    for (int64_t lane = 0; lane < std::min(kPanel, n.group_out - within); ++lane)
      bias[lane] = chunk.first == 0 ? sum[lane] : bias[lane] + sum[lane];
  }
}

// The chunk's part of the gradient of the weight, for a panel of a group's input channels and the panels
// [first, last) of its output channels.
template <class T>
void multiply_weight(const Work<T>& work, const Chunk& chunk, int64_t in_panel, int64_t first, int64_t last) {
  const Conv2dShape& s = work.p.shape;
  const Sizes& n = work.n;
  const int64_t group = in_panel / n.in_panels, channel = in_panel % n.in_panels * kPanel;
  Gemm<T> gemm{};
  gemm.a_pixel = 1;
  gemm.a_line = s.dilation_width * kPanel;
  gemm.pixels = std::min(kPanel, n.group_in - channel);
  gemm.lines = s.kernel_width;
  gemm.b_panel = n.most * kPanel;
  gemm.b_step = kPanel;
  gemm.c_pixel = n.all_out();
  gemm.c_line = kPanel * n.all_out();
  gemm.c_panel = kPanel;
  gemm.columns = std::min(n.group_out, last * kPanel) - first * kPanel;
  for (int64_t k = 0; k < chunk.kept; k += kSummedAtOnce) {
    gemm.b = work.scratch.folded + ((group * n.out_panels + first) * n.most + k) * kPanel;
    gemm.accumulate = chunk.first > 0 || k > 0;
    const Terms terms{0, std::min(kSummedAtOnce, chunk.kept - k)};
    gemm.patch = Patch::line(terms.end);
    gemm.terms = &terms;
    gemm.term_ranges = 1;
    gemm.offset = work.scratch.offsets + k;
    for (int64_t row = 0; row < s.kernel_height; ++row) {
      gemm.a = work.scratch.padded + row * s.dilation_height * n.columns * kPanel;
      gemm.c = work.scratch.grad_weight + (in_panel * n.taps + row * s.kernel_width) * gemm.c_line +
               first * kPanel;
      work.kernels.gemm(gemm);
    }
  }
}

template <class T>
void add_weight(const Work<T>& work, const Chunk& chunk, const Worker& me) {
  const Conv2dShape& s = work.p.shape;
  const Sizes& n = work.n;
  const auto [begin, end] = me.share(s.groups * n.in_panels * n.out_panels);
  for (int64_t i = begin; i < end;) {
    const int64_t in_panel = i / n.out_panels, first = i % n.out_panels;
    const int64_t last = std::min(n.out_panels, first + end - i);
    const int64_t channel = in_panel / n.in_panels * n.group_in + in_panel % n.in_panels * kPanel;
    const int64_t count = std::min(kPanel, n.group_in - in_panel % n.in_panels * kPanel);
    for (int64_t image = chunk.first; image < chunk.last; ++image) {
      const T* const x = work.p.x + image * s.in_channels * s.in_height * s.in_width;
      fill_window<T>(work.kernels, {x, s.in_channels, s.in_height, s.in_width, s.channels_last}, channel,
                     count, {-s.pad_height, n.rows, -s.pad_width, n.columns},
                     work.scratch.padded + (image - chunk.first) * n.image, kPanel);
    }
    multiply_weight(work, chunk, in_panel, first, last);
    i += last - first;
  }
}

// (G, in_panels, taps, kPanel, all_out) to (K, C/G, kH, kW).
template <class T>
void write_weight(const Work<T>& work, const Worker& me) {
  const Sizes& n = work.n;
  const auto [begin, end] = me.share(work.p.shape.groups * n.in_panels);
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t group = panel / n.in_panels, first = panel % n.in_panels * kPanel;
    for (int64_t c = first; c < std::min(n.group_in, first + kPanel); ++c)
      work.kernels.transpose(work.scratch.grad_weight + (panel * n.taps * kPanel + c - first) * n.all_out(),
                             kPanel * n.all_out(), n.taps, n.group_out,
                             work.p.grad_weight + (group * n.group_out * n.group_in + c) * n.taps,
                             n.group_in * n.taps);
  }
}

// A panel of a padded image's gradient, to where it belongs.
template <class T>
void write_image(const Work<T>& work, int64_t image, int64_t channel, int64_t lanes) {
  const Conv2dShape& s = work.p.shape;
  const Sizes& n = work.n;
  const int64_t area = s.in_height * s.in_width;
  const int64_t width = std::clamp<int64_t>(n.columns - s.pad_width, 0, s.in_width);  // that is read
  for (int64_t y = 0; y < s.in_height; ++y) {
    const int64_t pixels = y + s.pad_height < n.rows ? width : 0;
    const T* const from = work.scratch.grad_padded + ((y + s.pad_height) * n.columns + s.pad_width) * kPanel;
    if (s.channels_last) {
      T* const to = work.p.grad_x + (image * area + y * s.in_width) * s.in_channels + channel;
      for (int64_t x = 0; x < pixels; ++x) {
        if (lanes == kPanel) {
          std::copy_n(from + x * kPanel, kPanel, to + x * s.in_channels);
        } else {
          std::copy_n(from + x * kPanel, lanes, to + x * s.in_channels);
        }
      }
      for (int64_t x = pixels; x < s.in_width; ++x) std::fill_n(to + x * s.in_channels, lanes, T(0));
    } else {
      T* const to = work.p.grad_x + (image * s.in_channels + channel) * area + y * s.in_width;
      if (pixels > 0) work.kernels.transpose(from, kPanel, pixels, lanes, to, area);
      for (int64_t lane = 0; lane < lanes; ++lane)
        std::fill(to + lane * area + pixels, to + lane * area + s.in_width, T(0));
    }
  }
}

// The gradient of a panel of a group's channels of one image.
template <class T>
void add_patches(const Work<T>& work, const Chunk& chunk, int64_t image, int64_t in_panel) {
  const Conv2dShape& s = work.p.shape;
  const Sizes& n = work.n;
  const int64_t group = in_panel / n.in_panels, channel = in_panel % n.in_panels * kPanel;
  const int64_t first = work.p.perforation.begin[image] - chunk.begin;
  const int64_t last = work.p.perforation.begin[image + 1] - chunk.begin;
  T ones[kPanel];
  std::fill_n(ones, kPanel, T(1));
  T* const padded = work.scratch.grad_padded - (image - chunk.first) * n.image;
  std::fill_n(work.scratch.grad_padded, n.image, T(0));
  Gemm<T> gemm{};
  gemm.a_pixel = kPanel;
  gemm.lines = 1;
  gemm.patch = Patch::whole(1, 0, n.out_panels, n.most * kPanel, kPanel);
  gemm.b = work.scratch.weight + in_panel * n.taps * n.all_out() * kPanel;
  gemm.b_panel = n.all_out() * kPanel;
  gemm.b_step = kPanel;
  gemm.c = work.scratch.patches;
  gemm.c_pixel = n.taps * kPanel;
  gemm.c_panel = kPanel;
  gemm.columns = n.taps * kPanel;
  for (int64_t k = first; k < last; k += kPatches) {
    gemm.a = work.scratch.folded + (group * n.out_panels * n.most + k) * kPanel;
    gemm.pixels = std::min(kPatches, last - k);
    work.kernels.gemm(gemm);
    for (int64_t i = 0; i < gemm.pixels; ++i) {
      for (int64_t row = 0; row < s.kernel_height; ++row)
        work.kernels.multiply_add_line(
            ones, work.scratch.patches + (i * n.taps + row * s.kernel_width) * kPanel, kPanel,
            padded + work.scratch.offsets[k + i] + row * s.dilation_height * n.columns * kPanel,
            s.dilation_width * kPanel, s.kernel_width);
    }
  }
  write_image(work, image, group * n.group_in + channel, std::min(kPanel, n.group_in - channel));
}

template <class T>
void run(const Work<T>& work, const Worker& me) {
  const PerforatedConv2dBackwardParams<T>& p = work.p;
  const Conv2dShape& s = p.shape;
  const Sizes& n = work.n;
  const int64_t in_panels = s.groups * n.in_panels;
  if (p.grad_x) {
    const auto [begin, end] = me.share(in_panels);
    for (int64_t i = begin; i < end; ++i) pack_weight(work, i / n.in_panels, i % n.in_panels);
  }
  for (int64_t first = 0; first < s.batch; first += n.images) {
    const int64_t last = std::min(s.batch, first + n.images);
    const Chunk chunk{first, last, p.perforation.begin[first],
                      p.perforation.begin[last] - p.perforation.begin[first]};
    fold_chunk(work, chunk, me);
    me.barrier();
    if (p.grad_bias) sum_bias(work, chunk, me);
    if (p.grad_weight) add_weight(work, chunk, me);
    if (p.grad_x) {
      const auto [begin, end] = me.share((last - first) * in_panels);
      for (int64_t i = begin; i < end; ++i) add_patches(work, chunk, first + i / in_panels, i % in_panels);
    }
    me.barrier();
  }
  if (p.grad_weight) write_weight(work, me);
}

}  // namespace

bool saves_backward(const Conv2dShape& s, int64_t kept) {
  if (is_depthwise(s)) return false;
  const int64_t in = s.in_channels / s.groups, out = s.out_channels / s.groups;
  return kept * panels(in) * panels(out) * kPanel * kPanel < s.batch * s.out_height * s.out_width * in * out;
}

template <class T>
int64_t perforated_conv2d_backward_scratch(const Conv2dShape& shape, int64_t kept, GradientsAsked asked,
                                           int64_t threads) {
  return Scratch<T>(shape, Sizes(shape, kept), asked, threads, 0, nullptr).size;
}

template <class T>
void perforated_conv2d_backward(const PerforatedConv2dBackwardParams<T>& p) {
  const Conv2dShape& s = p.shape;
  const Sizes sizes(s, p.perforation.begin[s.batch]);
  const GradientsAsked asked{p.grad_x != nullptr, p.grad_weight != nullptr, p.grad_bias != nullptr};
  parallel(p.threads, [&](const Worker& me) {
    const Scratch<T> scratch(s, sizes, asked, p.threads, me.index, p.scratch);
    run<T>({primitives<T>(), p, sizes, scratch}, me);
  });
}

template int64_t perforated_conv2d_backward_scratch<float>(const Conv2dShape&, int64_t, GradientsAsked,
                                                           int64_t);
template int64_t perforated_conv2d_backward_scratch<double>(const Conv2dShape&, int64_t, GradientsAsked,
                                                            int64_t);
template void perforated_conv2d_backward(const PerforatedConv2dBackwardParams<float>&);
template void perforated_conv2d_backward(const PerforatedConv2dBackwardParams<double>&);

}  // namespace cnnkern
