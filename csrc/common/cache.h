// The sizes of a core's own data caches.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <unistd.h>
#endif

namespace sparselth {

// What the system says, or a common size where it does not.
inline int64_t cache_bytes(long said, int64_t common) { return said > 0 ? said : common; }

inline int64_t l1_bytes() {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  static const int64_t bytes = cache_bytes(sysconf(_SC_LEVEL1_DCACHE_SIZE), 32 << 10);
  return bytes;
#else
  return 32 << 10;
#endif
}

inline int64_t l2_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  static const int64_t bytes = cache_bytes(sysconf(_SC_LEVEL2_CACHE_SIZE), 512 << 10);
  return bytes;
#else
  return 512 << 10;
#endif
}

}  // namespace sparselth
