// What values lie in memory as, and what they are computed in.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

namespace sparselth {

// A bfloat16, the upper half of a float, and IEEE 754's binary16. Only stored: kernels widen what
// they load, exactly, and round what they store to the nearest, ties to even. Vectors do the same
// in simd.inl.
struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
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
template <>
struct ComputeOf<Fp16> {
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
// Denormal numbers without denormal floats, which torch.set_flush_denormal makes zeros of.
inline float value_of(Fp16 stored) {
  const uint32_t bits = uint32_t(stored.bits & 0x7fff) << 13, exponent = bits & (31 << 23);
  const float denormal = std::bit_cast<float>(bits + (113 << 23)) - 0x1p-14f;
  const uint32_t others = bits + ((exponent == 31 << 23 ? 224 : 112) << 23);
  const uint32_t size = exponent == 0 ? std::bit_cast<uint32_t>(denormal) : others;
  return std::bit_cast<float>(size | uint32_t(stored.bits & 0x8000) << 16);
}

// What is stored as S for a value.
template <class S>
S rounded(Compute<S> value) {
  if constexpr (std::is_same_v<S, Bf16>) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t nearest = bits + 0x7fff + (bits >> 16 & 1);
    // A NaN stays one, whatever its lower bits are.
    return {uint16_t((value != value ? bits | 0x400000 : nearest) >> 16)};
  } else if constexpr (std::is_same_v<S, Fp16>) {
    const uint32_t bits = std::bit_cast<uint32_t>(value), size = bits & 0x7fffffff;
    const uint32_t nearest = (size - (112 << 23) + 0xfff + (size >> 13 & 1)) >> 13;
    // The sum's last place is that of a denormal binary16.
    const float denormal = std::bit_cast<float>(size) + 0.5f;
    const uint32_t finite =
        size < 113 << 23 ? std::bit_cast<uint32_t>(denormal) - (126 << 23) : nearest;
    // From 2^16 on infinite; a NaN stays one, whatever its lower bits are.
    const uint32_t beyond = value != value ? 0x7e00 | (size >> 13 & 0x3ff) : 0x7c00;
    return {uint16_t((size >= 143 << 23 ? beyond : finite) | (bits >> 16 & 0x8000))};
  } else {
    return value;
  }
}

}  // namespace sparselth
