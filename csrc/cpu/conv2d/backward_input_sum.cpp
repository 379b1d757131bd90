// The gradient of a convolution's input where the output is much smaller than the input (a large kernel
// without padding, a stride beyond the kernel): every pixel of the output's gradient is multiplied with every
// tap and added to the pixel that the tap came from. Turned round into a convolution, most of the products
// would be with padding.
//
// A work item is some images against a range of input channels, two panels at a time so that what is added to
// stays in the cache. Of images, rows and columns the most numerous ones become the rows of the product's
// tile.
#include <algorithm>

#include "cpu/conv2d/backward.h"
#include "cpu/conv2d/backward_pack.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

constexpr int64_t kPixels =
    256;  // of the output's gradient at once: enough for the weights to be read rarely
constexpr int64_t kColumnsAtOnce = 2 * kPanel;

struct Plan {
  int64_t images, image_groups;
  int64_t splits;  // of a group's input channels
  int64_t group_columns, group_depth;
  // Elements of the packed weight, and of one worker's scratch in this order.
  int64_t packed_size, grad_size, tile_size;
  int64_t worker_size() const { return grad_size + tile_size; }
};

// The weight has one phase here, whatever the stride.
Conv2dShape one_phase(Conv2dShape s) {
  s.stride_height = s.stride_width = 1;
  return s;
}

Plan make_plan(const Conv2dShape& s, int64_t threads) {
  Plan plan{};
  const int64_t area = s.out_height * s.out_width;
  plan.group_columns = s.in_channels / s.groups;
  plan.group_depth = s.out_channels / s.groups;
  plan.images = std::clamp<int64_t>(kPixels / area, 1, (s.batch + threads - 1) / threads);
  plan.image_groups = (s.batch + plan.images - 1) / plan.images;
  plan.splits = plan.image_groups % threads == 0 || plan.image_groups > 4 * threads
                    ? 1
                    : std::min(threads, panels(plan.group_columns));
  plan.packed_size = taps_packed_size(s, s.kernel_height * s.kernel_width);
  plan.grad_size = s.channels_last ? 0 : round_up(plan.images * area * s.out_channels, kPanel);
  plan.tile_size = s.channels_last ? 0 : plan.images * s.in_height * s.in_width * kColumnsAtOnce;
  return plan;
}

// One of the three axes of a product's rows: how many, and how far apart they are in A and in C.
struct Axis {
  int64_t count, a, c;
};

// The output rows (or columns) whose tap at distance `reach` from the first lies inside the input.
struct Inside {
  int64_t first, count;
};

Inside inside(int64_t reach, int64_t pad, int64_t stride, int64_t in_size, int64_t out_size) {
  const int64_t first =
      std::clamp<int64_t>(pad > reach ? (pad - reach + stride - 1) / stride : 0, 0, out_size);
  const int64_t room = in_size - 1 + pad - reach;
  return {first, std::max<int64_t>(0, std::min(out_size, room < 0 ? 0 : room / stride + 1) - first)};
}

// Adds all taps' products of some images to `to`, (images, H, W) with `pixel` elements from one pixel to the
// next. `weight` is at the columns' first panel.
template <class T>
void add_taps(const Primitives<T>& kernels, const Conv2dShape& s, const Plan& plan, const T* grad,
              const T* weight, int64_t images, int64_t columns, T* to, int64_t pixel) {
  const int64_t taps = s.kernel_height * s.kernel_width;
  Gemm<T> gemm{};
  gemm.patch = Patch::line(plan.group_depth);
  gemm.b_panel = taps * plan.group_depth * kPanel;
  gemm.b_step = kPanel;
  gemm.c_panel = kPanel;
  gemm.columns = columns;
  gemm.accumulate = true;
  for (int64_t t = 0; t < taps; ++t) {
    const int64_t down = t / s.kernel_width * s.dilation_height,
                  across = t % s.kernel_width * s.dilation_width;
    const Inside y = inside(down, s.pad_height, s.stride_height, s.in_height, s.out_height);
    const Inside x = inside(across, s.pad_width, s.stride_width, s.in_width, s.out_width);
    if (y.count == 0 || x.count == 0) continue;
    Axis axes[] = {{x.count, s.out_channels, s.stride_width * pixel},
                   {y.count, s.out_width * s.out_channels, s.stride_height * s.in_width * pixel},
                   {images, s.out_height * s.out_width * s.out_channels, s.in_height * s.in_width * pixel}};
    std::sort(axes, axes + 3, [](const Axis& left, const Axis& right) { return left.count > right.count; });
    gemm.a = grad + (y.first * s.out_width + x.first) * s.out_channels;
    gemm.b = weight + (taps - 1 - t) * plan.group_depth * kPanel;
    gemm.c = to + ((y.first * s.stride_height + down - s.pad_height) * s.in_width + x.first * s.stride_width +
                   across - s.pad_width) *
                      pixel;
    gemm.pixels = axes[0].count;
    gemm.a_pixel = axes[0].a;
    gemm.c_pixel = axes[0].c;
    gemm.lines = axes[1].count;
    gemm.a_line = axes[1].a;
    gemm.c_line = axes[1].c;
    gemm.planes = axes[2].count;
    gemm.a_plane = axes[2].a;
    gemm.c_plane = axes[2].c;
    kernels.gemm(gemm);
  }
}

