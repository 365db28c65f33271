// Enough of CUDA to run a kernel on the host: a grid block by block, a fiber per thread.
//
//   barriers, shuffles   a fiber waits until the whole block (warp) has arrived; a thread that
//                        returns early, or a warp whose lanes meet in different collectives, stops
//                        the run with a message.
//   shared memory        fresh for every block, filled with garbage, every array in red zones of
//                        AddressSanitizer. host_build.py rewrites `__shared__ T x[N];` into a call.
//   order                blocks, and warps within a block, run in a seeded random order, so that a
//                        result which depends on the order does not pass by luck.
//   atomics, fences      plain operations: only one fiber runs at a time.
//
// Not emulated: the memory model (a missing __threadfence passes), timing, occupancy.
//
// The lighter headers of the standard library only: every mutant is a program of its own, and
// <random>, <functional> and <memory> alone would take a third of its compilation.
#pragma once

#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

#include "fiber.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

using cudaStream_t = void*;

struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct Index3 {
  uint32_t x = 0, y = 0, z = 0;
};
inline Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulation: %s (block %u, thread %u)\n", what, blockIdx.x, threadIdx.x);
  std::exit(3);
}

}  // namespace emulation

[[noreturn]] inline void __trap() { emulation::fail("trap: a plan leads outside"); }

namespace emulation {

// --- order -----------------------------------------------------------------------------------

// SplitMix64 (Steele, Lea, Flood, 2014).
struct Order {
  uint64_t state = 1;

  uint32_t below(uint32_t n) {
    uint64_t x = state += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return static_cast<uint32_t>((x ^ x >> 31) >> 32) * uint64_t{n} >> 32;
  }
  void shuffle(std::vector<uint32_t>& list) {
    for (uint32_t n = list.size(); n > 1; --n) std::swap(list[n - 1], list[below(n)]);
  }
  // 0 to count - 1.
  std::vector<uint32_t> draw(uint32_t count) {
    std::vector<uint32_t> list(count);
    for (uint32_t i = 0; i < count; ++i) list[i] = i;
    shuffle(list);
    return list;
  }
};

// --- fibers -------------------------------------------------------------------------------

constexpr size_t kEntryBytes = 4 << 10;  // what fiber_main and to_scheduler take, with margin
constexpr int kWarpSize = 32;

enum class State { kReady, kAtBarrier, kInWarp, kDone };

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  void* asan_stack = nullptr;
  State state = State::kReady;
};

struct Warp {
  uint64_t given[kWarpSize], seen[kWarpSize];
  uint64_t collective = 0;  // what the waiting lanes are in
  int arrived = 0;
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  void (*kernel)(const void*) = nullptr;
  const void* kernel_arguments = nullptr;
  uint32_t current = 0;
  void* scheduler_pointer = nullptr;
  void* scheduler_asan = nullptr;
  const void* scheduler_bottom = nullptr;
  size_t scheduler_size = 0;
  Order order;
};
inline Machine machine;

inline void to_scheduler() {
  Fiber& self = machine.fibers[machine.current];
  const bool ends = self.state == State::kDone;
  __sanitizer_start_switch_fiber(ends ? nullptr : &self.asan_stack, machine.scheduler_bottom,
                                 machine.scheduler_size);
  emulation_switch(&self.stack_pointer, machine.scheduler_pointer);
  __sanitizer_finish_switch_fiber(self.asan_stack, nullptr, nullptr);
}

inline void fiber_main() {
  __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler_bottom, &machine.scheduler_size);
  machine.kernel(machine.kernel_arguments);
  machine.fibers[machine.current].state = State::kDone;
  to_scheduler();
  std::abort();
}

inline void resume(uint32_t thread) {
  Fiber& fiber = machine.fibers[thread];
  machine.current = thread;
  threadIdx.x = thread;
  __sanitizer_start_switch_fiber(&machine.scheduler_asan, fiber.stack, kStackBytes);
  emulation_switch(&machine.scheduler_pointer, fiber.stack_pointer);
  __sanitizer_finish_switch_fiber(machine.scheduler_asan, nullptr, nullptr);
}

// --- shared memory ------------------------------------------------------------------------

