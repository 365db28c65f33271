// Host functions for csrc/cuda/async_copy.cuh. A copy happens when it is waited for, at the latest
// moment that the PTX ISA allows: who reads earlier finds the garbage of fresh shared memory.
#pragma once

#include "emulation.h"

namespace emulation {

struct AsyncCopy {
  void* to;
  const void* from;  // null: zeros
};

// Of one thread: the groups that are under way, the last one still open.
struct AsyncCopies {
  uint32_t block = ~0u;
  std::vector<std::vector<AsyncCopy>> groups;
};

inline AsyncCopies& async_copies() {
  static std::vector<AsyncCopies> of_threads;
  if (of_threads.size() <= machine.current) of_threads.resize(machine.current + 1);
  AsyncCopies& own = of_threads[machine.current];
  if (own.block != blockIdx.x || own.groups.empty()) own = {blockIdx.x, {{}}};
  return own;
}

inline void copy_async(void* to, const void* from, bool there) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0) fail("cp.async: a destination is not aligned");
  if (there && reinterpret_cast<uintptr_t>(from) % 16 != 0)
    fail("cp.async: a source is not aligned");
  async_copies().groups.back().push_back({to, there ? from : nullptr});
}

inline void commit_copies() { async_copies().groups.emplace_back(); }

template <int kLeft>
void wait_for_copies() {
  auto& groups = async_copies().groups;
  while (groups.size() > kLeft + 1) {
    for (const AsyncCopy& copy : groups.front()) {
      if (copy.from == nullptr) {
        std::memset(copy.to, 0, 16);
      } else {
        std::memcpy(copy.to, copy.from, 16);
      }
    }
    groups.erase(groups.begin());
  }
}

}  // namespace emulation
