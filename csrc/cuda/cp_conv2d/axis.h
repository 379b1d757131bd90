// Which positions of an image a tile of positions reads, along one axis. They are numbered through; or, where
// fewer are read than lie between the first and the last, position by position of the tile and tap by tap.
#pragma once
#include <algorithm>

#include "cuda/divider.cuh"

namespace cnnkern::cuda {

constexpr int kNoPosition = -1;
constexpr int kCpTogether = 4;  // neighbouring positions that a warp computes together

// A tile of outputs reads inputs.
struct ForwardAxis {
  static constexpr bool kEveryTap = true;   // leads somewhere
  static constexpr bool kReversed = false;  // later taps lead further back

  int taps, stride, dilation, pad;
  bool by_tap;
  int of_output, of_tap;       // steps between the positions of neighbouring outputs, and taps
  int size;                    // positions that are read
  Divider by_size, by_groups;  // the latter: size in groups of kCpTogether
  int first;                   // of them, before the padding

  ForwardAxis() = default;
  ForwardAxis(int64_t tile, int64_t taps, int64_t stride, int64_t dilation, int64_t pad)
      : taps(static_cast<int>(taps)),
        stride(static_cast<int>(stride)),
        dilation(static_cast<int>(dilation)),
        pad(static_cast<int>(pad)),
        first(0) {
    const int64_t range = (tile - 1) * stride + (taps - 1) * dilation + 1;
    by_tap = tile * taps < range;
    of_output = static_cast<int>(by_tap ? taps : stride);
    of_tap = static_cast<int>(by_tap ? 1 : dilation);
    size = static_cast<int>(std::min<int64_t>({tile * taps, range, 1 << 20}));
    by_size = Divider(size);
    by_groups = Divider((size + kCpTogether - 1) / kCpTogether);
  }
  __device__ ForwardAxis of_tile(int output) const {
    ForwardAxis other = *this;
    other.first = output * stride - pad;
    return other;
  }
  // Where position `z` lies in the image, or outside of it.
  __device__ int place(int z) const { return first + (by_tap ? z / taps * stride + z % taps * dilation : z); }
  // Whether each position of the tile reads `count` neighbours, the next position those that are one further.
  __device__ bool in_windows_of(int count) const { return taps == count && stride == 1 && dilation == 1; }
  // The position that output `o` of the tile reads through `tap`.
  __device__ int position(int o, int tap) const { return o * of_output + tap * of_tap; }
};

// A tile of inputs reads the outputs that it went into.
struct BackwardAxis {
  static constexpr bool kEveryTap = false;
  static constexpr bool kReversed = true;

  int taps, stride, dilation, pad;
  Divider by_stride;
  bool by_tap;
  int size;
  Divider by_size, by_groups;  // the latter: size in groups of kCpTogether
  int first;                   // input of the tile, counted from where the padding begins

  BackwardAxis() = default;
  BackwardAxis(int64_t tile, int64_t taps, int64_t stride, int64_t dilation, int64_t pad)
      : taps(static_cast<int>(taps)),
        stride(static_cast<int>(stride)),
        dilation(static_cast<int>(dilation)),
        pad(static_cast<int>(pad)),
        by_stride(stride),
        first(0) {
    const int64_t range = (tile - 1 + (taps - 1) * dilation) / stride + 1;
    by_tap = tile * taps < range;
    size = static_cast<int>(std::min<int64_t>({tile * taps, range, 1 << 20}));
    by_size = Divider(size);
    by_groups = Divider((size + kCpTogether - 1) / kCpTogether);
  }
  __device__ BackwardAxis of_tile(int input) const {
    BackwardAxis other = *this;
    other.first = input + pad;
    return other;
  }
  __device__ int place(int z) const { return by_tap ? output(z / taps, z % taps) : lowest() + z; }
  // Whether each position of the tile reads `count` neighbours, the next position those that are one further.
  __device__ bool in_windows_of(int count) const { return taps == count && stride == 1 && dilation == 1; }
  __device__ int position(int input, int tap) const {
    if (by_tap) return input * taps + tap;
    const int found = output(input, tap);
    return found == kNoPosition ? kNoPosition : found - lowest();
  }

 private:
  // The first output that is read, if numbered through.
  __device__ int lowest() const {
    const int begin = first - (taps - 1) * dilation;  // of the output that reads furthest back
    return begin > 0 ? by_stride.quotient(begin + stride - 1) : -by_stride.quotient(-begin);
  }
  // The output that an input of the tile goes into through `tap`, if there is one where the strides lead.
  __device__ int output(int input, int tap) const {
    const int from = first + input - tap * dilation;
    if (from < 0) return kNoPosition;
    int between;
    const int found = by_stride.divide(from, between);
    return between == 0 ? found : kNoPosition;
  }
};

}  // namespace cnnkern::cuda
