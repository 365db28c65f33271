// What the device code of every op shares: number formats, 16-byte loads, block-wide sums and
// scans, the last-block idiom, and how a kernel is launched.
//
// Free of torch: tests/cuda_emulation compiles it for the host with SPARSELTH_EMULATION defined.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef SPARSELTH_EMULATION
#include "emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

namespace sparselth::cuda {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

// Stops the kernel, and with an error the stream, where a plan leads outside of what it is for:
// like torch's own index checks on a GPU. A launcher cannot look without waiting for the device.
__device__ inline void trap_unless(bool inside) {
  if (!inside) __trap();
}

// --- number formats -----------------------------------------------------------------------
// Key: the magnitude bits as an unsigned number; its order is the order of |x|, and -0 equals 0.
// Compute: what arithmetic is done in; results are rounded to T once.

template <class T>
struct Number;

template <>
struct Number<float> {
  using Key = uint32_t;
  using Compute = float;
  static constexpr int kKeyBits = 31;
  static constexpr int kExponentBits = 8;
  static __device__ float widen(float x) { return x; }
  static __device__ float narrow(float x) { return x; }
};

template <>
struct Number<double> {
  using Key = uint64_t;
  using Compute = double;
  static constexpr int kKeyBits = 63;
  static constexpr int kExponentBits = 11;
  static __device__ double widen(double x) { return x; }
  static __device__ double narrow(double x) { return x; }
};

template <>
struct Number<__half> {
  using Key = uint32_t;
  using Compute = float;
  static constexpr int kKeyBits = 15;
  static constexpr int kExponentBits = 5;
  static __device__ float widen(__half x) { return __half2float(x); }
  static __device__ __half narrow(float x) { return __float2half_rn(x); }
};

template <>
struct Number<__nv_bfloat16> {
  using Key = uint32_t;
  using Compute = float;
  static constexpr int kKeyBits = 15;
  static constexpr int kExponentBits = 8;
  static __device__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
  static __device__ __nv_bfloat16 narrow(float x) { return __float2bfloat16_rn(x); }
};

template <class T>
__device__ typename Number<T>::Key magnitude_key(T x) {
  using Key = typename Number<T>::Key;
  Key bits = 0;
  std::memcpy(&bits, &x, sizeof(T));  // the 16-bit formats fill the low half (little endian)
  return bits & ((Key(1) << Number<T>::kKeyBits) - 1);
}

// Neither NaN nor infinity: not all bits of the exponent are set.
template <class T>
__device__ bool is_finite(T x) {
  constexpr uint32_t kAllOnes = (1u << Number<T>::kExponentBits) - 1;
  return magnitude_key(x) >> (Number<T>::kKeyBits - Number<T>::kExponentBits) != kAllOnes;
}

// Division of any n < 2^31 by a number known on the host, as a multiplication.
// Reference: Granlund and Montgomery, "Division by Invariant Integers using Multiplication",
// PLDI 1994.
struct Divisor {
  uint32_t multiplier = 0, shift = 0;

  Divisor() = default;
  explicit Divisor(uint32_t divisor) {
    uint32_t bits = 0;
    while ((uint64_t(1) << bits) < divisor) ++bits;
    shift = 31 + bits;
    multiplier = static_cast<uint32_t>((uint64_t(1) << shift) / divisor + 1);
  }
  __device__ uint32_t quotient(uint32_t n) const {
    return static_cast<uint32_t>(static_cast<uint64_t>(n) * multiplier >> shift);
  }
};

// --- memory -------------------------------------------------------------------------------

// kVec neighbors of one tensor: 16 bytes, what one thread loads at once.
template <class T>
constexpr int kVec = 16 / static_cast<int>(sizeof(T));

template <class T, int kCount = kVec<T>>
struct alignas(sizeof(T) * kCount) Pack {
  T v[kCount];
};

// Elements a block covers with one load per thread.
template <class T>
constexpr uint32_t kTile = kThreads * kVec<T>;

template <class P>
__host__ __device__ bool aligned_to(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % alignof(P) == 0;
}

// Load elements [i, i + valid); i is a multiple of the pack's length. A tensor may be a view that
// starts anywhere, hence the element-wise path.
template <class T, int kCount = kVec<T>>
__device__ Pack<T, kCount> load_pack(const void* base, uint32_t i, int valid) {
  const T* p = static_cast<const T*>(base) + i;
  if (valid == kCount && aligned_to<Pack<T, kCount>>(base)) {
    return *reinterpret_cast<const Pack<T, kCount>*>(p);
  }
  Pack<T, kCount> pack{};
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    if (j < valid) pack.v[j] = p[j];
  }
  return pack;
}

