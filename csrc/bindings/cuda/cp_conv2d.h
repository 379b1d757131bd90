// What the bindings of the CP convolution's kernels share.
#pragma once
#include "bindings/cuda/call.h"

namespace cnnkern::cuda {

struct FactorSize {
  int64_t out_channels, rank, group_channels, kernel_height, kernel_width;
};

// Of factors (R, C/G), (R, kH), (R, kW) and (K, R/G) that fit together.
FactorSize factor_size(const Tensor& c, const Tensor& h, const Tensor& w, const Tensor& k, int64_t groups);

// The factors packed for the convolution; `reversed`: for the one from the gradient of y to that of x.
Tensor pack_factors(const Call& call, const Tensor& c, const Tensor& h, const Tensor& w, const Tensor& k,
                    int64_t groups, bool reversed);

Conv2dShape cp_conv2d_shape(const Image& x, const FactorSize& f, const Geometry& geometry);

// Throws a RuntimeError that says that one position's halo is too large for the GPU.
void check_fits(bool fits, const char* operation, const FactorSize& f);

}  // namespace cnnkern::cuda
