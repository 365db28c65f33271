// Switching between fibers: save the callee-saved registers on one stack, continue on another.
//
// By hand, because ucontext would make a system call for the signal mask at each of the millions
// of switches.
#pragma once

#include <algorithm>
#include <cstddef>

namespace emulation {

constexpr size_t kStackBytes = 128 << 10;

#if defined(__x86_64__)
extern "C" void emulation_switch(void** save, void* next);
asm(R"(
.text
.globl emulation_switch
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

inline void* fresh_stack_pointer(char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + kStackBytes) - 1;
  *--top = reinterpret_cast<void*>(entry);  // where `ret` goes; 8 mod 16 then, as after a call
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  return top;
}
#elif defined(__aarch64__)
extern "C" void emulation_switch(void** save, void* next);
asm(R"(
.text
.globl emulation_switch
emulation_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");

inline void* fresh_stack_pointer(char* stack, void (*entry)()) {
  void** frame = reinterpret_cast<void**>(stack + kStackBytes - 16) - 20;
  std::fill(frame, frame + 20, nullptr);
  frame[11] = reinterpret_cast<void*>(entry);  // x30, where `ret` goes
  return frame;
}
#else
#error "the CUDA emulation switches fibers on x86-64 and aarch64 only"
#endif

}  // namespace emulation
