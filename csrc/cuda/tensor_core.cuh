// The tensor core instructions in use, one warp at a time (sm_80 and later). tests/cuda_emulation
// has host functions of the same names and fragment layouts.
//
// Reference: NVIDIA, "PTX ISA", sections on ldmatrix and mma.m16n8k16.
#pragma once

#include "device.cuh"

#ifdef SPARSELTH_EMULATION
#include "tensor_core.h"
#endif

namespace sparselth::cuda {

// A 16-bit value as half of a register.
template <class T>
__device__ uint32_t bits_of(T value) {
  uint16_t bits;
  std::memcpy(&bits, &value, 2);
  return bits;
}

#ifdef SPARSELTH_EMULATION
using emulation::load_matrices;
using emulation::load_matrices_transposed;
using emulation::multiply_add;
#else

// Loads four 8 x 8 matrices of 16-bit values from shared memory, transposed. row: of lane l, the
// address of row l % 8 of matrix l / 8, 16 bytes on a boundary of 16. matrices[m]: rows
// 2 (l % 4) and 2 (l % 4) + 1 of matrix m, in column l / 4.
__device__ inline void load_matrices_transposed(const void* row, uint32_t (&matrices)[4]) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(address)
               : "memory");
}

// The same, as they lie. matrices[m]: columns 2 (l % 4) and 2 (l % 4) + 1 of matrix m, in row l
// / 4.
__device__ inline void load_matrices(const void* row, uint32_t (&matrices)[4]) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(address)
               : "memory");
}

// d += a b, with a 16 x 16, b 16 x 8 and d 16 x 8 in float. Lane l holds, low half first,
//   a[0..3]: columns 2 (l % 4), + 1 of row l / 4; of row l / 4 + 8; the same, columns + 8
//   b0, b1:  rows 2 (l % 4), + 1 of column l / 4; rows + 8
//   d[0..3]: columns 2 (l % 4), + 1 of row l / 4; of row l / 4 + 8
template <class T>
__device__ void multiply_add(float (&d)[4], const uint4& a, uint32_t b0, uint32_t b1) {
  if constexpr (sizeof(T) == 2 && Number<T>::kExponentBits == 5) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
  }
}
#endif

}  // namespace sparselth::cuda
