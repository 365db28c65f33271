// Copies from global to shared memory that no register takes part in (sm_80 and later).
// tests/cuda_emulation has host functions of the same names, which copy when they are waited for.
//
// Reference: NVIDIA, "PTX ISA", section on cp.async.
#pragma once

#include "device.cuh"

#ifdef SPARSELTH_EMULATION
#include "async_copy.h"
#endif

namespace sparselth::cuda {

#ifdef SPARSELTH_EMULATION
using emulation::commit_copies;
using emulation::copy_async;
using emulation::wait_for_copies;
#else

// Starts to copy 16 bytes, or zeros where `there` is false: then nothing is read. Both addresses on
// a boundary of 16.
__device__ inline void copy_async(void* to, const void* from, bool there) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  const uint32_t bytes = there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(address), "l"(from), "r"(bytes)
               : "memory");
}

// What this thread started since the last time is a group.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's groups but the last `kLeft`. Other threads see them after a barrier.
template <int kLeft>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}
#endif

}  // namespace sparselth::cuda
