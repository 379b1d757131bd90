// See int8_elementwise.h: the inner loops do all of it, each thread a range of elements.
#include "cpu/int8_elementwise/int8_elementwise.h"

#include <algorithm>

#include "cpu/parallel.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

// Ranges begin at multiples of this, so that one of them alone has a rest that fills no vector.
constexpr int64_t kBlock = 1024;

template <class Params>
void in_ranges(void (*loop)(const Params&, int64_t, int64_t), const Params& p, int64_t threads) {
  parallel(threads, [&](const Worker& worker) {
    const auto [begin, end] = worker.share((p.size + kBlock - 1) / kBlock);
    loop(p, begin * kBlock, std::min(end * kBlock, p.size));
  });
}

}  // namespace

void int8_quantize(const Int8QuantizeParams& params, int64_t threads) {
  in_ranges(int8_primitives().quantize_elements, params, threads);
}

void int8_add(const Int8AddParams& params, int64_t threads) {
  in_ranges(int8_primitives().add_elements, params, threads);
}

}  // namespace cnnkern
