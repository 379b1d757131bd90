#include "cuda/column_sparse_conv2d/column_sparse_conv2d.h"

#include "cuda/column_sparse_conv2d/kernels.h"
#include "cuda/device.cuh"
#include "cuda/scan.cuh"

namespace cnnkern::cuda {
namespace {

constexpr int kArrangeThreads = 256;

// The part of the table that is about one tap, by one block; and where each column went. Nothing is trusted
// about the indices but that they increase.
__global__ void __launch_bounds__(kArrangeThreads)
    arrange_columns(const int32_t* index, int count, int taps, int columns, KeptColumn* table,
                    int32_t* position) {
  auto* const sums = reinterpret_cast<int*>(shared_memory());
  const auto group = static_cast<int64_t>(blockIdx.x) / taps;
  const unsigned tap = blockIdx.x % taps, thread = threadIdx.x;
  index += group * count, position += group * count, table += group * columns;
  const int share = (count + kArrangeThreads - 1) / kArrangeThreads;
  const int first = min(count, static_cast<int>(thread) * share), last = min(count, first + share);
  const auto tap_of = [&](int column) { return static_cast<unsigned>(index[column]) % taps; };
  int of_earlier_taps = 0, of_this = 0;
  for (int i = first; i < last; ++i) {
    of_earlier_taps += tap_of(i) < tap;
    of_this += tap_of(i) == tap;
  }
  int begin, total;
  sum_before<kArrangeThreads>(of_earlier_taps, sums, begin);
  int at = begin + sum_before<kArrangeThreads>(of_this, sums, total);
  for (int i = first; i < last; ++i) {
    if (tap_of(i) != tap) continue;
    table[at] = {static_cast<int32_t>(static_cast<unsigned>(index[i]) / taps), static_cast<int32_t>(tap)};
    position[i] = at++;
  }
  if (tap != static_cast<unsigned>(taps) - 1) return;
  for (int i = count + static_cast<int>(thread); i < columns; i += kArrangeThreads) table[i] = {-1, 0};
}

// T has the size of the numbers: nothing is computed with them, and zero bits are a zero.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    pack_columns(const T* weight, const __grid_constant__ ColumnSparsePack pack, int64_t columns,
                 const int32_t* position, T* packed) {
  const int64_t i = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (i >= pack.out_channels * columns) return;
  const int64_t row = i / columns, column = i % columns, count = pack.kept.count;
  if (column >= count) {
    packed[i] = T{};
    return;
  }
  const int64_t group = row / (pack.out_channels / pack.groups);
  packed[row * columns + position[group * count + column]] =
      weight[row * pack.strides[0] + column * pack.strides[1]];
}

template <class T>
cudaError_t launch_pack(const ColumnSparsePack& pack, int64_t columns, cudaStream_t stream) {
  return launch_elements(pack_columns<T>, pack.out_channels * columns, stream,
                         static_cast<const T*>(pack.weight), pack, columns, pack.scratch,
                         static_cast<T*>(pack.packed));
}

Conv2dPlan plan_of(const Conv2dShape& s, int64_t kept, Arithmetic arithmetic, const Device& device) {
  const int64_t bytes = bytes_of(arithmetic);
  const int64_t depth = PackedColumns(s.out_channels, kept, s.groups, bytes).columns;
  return plan_product(s.batch * s.out_height * s.out_width, s.out_channels / s.groups, s.groups,
                      quotient_up(depth * bytes, 128), device.multiprocessors);
}

}  // namespace

cudaError_t column_sparse_conv2d_pack(const ColumnSparsePack& pack, cudaStream_t stream) {
  const PackedColumns to(pack.out_channels, pack.kept.count, pack.groups, pack.number_bytes);
  auto* const table =
      reinterpret_cast<KeptColumn*>(static_cast<unsigned char*>(pack.packed) + to.table_offset);
  const cudaError_t error =
      launch(arrange_columns, pack.groups * pack.taps, kArrangeThreads, kArrangeThreads * sizeof(int), stream,
             pack.kept.index, static_cast<int>(pack.kept.count), static_cast<int>(pack.taps),
             static_cast<int>(to.columns), table, pack.scratch);
  if (error != cudaSuccess) return error;
  return pack.number_bytes == 2 ? launch_pack<uint16_t>(pack, to.columns, stream)
                                : launch_pack<uint32_t>(pack, to.columns, stream);
}

int64_t column_sparse_conv2d_scratch(const Conv2dShape& shape, int64_t kept, Arithmetic arithmetic,
                                     const Device& device) {
  const Conv2dPlan plan = plan_of(shape, kept, arithmetic, device);
  const int64_t size = shape.batch * shape.out_channels * shape.out_height * shape.out_width;
  return plan.splits > 1 ? plan.splits * size : 0;
}

cudaError_t column_sparse_conv2d(const ColumnSparseConv2dCall& call, const Device& device,
                                 cudaStream_t stream) {
  const Conv2dPlan plan = plan_of(call.shape, call.kept, call.arithmetic, device);
  switch (call.arithmetic) {
    case Arithmetic::kFloat32:
      return column_sparse_conv2d_float32(call, plan, stream);
    case Arithmetic::kTf32:
      return column_sparse_conv2d_tf32(call, plan, stream);
    case Arithmetic::kFloat16:
      return column_sparse_conv2d_float16(call, plan, stream);
    case Arithmetic::kBfloat16:
      return column_sparse_conv2d_bfloat16(call, plan, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace cnnkern::cuda
