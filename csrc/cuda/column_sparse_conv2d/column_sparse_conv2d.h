// Convolution with the kept columns of a pruned weight matrix, as an implicit matrix product: the summed
// index runs over a table that says which channel of which tap a kept column reads.
//
// Lebedev, Lempitsky: Fast ConvNets Using Group-wise Brain Damage, CVPR 2016.
#pragma once
#include <cuda_runtime.h>

#include "cuda/arithmetic.h"
#include "cuda/launch.h"
#include "params/column_sparse_conv2d.h"

namespace cnnkern::cuda {

// An entry of the table. They are in the order of the taps, then of the channels, so that the kept channels
// of a tap are neighbours.
struct KeptColumn {
  int32_t channel;  // of the group; -1 where the table is filled up
  int32_t tap;      // i * kW + j
};

// A packed weight: (K, columns), then the table (groups, columns).
struct PackedColumns {
  int64_t columns;       // of a group, one or more whole chunks of 16 bytes; zeros where filled up
  int64_t table_offset;  // in bytes
  int64_t bytes;

  PackedColumns(int64_t out_channels, int64_t kept, int64_t groups, int64_t number_bytes)
      : columns(((kept > 0 ? kept : 1) * number_bytes + 15) / 16 * (16 / number_bytes)),
        table_offset(out_channels * columns * number_bytes),
        bytes(table_offset + groups * columns * static_cast<int64_t>(sizeof(KeptColumn))) {}
};

struct ColumnSparsePack {
  KeptColumns kept;
  const void* weight;  // (K, kept); the caller's
  int64_t strides[2];  // of the weight, in elements
  int64_t out_channels, taps, groups, number_bytes;
  void* packed;      // PackedColumns::bytes
  int32_t* scratch;  // groups * kept values
};
cudaError_t column_sparse_conv2d_pack(const ColumnSparsePack& pack, cudaStream_t stream);

struct ColumnSparseConv2dCall {
  Conv2dShape shape;
  Arithmetic arithmetic;
  int64_t kept;        // columns of a group
  const void* x;       // dense, in the shape's layout; the caller's, like all below
  const void* packed;  // by column_sparse_conv2d_pack, 16-byte aligned; a column it names beside the image
                       // counts as zeros
  const void* bias;    // (K) or null
  void* y;             // dense, in the shape's layout
  float* scratch;      // column_sparse_conv2d_scratch values
};

// float32 values that a call needs, for partial sums.
int64_t column_sparse_conv2d_scratch(const Conv2dShape& shape, int64_t kept, Arithmetic arithmetic,
                                     const Device& device);
cudaError_t column_sparse_conv2d(const ColumnSparseConv2dCall& call, const Device& device,
                                 cudaStream_t stream);

}  // namespace cnnkern::cuda
