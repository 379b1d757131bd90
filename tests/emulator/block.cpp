#include "block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "products.h"

namespace emulator {
namespace {

#if defined(EMULATOR_ADDRESS_SANITIZER) || defined(EMULATOR_THREAD_SANITIZER)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr size_t kArenaBytes = 1 << 20;
constexpr size_t kFence = 1024;  // before shared memory, and more than that behind it

char* map_memory(size_t bytes) {
  void* const memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return static_cast<char*>(memory);
}

// ThreadSanitizer's record of who touched the memory goes with the mapping.
EMULATOR_UNSEEN void renew(char*& memory, size_t bytes) {
#ifdef EMULATOR_THREAD_SANITIZER
  if (memory) munmap(memory, bytes), memory = nullptr;
#endif
  if (!memory) memory = map_memory(bytes);
}

EMULATOR_UNSEEN void do_copy(const Copy& copy) {
  // As the thread's own accesses, word by word: the sanitizers see them.
  for (unsigned at = 0; at < copy.bytes; at += 4) {
    uint32_t word = 0;
    if (copy.present)
      word = *reinterpret_cast<const volatile uint32_t*>(static_cast<const char*>(copy.from) + at);
    *reinterpret_cast<volatile uint32_t*>(static_cast<char*>(copy.to) + at) = word;
  }
  block().note_write(copy.to);
}

}  // namespace

Block& block() {
  static Block running;
  return running;
}

void fail(const std::string& what) {
  std::string message = "emulator: " + what;
  if (block().running()) {
    const auto name = [](uint3 at) {
      return "(" + std::to_string(at.x) + "," + std::to_string(at.y) + "," + std::to_string(at.z) + ")";
    };
    message += " [block " + name(block().index) + " thread " + name(block().current().index) + "]";
  }
  throw Error(message);
}

EMULATOR_UNSEEN void Block::announce(char* handle) {
#ifdef EMULATOR_THREAD_SANITIZER
  __tsan_release(handle);
#endif
  (void)handle;
}
EMULATOR_UNSEEN void Block::observe(char* handle) {
#ifdef EMULATOR_THREAD_SANITIZER
  __tsan_acquire(handle);
#endif
  (void)handle;
}

EMULATOR_UNSEEN void Block::make_ready(unsigned thread) {
  ready_[(first_ready_ + ready_count_++) % kMostThreads] = thread;
}

EMULATOR_UNSEEN Thread* Block::next() {
  if (!ready_count_) return nullptr;
  --ready_count_;
  if (!random_) return &threads_[ready_[first_ready_++ % kMostThreads]];
  // Mostly the one made ready last, so that some threads run far ahead of others.
  random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
  const unsigned last = (first_ready_ + ready_count_) % kMostThreads;
  if (random_ % 16) return &threads_[ready_[last]];
  const unsigned chosen = (first_ready_ + (random_ >> 20) % (ready_count_ + 1)) % kMostThreads;
  const unsigned thread = ready_[chosen];
  ready_[chosen] = ready_[last];
  return &threads_[thread];
}

EMULATOR_UNSEEN void Block::wait() {
  Thread* const self = current_;
  Thread* const other = error_.empty() ? next() : nullptr;
  if (other != self) {
    current_ = other;
    switch_fibers(self->fiber, other ? other->fiber : program_, false);
  }
  if (!error_.empty()) throw Error(error_);
}

EMULATOR_UNSEEN void Block::give_way() {
  if (!random_) return;
  make_ready(current_->number);
  wait();
}

EMULATOR_UNSEEN void Block::synchronize() {
  Thread& self = *current_;
  char* const handle = &synchronization_[epoch_ % 2];
  announce(handle);
  if (++at_barrier_ < alive_) {
    self.state = State::kAtBarrier;
    wait();
  } else {
    if (alive_ != count_) fail("__syncthreads() after some threads of the block ended");
    at_barrier_ = 0;
    ++epoch_;
    for (unsigned i = 0; i < count_; ++i) {
      if (threads_[i].state != State::kAtBarrier) continue;
      threads_[i].state = State::kReady;
      make_ready(i);
    }
    give_way();
  }
  observe(handle);
}

EMULATOR_UNSEEN void Block::thread_main() {
  Block& block = emulator::block();
  fiber_entered(block.program_);
  block.observe(&block.start_);
  try {
    Copies copies;
    Products products;
    block.current_->copies = &copies;
    block.current_->products = &products;
    block.body_(block.argument_);
    for (const auto& group : copies.groups)
      if (!group.empty()) fail("a thread ends with asynchronous copies under way");
    if (!copies.open.empty()) fail("a thread ends with asynchronous copies that it did not commit");
    if (products.under_way()) fail("a thread ends with products of its warpgroup under way");
  } catch (const std::exception& error) {
    if (block.error_.empty()) block.error_ = error.what();
  }
  block.announce(&block.end_);
  block.finish_thread();
}

EMULATOR_UNSEEN void Block::finish_thread() {
  Thread* const self = current_;
  self->state = State::kDone;
  --alive_;
  if (alive_ && at_barrier_ == alive_ && error_.empty())
    error_ = "emulator: __syncthreads() that thread " + std::to_string(self->number) + " does not reach";
  Thread* const other = error_.empty() ? next() : nullptr;
  current_ = other;
  switch_fibers(self->fiber, other ? other->fiber : program_, true);
  __builtin_trap();
}

EMULATOR_UNSEEN void Block::prepare_shared_memory(size_t bytes) {
  renew(arena_, kArenaBytes);
  shared_ = reinterpret_cast<unsigned char*>(arena_ + kFence);
  shared_bytes_ = bytes;
#ifdef EMULATOR_ADDRESS_SANITIZER
  ASAN_POISON_MEMORY_REGION(arena_, kArenaBytes);
  ASAN_UNPOISON_MEMORY_REGION(shared_, bytes);
#endif
  for (size_t chunk = 0; chunk < bytes / 16; ++chunk) writes_[chunk] = {kNobody, 0};
  // NaN in every format. Not through memset, which ThreadSanitizer would take for an access of the program.
  for (size_t at = 0; at < bytes; ++at) static_cast<volatile unsigned char*>(shared_)[at] = 0xFF;
}

EMULATOR_UNSEEN void Block::prepare_threads(dim3 size) {
  renew(stacks_, kMostThreads * kStackBytes);
  first_ready_ = ready_count_ = 0;
  for (Warp& warp : warps_) warp.arrived = warp.epoch = 0, warp.products = 0;
  for (unsigned i = 0; i < count_; ++i) {
    Thread& thread = threads_[i];
    thread.number = i;
    thread.index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    thread.state = State::kReady;
    thread.publications = 0;
    prepare_fiber(thread.fiber, stacks_ + i * kStackBytes, kStackBytes, thread_main);
    make_ready(i);
  }
}

EMULATOR_UNSEEN std::string Block::run(dim3 size, uint3 block_index, size_t shared_bytes, Schedule how,
                                       void (*body)(void*), void* argument) {
  index = block_index, schedule = how;
  count_ = alive_ = size.x * size.y * size.z;
  at_barrier_ = epoch_ = 0;
  random_ = how.seed * 0x9E3779B97F4A7C15ull;
  body_ = body, argument_ = argument;
  error_.clear();
  prepare_shared_memory(shared_bytes);
  prepare_threads(size);
  announce(&start_);
  while (Thread* const thread = next()) {
    current_ = thread;
    switch_fibers(program_, thread->fiber, false);
    if (!error_.empty()) break;
  }
  current_ = nullptr;
  observe(&end_);
  for (unsigned i = 0; i < count_; ++i) retire_fiber(threads_[i].fiber);
#ifdef EMULATOR_ADDRESS_SANITIZER
  ASAN_UNPOISON_MEMORY_REGION(arena_, kArenaBytes);
#endif
  if (!error_.empty()) return error_;
  return alive_ ? deadlock() : split_warpgroup();
}

std::string Block::split_warpgroup() const {
  for (unsigned warp = 0; warp * kWarpSize < count_; ++warp)
    if (warps_[warp].products != warps_[warp / 4 * 4].products ||
        (warps_[warp].products && (warp | 3) * kWarpSize >= count_))
      return "emulator: the four warps of a warpgroup did not start the same products";
  return "";
}

std::string Block::deadlock() const {
  const auto waiting = [&](State state) {
    return std::to_string(std::count_if(threads_, threads_ + count_,
                                        [&](const Thread& thread) { return thread.state == state; }));
  };
  return "emulator: deadlock: " + waiting(State::kAtBarrier) + " threads at __syncthreads(), " +
         waiting(State::kAtCollective) + " in a collective of their warp, " + waiting(State::kDone) +
         " ended";
}

EMULATOR_UNSEEN uint32_t Block::shared_address(const void* pointer) const {
  const auto* const at = static_cast<const unsigned char*>(pointer);
  if (at < shared_ || at >= shared_ + shared_bytes_) fail("an address that is not in shared memory");
  return static_cast<uint32_t>(at - shared_);
}

EMULATOR_UNSEEN void Block::note_write(const void* chunk) {
  writes_[shared_address(chunk) / 16] = {current_->number, current_->publications};
}
EMULATOR_UNSEEN bool Block::is_published(uint32_t address) const {
  const Write& write = writes_[address / 16];
  return write.thread != kNobody && threads_[write.thread].publications > write.publications;
}
EMULATOR_UNSEEN void Block::note_product(uint64_t what) {
  if (current_->lane()) return;
  uint64_t& so_far = warps_[current_->warp()].products;
  so_far = (so_far ^ what) * 0x9E3779B97F4A7C15ull + 1;
}

EMULATOR_UNSEEN void start_copy(const Copy& copy) {
  if ((reinterpret_cast<uintptr_t>(copy.to) | reinterpret_cast<uintptr_t>(copy.from)) % copy.bytes)
    fail("an asynchronous copy of a misaligned address");
  block().shared_address(copy.to);
  if (block().schedule.eager)
    do_copy(copy);
  else
    block().current().copies->open.push_back(copy);
}

EMULATOR_UNSEEN void commit_copies() {
  Copies& copies = *block().current().copies;
  copies.groups.push_back(std::move(copies.open));
  copies.open.clear();
}

EMULATOR_UNSEEN void wait_for_copies(size_t groups_left) {
  auto& groups = block().current().copies->groups;
  while (groups.size() > groups_left) {
    for (const Copy& copy : groups.front()) do_copy(copy);
    groups.erase(groups.begin());
  }
}

}  // namespace emulator
