// Compiles one kernel file once per instruction set, each copy in a namespace of its own.
//
//   #define SPARSELTH_ISA_FILE "cpu/masked_conv2d.inl"
//   #include "common/foreach_isa.h"        (inside namespace sparselth)
//
// The kernel file is written once, against the vectors of common/simd.inl, and lands in the
// namespaces isa_portable, isa_avx2 and isa_avx512; SPARSELTH_CALL_ISA in isa.h picks one. It may
// include other .inl files, which have no include guards for the same reason.
// Compiler flags stay at the machine's baseline: only code between the pragmas may use the wider
// instructions, so nothing the linker shares between files can. Everything such a file needs
// from the standard library is included before this header.
//
// No include guard: each use compiles another kernel file.

#define SPARSELTH_ISA isa_portable
#define SPARSELTH_VECTOR_BYTES 16
namespace SPARSELTH_ISA {
namespace {
#include "common/simd.inl"
#include SPARSELTH_ISA_FILE
}  // namespace
}  // namespace SPARSELTH_ISA
#undef SPARSELTH_ISA
#undef SPARSELTH_VECTOR_BYTES

#if defined(__x86_64__) && defined(__GNUC__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define SPARSELTH_ISA isa_avx2
#define SPARSELTH_VECTOR_BYTES 32
namespace SPARSELTH_ISA {
namespace {
#include "common/simd.inl"
#include SPARSELTH_ISA_FILE
}  // namespace
}  // namespace SPARSELTH_ISA
#undef SPARSELTH_ISA
#undef SPARSELTH_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#define SPARSELTH_ISA isa_avx512
#define SPARSELTH_VECTOR_BYTES 64
namespace SPARSELTH_ISA {
namespace {
#include "common/simd.inl"
#include SPARSELTH_ISA_FILE
}  // namespace
}  // namespace SPARSELTH_ISA
#undef SPARSELTH_ISA
#undef SPARSELTH_VECTOR_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

#undef SPARSELTH_ISA_FILE