template <class T, int kCount>
__device__ void store_pack(void* base, uint32_t i, int valid, const Pack<T, kCount>& pack) {
  T* p = static_cast<T*>(base) + i;
  if (valid == kCount && aligned_to<Pack<T, kCount>>(base)) {
    *reinterpret_cast<Pack<T, kCount>*>(p) = pack;
    return;
  }
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    if (j < valid) p[j] = pack.v[j];
  }
}

// How many elements of the pack at i lie before `end`: 0 to kCount.
template <int kCount>
__device__ int valid_count(uint32_t i, uint32_t end) {
  return i >= end ? 0 : (end - i < kCount ? static_cast<int>(end - i) : kCount);
}

// --- block-wide operations ----------------------------------------------------------------

// Exclusive prefix sum in thread order; `total` receives the block's sum.
// scratch: kWarps words of shared memory, free again when the call returns.
__device__ inline uint32_t block_exclusive_scan(uint32_t value, uint32_t* scratch,
                                                uint32_t& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint32_t inclusive = value;
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint32_t left = __shfl_up_sync(kAllLanes, inclusive, distance);
    if (lane >= distance) inclusive += left;
  }
  if (lane == 31) scratch[warp] = inclusive;
  __syncthreads();
  uint32_t before = 0;
  total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += scratch[w];
    total += scratch[w];
  }
  __syncthreads();
  return before + inclusive - value;
}

// Sum over the block, the same bits on every run: a fixed tree within each warp, then the warps
// in order. Every thread receives it. scratch: kWarps values of shared memory, free afterwards.
template <class V>
__device__ V block_sum(V value, V* scratch) {
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_down_sync(kAllLanes, value, distance);
  }
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  V total = 0;
  for (int w = 0; w < kWarps; ++w) total += scratch[w];
  __syncthreads();
  return total;
}

// True in every thread of exactly one of `expected` blocks, the last to arrive at `counter`.
// What the others wrote before arriving is then visible to it, so it can go on with the next
// stage without another launch and without the host.
__device__ inline bool last_to_arrive(uint32_t* counter, uint32_t expected) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(counter, 1u) + 1 == expected;
  __syncthreads();
  const bool result = last;
  if (result) __threadfence();
  return result;
}

// --- launches -----------------------------------------------------------------------------

// shared_bytes: of dynamic shared memory.
template <class... P, class... A>
void launch_shared(void (*kernel)(P...), uint32_t blocks, uint32_t shared_bytes,
                   cudaStream_t stream, const A&... args) {
  if (blocks == 0) return;
#ifdef SPARSELTH_EMULATION
  emulation::run_grid(blocks, kThreads, [&] { kernel(static_cast<P>(args)...); }, shared_bytes);
#else
  if (shared_bytes > 48 << 10) {  // more than that is had for the asking only
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
  }
  kernel<<<blocks, kThreads, shared_bytes, stream>>>(static_cast<P>(args)...);
#endif
}

template <class... P, class... A>
void launch(void (*kernel)(P...), uint32_t blocks, cudaStream_t stream, const A&... args) {
  launch_shared(kernel, blocks, 0, stream, args...);
}

}  // namespace sparselth::cuda
