// What values lie in memory as, and what they are computed in.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace sparselth {

// A bfloat16, the upper half of a float. Only stored: kernels widen what they load, exactly, and
// round what they store to the nearest, ties to even. Vectors do the same in simd.inl.
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

template <class T>
T value_of(T stored) {
  return stored;
}
inline float value_of(Bf16 stored) { return std::bit_cast<float>(uint32_t(stored.bits) << 16); }

// What is stored as S for a value.
template <class S>
S rounded(Compute<S> value) {
  if constexpr (kIsNarrow<S>) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t nearest = bits + 0x7fff + (bits >> 16 & 1);
    // A NaN stays one, whatever its lower bits are.
    return {uint16_t((value != value ? bits | 0x400000 : nearest) >> 16)};
  } else {
    return value;
  }
}

}  // namespace sparselth
