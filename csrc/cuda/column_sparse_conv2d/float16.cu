#include "cuda/column_sparse_conv2d/forward.cuh"

namespace cnnkern::cuda {

cudaError_t column_sparse_conv2d_float16(const ColumnSparseConv2dCall& call, const Conv2dPlan& plan,
                                         cudaStream_t stream) {
  return column_sparse_conv2d_forward<Float16Math>(call, plan, stream);
}

}  // namespace cnnkern::cuda
