#include "fiber.h"

#include <vector>

#if !defined(__x86_64__)
#error "fibers are written for x86-64"
#endif

namespace emulator {
namespace {

// Saves the registers that a call preserves, changes stacks, restores them.
__attribute__((naked, noinline, used)) void jump(void** /*save*/, void* /*load*/) {
  asm("push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
      "mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
      "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");
}
constexpr int kSavedRegisters = 6;

}  // namespace

EMULATOR_UNSEEN void switch_fibers(Fiber& from, Fiber& to, bool ends) {
#ifdef EMULATOR_ADDRESS_SANITIZER
  __sanitizer_start_switch_fiber(ends ? nullptr : &from.sanitizer, to.stack_bottom, to.stack_bytes);
#endif
#ifdef EMULATOR_THREAD_SANITIZER
  if (!from.sanitizer) from.sanitizer = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(to.sanitizer, __tsan_switch_to_fiber_no_sync);
#endif
  (void)ends;
  jump(&from.stack_pointer, to.stack_pointer);
#ifdef EMULATOR_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(from.sanitizer, nullptr, nullptr);
#endif
}

EMULATOR_UNSEEN void prepare_fiber(Fiber& fiber, char* stack, size_t bytes, void (*entry)()) {
#ifdef EMULATOR_ADDRESS_SANITIZER
  ASAN_UNPOISON_MEMORY_REGION(stack, bytes);  // of a fiber that ended, whose frames never returned
#endif
  auto** top = reinterpret_cast<void**>(stack + bytes);
  *--top = nullptr;  // where entry() would return to; it also aligns the stack as a call does
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  fiber = {top, stack, bytes, nullptr};
#ifdef EMULATOR_THREAD_SANITIZER
  fiber.sanitizer = __tsan_create_fiber(0);
#endif
}

EMULATOR_UNSEEN void fiber_entered(Fiber& from) {
#ifdef EMULATOR_ADDRESS_SANITIZER
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  if (!from.stack_bottom) from.stack_bottom = bottom, from.stack_bytes = bytes;
#endif
  (void)from;
}

EMULATOR_UNSEEN void retire_fiber(Fiber& fiber) {
#ifdef EMULATOR_THREAD_SANITIZER
  constexpr size_t kKept = 5000;
  static std::vector<void*> retired;
  retired.push_back(fiber.sanitizer);
  if (retired.size() < kKept) return;
  for (void* id : retired) __tsan_destroy_fiber(id);
  retired.clear();
#endif
  (void)fiber;
}

}  // namespace emulator
