// Which instruction set the CPU kernels run on, decided once at run time.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>  // for simd.inl, which cannot include anything
#endif

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "common/storage.h"  // for simd.inl as well

namespace sparselth {

enum class Isa { portable, avx2, avx512 };

inline const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "portable";
  }
}

#if defined(__x86_64__) && defined(__GNUC__)
// Not every compiler's __builtin_cpu_supports knows it.
inline bool has_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

inline Isa widest_isa() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c())
    return Isa::avx2;
#endif
  return Isa::portable;
}

// SPARSELTH_SIMD=portable|avx2|avx512 picks a narrower one, to test or to compare.
inline Isa chosen_isa() {
  const Isa widest = widest_isa();
  const char* wanted = std::getenv("SPARSELTH_SIMD");
  if (wanted == nullptr || *wanted == 0) return widest;
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
    if (std::string(wanted) == isa_name(isa) && isa <= widest) return isa;
  throw std::runtime_error("SPARSELTH_SIMD=" + std::string(wanted) +
                           " is not available; this CPU runs up to " + isa_name(widest));
}

inline Isa isa() {
  static const Isa chosen = chosen_isa();
  return chosen;
}

}  // namespace sparselth

// Calls `function` in the namespace of the chosen instruction set.
#if defined(__x86_64__) && defined(__GNUC__)
#define SPARSELTH_CALL_ISA(function, ...)           \
  [&] {                                             \
    switch (::sparselth::isa()) {                   \
      case ::sparselth::Isa::avx512:                \
        return isa_avx512::function(__VA_ARGS__);   \
      case ::sparselth::Isa::avx2:                  \
        return isa_avx2::function(__VA_ARGS__);     \
      default:                                      \
        return isa_portable::function(__VA_ARGS__); \
    }                                               \
  }()
#else
#define SPARSELTH_CALL_ISA(function, ...) isa_portable::function(__VA_ARGS__)
#endif