constexpr size_t kSharedBytes = 256 << 10, kRedZone = 64;
constexpr int kMaxSites = 256;

struct Shared {
  alignas(64) char bytes[kSharedBytes];
  size_t used = 0;
  void* at[kMaxSites] = {};
  size_t dynamic_bytes = 0;

  void begin_block(size_t dynamic) {
    ASAN_POISON_MEMORY_REGION(bytes, kSharedBytes);
    used = 0;
    std::fill(std::begin(at), std::end(at), nullptr);
    dynamic_bytes = dynamic;
  }

  void* take(size_t size) {
    char* place = bytes + used + kRedZone;
    used += (size + 2 * kRedZone - 1) / kRedZone * kRedZone;
    if (used + kRedZone > kSharedBytes) fail("out of shared memory");
    ASAN_UNPOISON_MEMORY_REGION(place, size);
    std::memset(place, 0xff, size);  // NaN in every format, which zeros do not hide
    return place;
  }
};
inline Shared shared_memory;

// The array declared at one place of the source, the same for all threads of a block.
template <class T, int kSite>
T& shared() {
  static_assert(kSite < kMaxSites);
  void*& place = shared_memory.at[kSite];
  if (place == nullptr) place = shared_memory.take(sizeof(T));
  return *static_cast<T*>(place);
}

template <class T>
T* dynamic_shared() {
  void*& place = shared_memory.at[kMaxSites - 1];
  if (place == nullptr) place = shared_memory.take(shared_memory.dynamic_bytes);
  return static_cast<T*>(place);
}

// --- grid ---------------------------------------------------------------------------------

inline void run_block(uint32_t threads) {
  Machine& m = machine;
  std::vector<uint32_t> warp_order = m.order.draw(threads / kWarpSize);
  uint32_t done = 0;
  while (done < threads) {
    m.order.shuffle(warp_order);
    uint32_t at_barrier = 0;
    for (const uint32_t warp : warp_order) {
      for (bool progress = true; progress;) {
        progress = false;
        for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
          const uint32_t thread = warp * kWarpSize + lane;
          if (m.fibers[thread].state != State::kReady) continue;
          resume(thread);
          progress = true;
          if (m.fibers[thread].state == State::kDone) ++done;
        }
      }
      for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
        const State state = m.fibers[warp * kWarpSize + lane].state;
        if (state == State::kInWarp) fail("lanes of a warp wait in a collective others left out");
        if (state == State::kAtBarrier) ++at_barrier;
      }
    }
    if (at_barrier != 0 && at_barrier != threads) fail("not all threads reach the barrier");
    for (Fiber& fiber : m.fibers) {
      if (fiber.state == State::kAtBarrier) fiber.state = State::kReady;
    }
  }
}

inline void run_blocks(uint32_t blocks, uint32_t threads, size_t dynamic_bytes) {
  Machine& m = machine;
  if (threads % kWarpSize != 0) fail("a block must be whole warps");
  for (size_t had = m.fibers.size(); had < threads; ++had) {
    m.fibers.emplace_back();
    void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fail("no memory for fiber stacks");
    m.fibers.back().stack = static_cast<char*>(memory);
  }
  m.fibers.resize(threads);
  m.warps.assign(threads / kWarpSize, Warp{});
  gridDim.x = blocks;
  blockDim.x = threads;
  for (const uint32_t block : m.order.draw(blocks)) {
    blockIdx.x = block;
    shared_memory.begin_block(dynamic_bytes);
    for (Fiber& fiber : m.fibers) {
      fiber.state = State::kReady;
      // The frames of the block before never returned, so their red zones are still marked.
      ASAN_UNPOISON_MEMORY_REGION(fiber.stack + kStackBytes - kEntryBytes, kEntryBytes);
      fiber.stack_pointer = fresh_stack_pointer(fiber.stack, fiber_main);
    }
    run_block(threads);
  }
}

template <class Kernel>
void run_grid(uint32_t blocks, uint32_t threads, const Kernel& kernel, size_t dynamic_bytes = 0) {
  machine.kernel = [](const void* arguments) { (*static_cast<const Kernel*>(arguments))(); };
  machine.kernel_arguments = &kernel;
  run_blocks(blocks, threads, dynamic_bytes);
}

