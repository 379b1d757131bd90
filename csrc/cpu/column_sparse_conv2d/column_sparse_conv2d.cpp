// Column-sparse convolution: the kept values of the patches meet the kept weights in a dense product. Nothing
// dense is formed, and the sum over k runs over the kept columns alone.
//
// A channels-last image is read where it lies, through a table of offsets, as indirect convolution does
// (Dukhan 2019); rectangles of outputs (conv2d/rectangles.h) leave out the columns that meet its padding.
// Where few columns are kept of many channels, the cache lines that hold them would be read again for every
// 32 output channels; their patches are gathered into rows first. A channel-first image is gathered into
// panels of pixels, adjacent ones of a channel being adjacent in memory, and what is computed is y as it will
// lie; or, where it is small for what is computed, made channels last in a strip, as the dense convolution
// does.
#include "cpu/column_sparse_conv2d/column_sparse_conv2d.h"

#include "cpu/column_sparse_conv2d/plan.h"
#include "cpu/parallel.h"

namespace cnnkern {
namespace {

// What is left where there are no columns.
template <class T>
void write_bias(const ColumnSparseConv2dParams<T>& p) {
  const Conv2dShape& s = p.shape;
  const int64_t area = s.out_height * s.out_width;
  parallel(p.threads, [&](const Worker& me) {
    const auto [begin, end] = me.share(s.batch * area * s.out_channels);
    for (int64_t i = begin; i < end; ++i)
      p.y[i] = p.bias ? p.bias[(s.channels_last ? i : i / area) % s.out_channels] : T(0);
  });
}

}  // namespace

template <class T>
int64_t column_sparse_conv2d_scratch(const Conv2dShape& shape, int64_t kept, int64_t threads) {
  if (kept == 0) return 0;
  const Plan plan = make_plan<T>(shape, kept, threads);
  return plan.tables_size + threads * plan.worker_size();
}

template <class T>
void column_sparse_conv2d(const ColumnSparseConv2dParams<T>& p) {
  if (p.kept.count == 0) return write_bias(p);
  const Plan plan = make_plan<T>(p.shape, p.kept.count, p.threads);
  const Work<T> shared{primitives<T>(), p, plan, nullptr};
  for (int64_t g = 0; g < p.shape.groups; ++g)
    shared.patches(g).fill(shared.table_shape(), p.kept.index + g * p.kept.count, g, plan.blocks,
                           shared.window());
  parallel(p.threads, [&](const Worker& me) {
    const Work<T> work{shared.kernels, p, plan, p.scratch + plan.tables_size + me.index * plan.worker_size()};
    const auto [begin, end] = me.share(work_items(plan, p.shape));
    plan.way == Way::panels ? compute_panels(work, begin, end) : compute_rows(work, begin, end);
  });
}

template int64_t column_sparse_conv2d_scratch<float>(const Conv2dShape&, int64_t, int64_t);
template int64_t column_sparse_conv2d_scratch<double>(const Conv2dShape&, int64_t, int64_t);
template void column_sparse_conv2d(const ColumnSparseConv2dParams<float>&);
template void column_sparse_conv2d(const ColumnSparseConv2dParams<double>&);

}  // namespace cnnkern
