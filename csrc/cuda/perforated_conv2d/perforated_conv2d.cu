#include "cuda/perforated_conv2d/perforated_conv2d.h"

#include "cuda/device.cuh"
#include "cuda/numbers.cuh"
#include "cuda/perforated_conv2d/kept_outputs.cuh"
#include "cuda/perforated_conv2d/kernels.h"
#include "cuda/scan.cuh"

namespace cnnkern::cuda {
namespace {

constexpr int kScanThreads = 256;

// The kept outputs before each image, and of all, by one block.
__global__ void __launch_bounds__(kScanThreads)
    count_images(const __grid_constant__ KeptRows kept, int64_t* begin) {
  auto* const sums = reinterpret_cast<int64_t*>(shared_memory());
  const int64_t share = (kept.images + kScanThreads - 1) / kScanThreads;
  const int64_t first = min(kept.images, threadIdx.x * share), last = min(kept.images, first + share);
  int64_t count = 0, total;
  for (int64_t image = first; image < last; ++image) count += kept.count_of(image);
  int64_t before = sum_before<kScanThreads>(count, sums, total);
  for (int64_t image = first; image < last; ++image) {
    begin[image] = before;
    before += kept.count_of(image);
  }
  if (threadIdx.x == 0) begin[kept.images] = total;
}

// One element of the folded gradient for each thread, in the order of memory, positions as they are listed.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    fold(const __grid_constant__ KeptRows kept, int64_t channels, bool channels_last, const T* grad,
         T* folded) {
  const int64_t i = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (i >= kept.all() * channels) return;
  const int64_t plane = channels_last ? i / channels : i / kept.area;
  const int64_t channel = channels_last ? i % channels : plane % channels;
  const int64_t image = channels_last ? plane / kept.area : plane / channels;
  const auto index = static_cast<int>(channels_last ? plane % kept.area : i % kept.area);
  const KeptRows::Row row = kept.row_of(image, index);
  const auto at = [&](int64_t position) {
    return image * kept.area * channels +
           (channels_last ? position * channels + channel : channel * kept.area + position);
  };
  float sum = 0;
  const int own = row.kept ? kept.position(row) : -1;
  kept.visit(row, [&](int position) {
    sum += to_float(grad[at(position)]);
    if (position != own) folded[at(position)] = from_float<T>(0);
  });
  if (own >= 0) folded[at(own)] = from_float<T>(sum);
}

template <class T>
cudaError_t launch_fold(const Conv2dShape& s, const Arranged& arranged, const void* grad, void* folded,
                        cudaStream_t stream) {
  const KeptRows kept(s, arranged, nullptr);
  return launch_elements(fold<T>, kept.all() * s.out_channels, stream, kept, s.out_channels, s.channels_last,
                         static_cast<const T*>(grad), static_cast<T*>(folded));
}

// How many outputs are kept only the GPU knows: the tiles are chosen for half of them.
Conv2dPlan plan_of(const Conv2dShape& s, Arithmetic arithmetic, const Device& device) {
  const int64_t depth =
      s.kernel_height * s.kernel_width * rounded_up(s.in_channels / s.groups, 16 / bytes_of(arithmetic));
  return plan_product(quotient_up(s.batch * s.out_height * s.out_width, 2), s.out_channels / s.groups,
                      s.groups, quotient_up(depth * bytes_of(arithmetic), 128), device.multiprocessors);
}

}  // namespace

int64_t perforated_conv2d_scratch(const Conv2dShape& shape, Arithmetic arithmetic, const Device& device) {
  const Conv2dPlan plan = plan_of(shape, arithmetic, device);
  const int64_t size = shape.batch * shape.out_channels * shape.out_height * shape.out_width;
  return plan.splits > 1 ? plan.splits * size : 0;
}

cudaError_t count_kept(const Conv2dShape& shape, const Arranged& arranged, int64_t* begin,
                       cudaStream_t stream) {
  const KeptRows kept(shape, arranged, nullptr);
  return launch(count_images, 1, kScanThreads, kScanThreads * sizeof(int64_t), stream, kept, begin);
}

cudaError_t perforated_conv2d(const PerforatedConv2dCall& call, const Device& device, cudaStream_t stream) {
  if (call.arranged.each_image)
    if (const cudaError_t error = count_kept(call.shape, call.arranged, call.begin, stream)) return error;
  const Conv2dPlan plan = plan_of(call.shape, call.arithmetic, device);
  switch (call.arithmetic) {
    case Arithmetic::kFloat32:
      return perforated_conv2d_float32(call, plan, stream);
    case Arithmetic::kTf32:
      return perforated_conv2d_tf32(call, plan, stream);
    case Arithmetic::kFloat16:
      return perforated_conv2d_float16(call, plan, stream);
    case Arithmetic::kBfloat16:
      return perforated_conv2d_bfloat16(call, plan, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t perforated_conv2d_fold(const Conv2dShape& shape, Arithmetic arithmetic, const Arranged& arranged,
                                   const void* grad, void* folded, cudaStream_t stream) {
  switch (arithmetic) {
    case Arithmetic::kFloat16:
      return launch_fold<Half>(shape, arranged, grad, folded, stream);
    case Arithmetic::kBfloat16:
      return launch_fold<Bfloat16>(shape, arranged, grad, folded, stream);
    default:
      return launch_fold<float>(shape, arranged, grad, folded, stream);
  }
}

}  // namespace cnnkern::cuda
