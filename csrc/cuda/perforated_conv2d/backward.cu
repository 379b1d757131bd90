#include "cuda/perforated_conv2d/backward.h"

#include "cuda/divider.cuh"
#include "cuda/perforated_conv2d/kept_outputs.cuh"
#include "cuda/perforated_conv2d/kernels.h"

namespace cnnkern::cuda {
namespace {

__global__ void __launch_bounds__(kElementThreads)
    list_places(const __grid_constant__ KeptRows kept, const __grid_constant__ Divider by_width, int64_t size,
                KeptPlace* places) {
  const int64_t i = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (i >= size) return;
  KeptPlace place{-1, 0, 0};
  if (const int64_t count = kept.count(); i < count) {
    const KeptRows::Row row = kept.row(i, count);
    if (const int position = kept.position(row); position >= 0) {
      place.image = row.image;
      place.y = by_width.divide(position, place.x);
    }
  }
  places[i] = place;
}

// Half of the outputs, for all that the CPU knows.
Conv2dPlan plan_of(const Conv2dShape& s, Arithmetic arithmetic, const Device& device) {
  const int64_t columns = s.in_channels / s.groups * s.kernel_height * s.kernel_width;
  const int64_t terms = quotient_up(s.batch * s.out_height * s.out_width, 2);
  return plan_product(s.out_channels / s.groups, columns, s.groups,
                      quotient_up(terms * bytes_of(arithmetic), 128), device.multiprocessors);
}

}  // namespace

int64_t perforated_conv2d_backward_scratch(const Conv2dShape& s, Arithmetic arithmetic,
                                           const Device& device) {
  const Conv2dPlan plan = plan_of(s, arithmetic, device);
  const int64_t size = s.out_channels * (s.in_channels / s.groups) * s.kernel_height * s.kernel_width;
  return plan.splits > 1 ? plan.splits * size : 0;
}

cudaError_t perforated_conv2d_backward(const PerforatedBackwardCall& call, const Device& device,
                                       cudaStream_t stream) {
  const Conv2dShape& s = call.shape;
  if (call.arranged.each_image)
    if (const cudaError_t error = count_kept(s, call.arranged, call.begin, stream)) return error;
  const KeptRows kept(s, call.arranged, call.arranged.each_image ? call.begin : nullptr);
  const int64_t size = kept_places(s);
  if (const cudaError_t error =
          launch_elements(list_places, size, stream, kept, Divider(s.out_width), size, call.places))
    return error;
  const Conv2dPlan plan = plan_of(s, call.arithmetic, device);
  switch (call.arithmetic) {
    case Arithmetic::kFloat32:
      return perforated_conv2d_backward_float32(call, plan, stream);
    case Arithmetic::kTf32:
      return perforated_conv2d_backward_tf32(call, plan, stream);
    case Arithmetic::kFloat16:
      return perforated_conv2d_backward_float16(call, plan, stream);
    case Arithmetic::kBfloat16:
      return perforated_conv2d_backward_bfloat16(call, plan, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace cnnkern::cuda
