// See peak.h.
#include "cpu/peak.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The best of as many rounds as fit: a shared machine only ever takes away.
template <class Round>
double best_rate(double seconds, const Round& round) {
  double best = 0;
  const Clock::time_point start = Clock::now();
  do {
    const Clock::time_point begin = Clock::now();
    const double work = round();
    best = std::max(best, work / since(begin));
  } while (since(start) < seconds);
  return best;
}

}  // namespace

double measure_fma_peak(int64_t threads, double seconds) {
  Isa best = Isa::scalar;
  for (int32_t i = 0; i < kIsaCount; ++i) {
    if (isa_available(static_cast<Isa>(i))) best = static_cast<Isa>(i);
  }
  const auto loop = primitives_of(best).fma_loop;
  constexpr int64_t kIterations = 200'000;
  std::vector<double> done(static_cast<size_t>(threads) * 8);  // a cache line each
  return 1e-9 * best_rate(seconds, [&] {
           std::fill(done.begin(), done.end(), 0.0);
           parallel(threads,
                    [&](const Worker& me) { done[static_cast<size_t>(me.index) * 8] = loop(kIterations); });
           double sum = 0;
           for (double flops : done) sum += flops;
           return sum;
         });
}

double measure_memory_bandwidth(int64_t threads, double seconds) {
  constexpr int64_t kCount = int64_t{64} << 20;  // 512 MiB of 8 bytes: beyond any last-level cache
  const std::unique_ptr<uint64_t[]> memory(new uint64_t[kCount]);
  parallel(threads, [&](const Worker& me) {
    const auto [begin, end] = me.share(kCount);
    std::fill(memory.get() + begin, memory.get() + end, uint64_t{1});
  });
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
  return 1e-9 * best_rate(seconds, [&] {
           parallel(threads, [&](const Worker& me) {
             const auto [begin, end] = me.share(kCount);
             uint64_t sum = 0;
             for (int64_t i = begin; i < end; ++i) sum += memory[static_cast<size_t>(i)];
             sums[static_cast<size_t>(me.index) * 8] = sum;
           });
           // Used, so that the reading is not optimized away.
           volatile uint64_t sink = sums[0];
           static_cast<void>(sink);
           return static_cast<double>(kCount) * sizeof(uint64_t);
         });
}

}  // namespace cnnkern
