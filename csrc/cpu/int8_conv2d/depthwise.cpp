// See depthwise.h. The pixels of a band hold one value for every output channel (repeated where K > C), up to
// whole panels, so that a panel of 16 output channels is 16 adjacent values at every tap.
#include "cpu/int8_conv2d/depthwise.h"

#include <algorithm>
#include <cstring>

#include "cpu/int8_conv2d/epilogue.h"
#include "cpu/int8_conv2d/strip.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"
#include "cpu/strip.h"

namespace cnnkern {
namespace {

struct Plan {
  int64_t out_rows;                                                    // of a band
  int64_t bands;                                                       // of an image
  int64_t channels;                                                    // of a pixel of the band
  int64_t shared_size, offsets_size, band_size, line_size, tile_size;  // in bytes
  int64_t worker_size() const { return offsets_size + band_size + line_size + tile_size; }
};

Plan make_plan(const Conv2dShape& s, Int8Output output, int64_t threads) {
  constexpr int64_t kAlign = 64;
  Plan plan{};
  plan.channels = round_up(s.out_channels, kPanel);
  const int64_t row = strip_width(s) * plan.channels;
  const int64_t fit = std::max<int64_t>(1, level2_cache_bytes() / 2 / (row * s.stride_height));
  int64_t bands = (s.out_height + fit - 1) / fit;
  if (s.batch % threads != 0 && s.batch < 8 * threads)
    bands = std::min(s.out_height, round_up(bands, threads));
  plan.out_rows = (s.out_height + bands - 1) / bands;
  plan.bands = (s.out_height + plan.out_rows - 1) / plan.out_rows;
  plan.shared_size = round_up(int8_epilogue_size(plan.channels), kAlign);
  plan.offsets_size = round_up(s.kernel_height * s.kernel_width * int64_t{sizeof(int64_t)}, kAlign);
  plan.band_size = round_up(strip_rows(s, plan.out_rows) * row, kAlign);
  plan.line_size = round_up(s.in_width * s.in_channels, kAlign);
  plan.tile_size = s.channels_last
                       ? 0
                       : round_up(plan.out_rows * s.out_width * kPanel * int8_output_bytes(output), kAlign);
  return plan;
}

// Row `row` of an image to `to`, (strip_width, channels) bytes xor `flip`.
void fill_row(const Int8Primitives& kernels, const Conv2dShape& s, int64_t channels, const uint8_t* x,
              int64_t row, uint8_t pad, uint8_t flip, uint8_t* line, uint8_t* to) {
  const int64_t width = strip_width(s), left = std::min(s.pad_width, width);
  const int64_t right = std::clamp(s.in_width + s.pad_width, left, width);
  const bool inside = row >= 0 && row < s.in_height;
  std::memset(to, pad, static_cast<size_t>((inside ? left : width) * channels));
  if (inside) {
    std::memset(to + right * channels, pad, static_cast<size_t>((width - right) * channels));
    const uint8_t* from = x + row * s.in_width * s.in_channels;
    if (!s.channels_last) {
      const int64_t area = s.in_height * s.in_width;
      kernels.transpose(x + row * s.in_width, area, s.in_channels, right - left, line, s.in_channels);
      from = line;
    }
    const int64_t multiplier = s.out_channels / s.in_channels;
    uint8_t* at = to + left * channels;
    for (int64_t i = left; i < right; ++i, from += s.in_channels, at += channels) {
      if (multiplier == 1) {
        std::memcpy(at, from, static_cast<size_t>(s.in_channels));
      } else {
        for (int64_t c = 0; c < s.in_channels; ++c) std::fill_n(at + c * multiplier, multiplier, from[c]);
      }
      std::fill(at + s.out_channels, at + channels, uint8_t{0});
    }
  }
  int8_flip(to, width * channels, flip);
}

void run(const Int8Conv2dParams& p, const Int8Primitives& kernels, const Plan& plan, const Int8Epilogue& e,
         const Worker& me) {
  const Conv2dShape& s = p.shape;
  uint8_t* const base = p.scratch + plan.shared_size + me.index * plan.worker_size();
  int64_t* const offsets = reinterpret_cast<int64_t*>(base);
  uint8_t* const band = base + plan.offsets_size;
  uint8_t* const line = band + plan.band_size;
  uint8_t* const tile = line + plan.line_size;
  const int64_t pitch = strip_width(s) * plan.channels, area = s.out_height * s.out_width;
  const int64_t taps = s.kernel_height * s.kernel_width, bytes = int8_output_bytes(p.output);
  for (int64_t t = 0; t < taps; ++t) {
    offsets[t] = t / s.kernel_width * s.dilation_height * pitch +
                 t % s.kernel_width * s.dilation_width * plan.channels;
  }
  const uint8_t flip = p.x_signed ? 0x80 : 0, pad = static_cast<uint8_t>(p.x_zero_point);
  const auto [begin, end] = me.share(s.batch * plan.bands);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t image = i / plan.bands, first = i % plan.bands * plan.out_rows;
    const int64_t rows = std::min(plan.out_rows, s.out_height - first);
    const uint8_t* const x = p.x + image * s.in_channels * s.in_height * s.in_width;
    for (int64_t r = 0; r < strip_rows(s, rows); ++r)
      fill_row(kernels, s, plan.channels, x, first * s.stride_height - s.pad_height + r, pad, flip, line,
               band + r * pitch);
    for (int64_t channel = 0; channel < s.out_channels; channel += kPanel) {
      const int64_t channels = std::min(kPanel, s.out_channels - channel);
      const int64_t at = s.channels_last ? (image * area + first * s.out_width) * s.out_channels + channel
                                         : (image * s.out_channels + channel) * area + first * s.out_width;
      uint8_t* const y = static_cast<uint8_t*>(p.y) + at * bytes;
      Int8DepthwiseLine d{};
      d.x_pixel = s.stride_width * plan.channels;
      d.tap_offset = offsets;
      d.taps = taps;
      d.weight = p.packed + channel * taps;
      d.out_width = s.out_width;
      d.out_pixel = s.channels_last ? s.out_channels : kPanel;
      d.channels = channels;
      d.epilogue = from_column(e, channel);
      for (int64_t row = 0; row < rows; ++row) {
        d.x = band + row * s.stride_height * pitch + channel;
        d.out = (s.channels_last ? y : tile) + row * s.out_width * d.out_pixel * bytes;
        kernels.depthwise_line(d);
      }
      if (s.channels_last) continue;
      if (bytes == 1) {
        kernels.transpose(tile, kPanel, rows * s.out_width, channels, y, area);
      } else {
        primitives<float>().transpose(reinterpret_cast<float*>(tile), kPanel, rows * s.out_width, channels,
                                      reinterpret_cast<float*>(y), area);
      }
    }
  }
}

}  // namespace

int64_t int8_depthwise_scratch(const Conv2dShape& shape, Int8Output output, int64_t threads) {
  const Plan plan = make_plan(shape, output, threads);
  return plan.shared_size + threads * plan.worker_size();
}

void int8_depthwise(const Int8Primitives& kernels, const Int8Conv2dParams& p) {
  const Plan plan = make_plan(p.shape, p.output, p.threads);
  const Int8Epilogue e =
      int8_epilogue(p, Int8Weight::of(p.shape, nullptr), p.x_zero_point + (p.x_signed ? 128 : 0), p.scratch);
  parallel(p.threads, [&](const Worker& me) { run(p, kernels, plan, e, me); });
}

}  // namespace cnnkern
