// Fibers: each CUDA thread runs on a stack of its own, and gives way where it has to wait for others.
#pragma once
#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ADDRESS_SANITIZER 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#define EMULATOR_THREAD_SANITIZER 1
#include <sanitizer/tsan_interface.h>
// The emulator's own bookkeeping is not what is looked at.
#define EMULATOR_UNSEEN __attribute__((no_sanitize("thread")))
#else
#define EMULATOR_UNSEEN
#endif

namespace emulator {

struct Fiber {
  void* stack_pointer = nullptr;       // where it stopped
  const void* stack_bottom = nullptr;  // of the program's own stack: known once a fiber was entered from it
  size_t stack_bytes = 0;
  void* sanitizer = nullptr;  // what the sanitizer keeps for it
};

// Leaves `from` and goes on with `to`; returns when somebody switches back. One that `ends` is never resumed.
void switch_fibers(Fiber& from, Fiber& to, bool ends);

// A fiber that begins with entry() at the first switch to it; the stack is the caller's.
void prepare_fiber(Fiber& fiber, char* stack, size_t bytes, void (*entry)());

// To be called first thing in `entry`: `from` is whom it was entered from, where that is the program's own
// stack.
void fiber_entered(Fiber& from);

// ThreadSanitizer takes an id that was freed for the next fiber, and races between the two would go unseen:
// ids are kept for a while.
void retire_fiber(Fiber& fiber);

}  // namespace emulator
