// Host functions for the instructions of csrc/cuda/tensor_core.cuh: the same names, and the
// fragment layouts that the PTX ISA documents (self_test.cpp checks them against it).
#pragma once

#include "emulation.h"

namespace emulation {

// What all lanes of a warp gave, kept while they meet again.
struct Given {
  uint64_t of[kWarpSize];

  Given(uint64_t collective, uint64_t value) {
    const uint64_t* seen = meet(collective, value);
    std::copy(seen, seen + kWarpSize, of);
  }
  // The 16-bit value number i of a lane, counted from the lowest.
  uint16_t half(int lane, int i) const { return static_cast<uint16_t>(of[lane] >> 16 * i); }
};

inline void load_matrices_transposed(const void* row, uint32_t (&matrices)[4]) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("ldmatrix: a row is not aligned");
  const Given rows(0x500, reinterpret_cast<uint64_t>(row));
  const int l = lane();
  for (int m = 0; m < 4; ++m) {
    uint32_t halves[2];
    for (int i = 0; i < 2; ++i) {
      uint16_t values[8];
      std::memcpy(values, reinterpret_cast<const void*>(rows.of[8 * m + 2 * (l % 4) + i]), 16);
      halves[i] = values[l / 4];
    }
    matrices[m] = halves[0] | halves[1] << 16;
  }
}

inline void load_matrices(const void* row, uint32_t (&matrices)[4]) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("ldmatrix: a row is not aligned");
  const Given rows(0x504, reinterpret_cast<uint64_t>(row));
  const int l = lane();
  for (int m = 0; m < 4; ++m)
    std::memcpy(&matrices[m], reinterpret_cast<const uint32_t*>(rows.of[8 * m + l / 4]) + l % 4, 4);
}

template <class T>
float widened(uint16_t bits) {
  if constexpr (std::is_same_v<T, __half>) {
    return __half2float({bits});
  } else {
    return __bfloat162float({bits});
  }
}

template <class T>
void multiply_add(float (&d)[4], const uint4& a, uint32_t b0, uint32_t b1) {
  // Register r of a lane holds halves 2 r and 2 r + 1.
  const Given a_low(0x501, a.x | uint64_t(a.y) << 32), a_high(0x502, a.z | uint64_t(a.w) << 32);
  const Given b(0x503, b0 | uint64_t(b1) << 32);
  const auto a_at = [&](int row, int column) {
    const Given& columns = column < 8 ? a_low : a_high;
    return widened<T>(columns.half(row % 8 * 4 + column % 8 / 2, row / 8 * 2 + column % 2));
  };
  const auto b_at = [&](int row, int column) {
    return widened<T>(b.half(column * 4 + row % 8 / 2, row / 8 * 2 + row % 2));
  };
  const int l = lane();
  for (int i = 0; i < 4; ++i) {
    const int row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) d[i] += a_at(row, k) * b_at(k, column);
  }
}

}  // namespace emulation
