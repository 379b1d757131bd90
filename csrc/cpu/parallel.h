// The one place that hands out work. The threads are those of the process's OpenMP pool, which is torch's
// own.
#pragma once
#include <omp.h>

#include <cstdint>

namespace cnnkern {

// A member of the team that runs a parallel region.
struct Worker {
  int64_t index;
  int64_t count;

  struct Range {
    int64_t begin;
    int64_t end;
  };
  // This worker's share of `items`, as even and as contiguous as can be; the same for the same count.
  Range share(int64_t items) const { return {items * index / count, items * (index + 1) / count}; }

  // Waits for the whole team. Every member must call it equally often.
  void barrier() const {
    if (count == 1)
      return;  // which may be inside a region of somebody else's, whose threads do not come here
#pragma omp barrier
  }
};

// Runs `body(worker)` on at most `threads` threads, with fewer where the runtime gives fewer.
template <class Body>
void parallel(int64_t threads, const Body& body) {
  if (threads <= 1 || omp_in_parallel()) {
    body(Worker{0, 1});
    return;
  }
#pragma omp parallel num_threads(static_cast<int>(threads))
  body(Worker{omp_get_thread_num(), omp_get_num_threads()});
}

}  // namespace cnnkern
