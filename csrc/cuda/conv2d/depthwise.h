// Depthwise convolution, directly: of a matrix product with one channel to sum over nearly all would be
// padding. A thread computes some pixels of 16 bytes of channels, or, where the channels are not neighbours
// in memory, of one channel; a block has the weights of its channels in shared memory.
#pragma once
#include "cuda/conv2d/plan.h"

namespace cnnkern::cuda {

constexpr int64_t kDepthwiseThreads = 256;
constexpr int64_t kDepthwiseRun = 4;  // pixels of a thread

struct DepthwisePlan {
  bool fits = false;  // the shape is depthwise, and its taps fit into shared memory
  int64_t width = 0;  // channels of a thread
  int64_t runs = 0;   // threads for all pixels of an image
  int64_t units = 0;  // threads across the channels, in a block
  int64_t slots = 0;  // and across the pixels
  int64_t unit_blocks = 0, run_blocks = 0;
  int64_t shared_bytes = 0;
};

inline DepthwisePlan plan_depthwise(const Conv2dShape& s, Arithmetic arithmetic, const Device& device) {
  constexpr int64_t kEnoughShared = 48 << 10;  // with several blocks of a multiprocessor in mind
  DepthwisePlan p;
  if (!is_depthwise(s)) return p;
  p.width = s.channels_last ? 16 / bytes_of(arithmetic) : 1;
  p.runs = quotient_up(s.out_height * s.out_width, kDepthwiseRun);
  const int64_t all_units = quotient_up(s.out_channels, p.width);
  const int64_t unit_bytes = s.kernel_height * s.kernel_width * p.width * 4;
  const int64_t together = s.channels_last ? kDepthwiseThreads / 8 : kDepthwiseThreads;
  p.units = std::min({all_units, kDepthwiseThreads / std::min(together, p.runs),
                      std::max<int64_t>(1, kEnoughShared / unit_bytes)});
  p.slots = std::min(p.runs, kDepthwiseThreads / p.units);
  p.unit_blocks = quotient_up(all_units, p.units);
  p.run_blocks = quotient_up(p.runs, p.slots);
  p.shared_bytes = p.units * unit_bytes;
  p.fits = p.shared_bytes <= device.shared_bytes;
  return p;
}

cudaError_t conv2d_depthwise(const Conv2dCall& call, const DepthwisePlan& plan, cudaStream_t stream);

}  // namespace cnnkern::cuda