// A collective of one warp: returns when all lanes have given their value and can be seen.
inline const uint64_t* meet(uint64_t collective, uint64_t value) {
  Machine& m = machine;
  const uint32_t warp_index = m.current / kWarpSize, lane = m.current % kWarpSize;
  Warp& warp = m.warps[warp_index];
  if (warp.arrived != 0 && warp.collective != collective) fail("a warp's collectives differ");
  warp.collective = collective;
  warp.given[lane] = value;
  if (++warp.arrived == kWarpSize) {
    warp.arrived = 0;
    std::copy(std::begin(warp.given), std::end(warp.given), std::begin(warp.seen));
    for (uint32_t other = 0; other < kWarpSize; ++other) {
      Fiber& fiber = m.fibers[warp_index * kWarpSize + other];
      if (fiber.state == State::kInWarp) fiber.state = State::kReady;
    }
  } else {
    m.fibers[m.current].state = State::kInWarp;
    to_scheduler();
  }
  return warp.seen;
}

template <class T>
T exchange(uint32_t mask, uint64_t collective, T value, int source) {
  static_assert(sizeof(T) <= 8);
  if (mask != 0xffffffffu) fail("only whole warps are emulated");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const uint64_t* all = meet(collective, bits);
  if (source >= 0 && source < kWarpSize) std::memcpy(&value, &all[source], sizeof(T));
  return value;  // out of range: the lane keeps its own
}

inline int lane() { return static_cast<int>(machine.current % kWarpSize); }

}  // namespace emulation

// --- the device functions the kernels use -------------------------------------------------

inline void __syncthreads() {
  emulation::machine.fibers[emulation::machine.current].state = emulation::State::kAtBarrier;
  emulation::to_scheduler();
}
inline void __syncwarp(uint32_t mask = 0xffffffffu) { emulation::exchange(mask, 1, 0, -1); }
inline void __threadfence() {}

template <class T>
T __shfl_up_sync(uint32_t mask, T value, int distance) {
  return emulation::exchange(mask, 0x100u + distance, value, emulation::lane() - distance);
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, int distance) {
  return emulation::exchange(mask, 0x200u + distance, value, emulation::lane() + distance);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int bits) {
  return emulation::exchange(mask, 0x300u + bits, value, emulation::lane() ^ bits);
}
template <class T>
T __shfl_sync(uint32_t mask, T value, int source) {
  return emulation::exchange(mask, 0x400u, value, source % 32);
}
inline uint32_t __ballot_sync(uint32_t mask, bool vote) {
  if (mask != 0xffffffffu) emulation::fail("only whole warps are emulated");
  const uint64_t* votes = emulation::meet(2, vote);
  uint32_t bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= static_cast<uint32_t>(votes[lane] != 0) << lane;
  return bits;
}

template <class T>
T atomicAdd(T* target, std::type_identity_t<T> value) {
  const T old = *target;
  *target = old + value;
  return old;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
inline uint32_t min(uint32_t a, uint32_t b) { return std::min(a, b); }
inline uint32_t max(uint32_t a, uint32_t b) { return std::max(a, b); }
// Rounded each: the sources are compiled without contraction.
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
// Of <cmath>, which has much more, and takes a while.
extern "C" double nan(const char*) noexcept;
extern "C" double fma(double, double, double) noexcept;
inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }

// --- 16-bit formats -----------------------------------------------------------------------

struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __half2float(__half x) {
  _Float16 value;
  std::memcpy(&value, &x, sizeof value);
  return static_cast<float>(value);
}
inline __half __float2half_rn(float x) {
  const _Float16 value = static_cast<_Float16>(x);
  __half result;
  std::memcpy(&result, &value, sizeof value);
  return result;
}
inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t wide = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  uint32_t wide;
  std::memcpy(&wide, &x, sizeof wide);
  if (x != x) return {static_cast<uint16_t>(wide >> 16 | 0x40)};
  return {static_cast<uint16_t>((wide + 0x7fff + (wide >> 16 & 1)) >> 16)};
}
