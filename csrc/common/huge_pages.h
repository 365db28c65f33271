// Huge pages for large results.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sparselth {

// Asks the system to back fresh memory with huge pages, before it is written for the first time.
// Activations are megabytes that every pass walks plane by plane: fewer page faults where the
// memory is new in each step, fewer misses of the address cache everywhere. Only advice: whether
// it is taken changes nothing but time.
inline void prefer_huge_pages(void* data, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHuge = uintptr_t(2) << 20;
  const uintptr_t begin = (uintptr_t(data) + kHuge - 1) / kHuge * kHuge;
  const uintptr_t end = (uintptr_t(data) + uintptr_t(bytes)) / kHuge * kHuge;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace sparselth
