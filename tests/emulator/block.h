// One block of a launch: its threads as fibers, their schedule, barriers, warp collectives and shared memory.
// Blocks run one after the other on the calling thread.
//
// What it finds: barriers and collectives that not all threads reach, shared memory that is read before it is
// written (it starts as NaN) or beyond its end, asynchronous copies that nobody waited for, and of the
// products of warpgroups what products.h says. Under AddressSanitizer every access out of bounds; under
// ThreadSanitizer every race, since only what synchronizes threads on a GPU counts as synchronization.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {

constexpr unsigned kWarpSize = 32, kMostThreads = 1024;
constexpr size_t kMostSharedBytes = 232448, kUnaskedSharedBytes = 49152;

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// Throws an Error that names the block and thread.
[[noreturn]] void fail(const std::string& what);

struct Copy {
  void* to;
  const void* from;
  unsigned bytes;
  bool present;
};

enum class State : uint8_t { kReady, kAtCollective, kAtBarrier, kDone };

struct Thread {
  Fiber fiber;
  uint3 index{};
  unsigned number = 0;  // within the block
  State state = State::kDone;
  // The collective that it waits in.
  int operation = 0;
  uint32_t mask = 0;
  void* argument = nullptr;
  // Asynchronous copies: groups under way, and copies that are in no group yet. They live on the fiber's
  // stack.
  struct Copies* copies = nullptr;
  struct Products* products = nullptr;  // those of a warpgroup, and there too
  uint32_t publications = 0;            // of its writes to shared memory

  unsigned lane() const { return number % kWarpSize; }
  unsigned warp() const { return number / kWarpSize; }
};

struct Copies {
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
};

struct Warp {
  uint32_t arrived = 0;
  unsigned epoch = 0;
  uint64_t products = 0;    // what it has started of its warpgroup's products, in a number
  char synchronization[2];  // ThreadSanitizer's handles of this and the last collective
};

struct Schedule {
  uint64_t seed = 0;   // 0: in order; else shuffled
  bool eager = false;  // copies and a warpgroup's products happen when they are started; else when waited for
  bool mma = true, wgmma = true;  // the instructions that there are
};

class Block {
 public:
  // Runs body(argument) in all threads; an empty string, or what went wrong.
  std::string run(dim3 size, uint3 index, size_t shared_bytes, Schedule schedule, void (*body)(void*),
                  void* argument);

  void synchronize();
  // All lanes of `mask` arrive with the same operation and an argument each; the last one calls run() with
  // the arguments of all, and then all go on. `synchronizes`: memory too.
  template <class Argument, class Run>
  void collective(int operation, uint32_t mask, Argument* argument, const Run& run,
                  bool synchronizes = false);

  unsigned char* shared_memory() const { return shared_; }
  uint32_t shared_address(const void* pointer) const;

  // Products of a warpgroup see what a thread wrote once that thread has published it after writing.
  void note_write(const void* chunk);
  void publish() { ++current_->publications; }
  bool is_published(uint32_t address) const;
  // That the warp of the running thread has started a product.
  void note_product(uint64_t what);

  Thread& current() { return *current_; }
  bool running() const { return current_ != nullptr; }

  uint3 index{};
  Schedule schedule;

 private:
  static void thread_main();
  void finish_thread();
  void prepare_threads(dim3 size);
  void prepare_shared_memory(size_t bytes);
  void switch_to(Fiber& to, bool ends = false);
  void make_ready(unsigned thread);
  Thread* next();
  void wait();      // gives way until somebody makes this thread ready
  void give_way();  // in a shuffled schedule, whoever arrives last need not go on first
  std::string deadlock() const;
  std::string split_warpgroup() const;

  Thread threads_[kMostThreads];
  Warp warps_[kMostThreads / kWarpSize];
  unsigned count_ = 0, alive_ = 0, at_barrier_ = 0, epoch_ = 0;
  char synchronization_[2], start_ = 0, end_ = 0;
  char* stacks_ = nullptr;
  char* arena_ = nullptr;
  unsigned char* shared_ = nullptr;
  size_t shared_bytes_ = 0;
  struct Write {
    uint32_t thread, publications;  // of that thread before the write
  };
  static constexpr uint32_t kNobody = ~0u;
  Write writes_[kMostSharedBytes / 16];  // the last one of each chunk
  Fiber program_;
  Thread* current_ = nullptr;
  // A ring; each thread is in it at most once. No container, whose functions ThreadSanitizer would look into.
  unsigned ready_[kMostThreads];
  unsigned first_ready_ = 0, ready_count_ = 0;
  uint64_t random_ = 0;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  std::string error_;

  // For the templates.
  void announce(char* handle);
  void observe(char* handle);
};

// The block that is running.
Block& block();

void start_copy(const Copy& copy);
void commit_copies();
void wait_for_copies(size_t groups_left);

template <class Argument, class Run>
EMULATOR_UNSEEN void Block::collective(int operation, uint32_t mask, Argument* argument, const Run& run,
                                       bool synchronizes) {
  Thread& self = *current_;
  Warp& warp = warps_[self.warp()];
  if (!(mask >> self.lane() & 1)) fail("a lane that is not in its own mask");
  self.operation = operation, self.mask = mask, self.argument = argument;
  warp.arrived |= 1u << self.lane();
  char* const handle = &warp.synchronization[warp.epoch % 2];
  if (synchronizes) announce(handle);
  if ((warp.arrived & mask) != mask) {
    self.state = State::kAtCollective;
    wait();
  } else {
    Argument* arguments[kWarpSize] = {};
    const unsigned first = self.warp() * kWarpSize;
    for (unsigned lane = 0; lane < kWarpSize; ++lane) {
      if (!(mask >> lane & 1)) continue;
      const Thread& other = threads_[first + lane];
      if (other.operation != operation || other.mask != mask)
        fail("lanes of one warp are in different collectives");
      arguments[lane] = static_cast<Argument*>(other.argument);
    }
    run(arguments);
    warp.arrived &= ~mask;
    ++warp.epoch;
    for (unsigned lane = 0; lane < kWarpSize; ++lane) {
      if (!(mask >> lane & 1) || lane == self.lane()) continue;
      threads_[first + lane].state = State::kReady;
      make_ready(first + lane);
    }
    give_way();
  }
  if (synchronizes) observe(handle);
}

}  // namespace emulator