template <class T>
void run(const Conv2dBackwardParams<T>& p, const Primitives<T>& kernels, const Plan& plan, const Worker& me) {
  const Conv2dShape& s = p.shape;
  T* const staged = p.scratch + plan.packed_size + me.index * plan.worker_size();
  T* const tile = staged + plan.grad_size;
  const int64_t area = s.in_height * s.in_width, out_area = s.out_height * s.out_width;
  const int64_t column_panels = panels(plan.group_columns);
  const int64_t panel_size = s.kernel_height * s.kernel_width * plan.group_depth * kPanel;
  const auto [begin, end] = me.share(plan.image_groups * plan.splits);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t split = item / plan.image_groups, image = item % plan.image_groups * plan.images;
    const int64_t images = std::min(plan.images, s.batch - image);
    const T* grad = p.grad + image * out_area * s.out_channels;
    if (!s.channels_last) {
      for (int64_t i = 0; i < images; ++i) {
        const int64_t offset = i * out_area * s.out_channels;
        kernels.transpose(grad + offset, out_area, s.out_channels, out_area, staged + offset, s.out_channels);
      }
      grad = staged;
    }
    const int64_t last = std::min(plan.group_columns, column_panels * (split + 1) / plan.splits * kPanel);
    for (int64_t group = 0; group < s.groups; ++group) {
      const T* const from = grad + group * plan.group_depth;
      for (int64_t column = column_panels * split / plan.splits * kPanel; column < last;
           column += kColumnsAtOnce) {
        const int64_t columns = std::min(kColumnsAtOnce, last - column),
                      channel = group * plan.group_columns + column;
        const T* const weight = p.scratch + (group * column_panels + column / kPanel) * panel_size;
        T* const grad_x = p.grad_x + image * area * s.in_channels;
        if (s.channels_last) {
          for (int64_t i = 0; i < images * area; ++i)
            std::fill_n(grad_x + i * s.in_channels + channel, columns, T(0));
          add_taps(kernels, s, plan, from, weight, images, columns, grad_x + channel, s.in_channels);
          continue;
        }
        std::fill_n(tile, images * area * kColumnsAtOnce, T(0));
        add_taps(kernels, s, plan, from, weight, images, columns, tile, kColumnsAtOnce);
        for (int64_t i = 0; i < images; ++i) {
          kernels.transpose(tile + i * area * kColumnsAtOnce, kColumnsAtOnce, area, columns,
                            grad_x + (i * s.in_channels + channel) * area, area);
        }
      }
    }
  }
}

}  // namespace

template <class T>
int64_t backward_input_sum_scratch(const Conv2dShape& s, int64_t threads) {
  const Plan plan = make_plan(s, threads);
  return plan.packed_size + std::max(threads * plan.worker_size(), taps_pack_scratch<T>(s, threads));
}

template <class T>
void backward_input_sum(const Conv2dBackwardParams<T>& p) {
  const Primitives<T>& kernels = primitives<T>();
  const Plan plan = make_plan(p.shape, p.threads);
  pack_taps(one_phase(p.shape), p.weight, p.scratch, p.scratch + plan.packed_size, p.threads);
  parallel(p.threads, [&](const Worker& me) { run(p, kernels, plan, me); });
}

template int64_t backward_input_sum_scratch<float>(const Conv2dShape&, int64_t);
template int64_t backward_input_sum_scratch<double>(const Conv2dShape&, int64_t);
template void backward_input_sum(const Conv2dBackwardParams<float>&);
template void backward_input_sum(const Conv2dBackwardParams<double>&);

}  // namespace cnnkern
