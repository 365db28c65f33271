// What values lie in memory as, and what they are computed in.
#pragma once

#include <cstdint>
#include <type_traits>

namespace sparselth {

// A bfloat16, the upper half of a float. Only stored: kernels widen what they load, exactly, and
// round what they store to the nearest, ties to even (simd.inl).
struct Bf16 {
  uint16_t bits;
};

template <class T>
struct ComputeOf {
  using type = T;
};
template <>
struct ComputeOf<Bf16> {
  using type = float;
};

// What values stored as T are computed in: T itself, or float for 16 bits.
template <class T>
using Compute = typename ComputeOf<std::remove_const_t<T>>::type;

template <class T>
inline constexpr bool kIsNarrow = !std::is_same_v<std::remove_const_t<T>, Compute<T>>;

}  // namespace sparselth
