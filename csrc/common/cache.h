// The sizes of a core's own data caches.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <unistd.h>
#endif

namespace sparselth {

inline int64_t l1_bytes() {
  static const int64_t bytes = [] {
    long found = 0;
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    found = sysconf(_SC_LEVEL1_DCACHE_SIZE);
#endif
    return found > 0 ? int64_t(found) : int64_t(32) << 10;
  }();
  return bytes;
}

inline int64_t l2_bytes() {
  static const int64_t bytes = [] {
    long found = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    found = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return found > 0 ? int64_t(found) : int64_t(512) << 10;
  }();
  return bytes;
}

}  // namespace sparselth
