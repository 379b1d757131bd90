// Fused CP convolution (Lebedev et al. 2015): 1x1 (C -> R), kH x 1 and 1 x kW depthwise, 1x1 (R -> K) in one
// pass over strips of output rows. A strip's rank-R intermediates stay in cache and no intermediate map
// exists in memory:
//
//   stage 1   new rows of the strip into a ring of rows, panel by panel of the rank: (panel, ring row, W,
//   kPanel) stage 2+3 both depthwise passes of an output row while its panel is warm, into rows of pixels:
//   (pixel, R) stage 4   a matrix product whose rows are those pixels, straight into y
//
// Channel-first images are transposed row by row on the way in, and panel by panel on the way out.
#include "cpu/cp_conv2d/cp_conv2d.h"

#include "cpu/cp_conv2d/schedule.h"

namespace cnnkern {

template <class T>
int64_t cp_conv2d_scratch(const Conv2dShape& shape, int64_t rank, int64_t threads) {
  const CpPlan plan = make_cp_plan<T>(shape, rank, threads);
  return plan.shared_size + threads * plan.worker_size();
}

template <class T>
void cp_conv2d(const CpConv2dParams<T>& p) {
  const Primitives<T>& kernels = primitives<T>();
  const CpPlan plan = make_cp_plan<T>(p.shape, p.rank, p.threads);
  const Conv2dShape& s = p.shape;
  const PackedFactors factors(p.rank / s.groups, s.in_channels / s.groups, s.out_channels / s.groups,
                              s.kernel_height, s.kernel_width);
  parallel(p.threads, [&](const Worker& me) { run_stages(Stages<T>(p, plan, kernels, factors, me)); });
}

template int64_t cp_conv2d_scratch<float>(const Conv2dShape&, int64_t, int64_t);
template int64_t cp_conv2d_scratch<double>(const Conv2dShape&, int64_t, int64_t);
template void cp_conv2d(const CpConv2dParams<float>&);
template void cp_conv2d(const CpConv2dParams<double>&);

}  // namespace cnnkern
