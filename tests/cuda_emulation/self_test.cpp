// The emulation itself: what it must compute, and what it must refuse. argv[1] names the case.
#include <string>

#include "async_copy.h"
#include "tensor_core.h"

namespace {

constexpr uint32_t kThreads = 64;
uint32_t results[kThreads];

// Reverses a block's numbers through static and dynamic shared memory and a barrier.
__global__ void reverse() {
  __shared__ uint32_t numbers[kThreads];
  extern __shared__ uint32_t copies[];
  numbers[threadIdx.x] = threadIdx.x;
  copies[threadIdx.x] = 10 * threadIdx.x;
  __syncthreads();
  const uint32_t other = kThreads - 1 - threadIdx.x;
  results[threadIdx.x] = numbers[other] + copies[other];
}

__global__ void collectives() {
  const uint32_t lane = threadIdx.x % 32;
  uint32_t sum = lane;
  for (int bit = 1; bit < 32; bit *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
  const uint32_t odd = __popc(__ballot_sync(0xffffffffu, lane % 2 == 1));
  results[threadIdx.x] = sum + 1000 * odd + __shfl_sync(0xffffffffu, lane, 7);
}

__global__ void early_return() {
  if (threadIdx.x == 40) return;
  __syncthreads();
}

__global__ void divided_warp() {
  if (threadIdx.x % 2 == 0) {
    __ballot_sync(0xffffffffu, true);
  } else {
    __shfl_sync(0xffffffffu, 1, 0);
  }
}

__global__ void shared_overrun() {
  __shared__ uint32_t numbers[kThreads];
  uint32_t* flat = numbers;
  flat[threadIdx.x + 1] = 1;
}

__global__ void left_over() {
  __shared__ uint32_t number;
  if (blockIdx.x == 0 && threadIdx.x == 0) results[0] = number;
  if (threadIdx.x == 0) number = 7;
}

// D = A B with A[i][k] = 16 i + k and B[k][j] = k == j, in the layouts that the PTX ISA documents.
// B comes through ldmatrix, from rows in reverse order.
__global__ void matrices() {
  __shared__ uint4 rows[32];
  const uint32_t lane = threadIdx.x % 32;
  if (threadIdx.x < 32) {
    uint16_t values[8];
    for (uint32_t j = 0; j < 8; ++j) values[j] = __float2half_rn(lane % 16 == j ? 1 : 0).bits;
    std::memcpy(&rows[31 - lane], values, 16);
  }
  __syncthreads();
  const auto a = [&](uint32_t row, uint32_t column) {
    const uint32_t low = __float2half_rn(float(16 * row + column)).bits;
    return low | uint32_t(__float2half_rn(float(16 * row + column + 1)).bits) << 16;
  };
  const uint32_t row = lane / 4, column = lane % 4 * 2;
  const uint4 left{a(row, column), a(row + 8, column), a(row, column + 8), a(row + 8, column + 8)};
  uint32_t right[4];
  emulation::load_matrices_transposed(&rows[31 - lane], right);
  float d[4] = {1, 2, 3, 4};
  emulation::multiply_add<__half>(d, left, right[0], right[1]);
  const auto at = [&](uint32_t i, uint32_t j) { return float(16 * i + j); };
  results[threadIdx.x] = d[0] == 1 + at(row, column) && d[1] == 2 + at(row, column + 1) &&
                         d[2] == 3 + at(row + 8, column) && d[3] == 4 + at(row + 8, column + 1) &&
                         right[2] == right[0] && right[3] == right[1];
}

// Without transposition a lane gets two neighbors of one row.
__global__ void matrices_as_they_lie() {
  __shared__ uint4 rows[32];
  const uint32_t lane = threadIdx.x % 32;
  uint16_t values[8];
  for (uint32_t j = 0; j < 8; ++j) values[j] = uint16_t(8 * lane + j);
  if (threadIdx.x < 32) std::memcpy(&rows[31 - lane], values, 16);
  __syncthreads();
  uint32_t found[4];
  emulation::load_matrices(&rows[31 - lane], found);
  results[threadIdx.x] = 1;
  for (uint32_t m = 0; m < 4; ++m) {
    const uint32_t first = 8 * (8 * m + lane / 4) + 2 * (lane % 4);
    if (found[m] != (first | (first + 1) << 16)) results[threadIdx.x] = 0;
  }
}

// What is copied is there once it was waited for, and not before.
__global__ void async_copies() {
  __shared__ uint4 copied[3 * kThreads];
  alignas(16) const uint32_t source[4] = {threadIdx.x, 1, 2, 3};
  uint4* const own = copied + 3 * threadIdx.x;
  emulation::copy_async(own, source, true);
  emulation::commit_copies();
  emulation::copy_async(own + 1, nullptr, false);
  emulation::commit_copies();
  emulation::copy_async(own + 2, source, true);
  const bool before = own[0].x == 0xffffffff && own[1].x == 0xffffffff;
  emulation::wait_for_copies<1>();
  const bool first = own[0].x == threadIdx.x && own[0].w == 3 && own[1].x == 0xffffffff;
  emulation::wait_for_copies<0>();
  const bool second = own[1].x == 0 && own[1].w == 0;
  const bool open = own[2].x == 0xffffffff;  // of no group yet
  emulation::commit_copies();
  emulation::wait_for_copies<0>();
  results[threadIdx.x] = before && first && second && open && own[2].x == threadIdx.x;
}

void expect(bool condition) {
  if (!condition) emulation::fail("a wrong result");
}

}  // namespace

int main(int, char** argv) {
  const std::string name = argv[1];
  const auto run = [](void (*kernel)(), uint32_t blocks = 1) {
    emulation::run_grid(blocks, kThreads, kernel, kThreads * sizeof(uint32_t));
  };
  if (name == "reverse") {
    run(reverse);
    for (uint32_t i = 0; i < kThreads; ++i) expect(results[i] == 11 * (kThreads - 1 - i));
  } else if (name == "collectives") {
    run(collectives);
    for (uint32_t i = 0; i < kThreads; ++i) expect(results[i] == 496 + 16000 + 7);
  } else if (name == "matrices") {
    run(matrices);
    for (uint32_t i = 0; i < kThreads; ++i) expect(results[i] == 1);
  } else if (name == "matrices_as_they_lie") {
    run(matrices_as_they_lie);
    for (uint32_t i = 0; i < kThreads; ++i) expect(results[i] == 1);
  } else if (name == "async_copies") {
    run(async_copies);
    for (uint32_t i = 0; i < kThreads; ++i) expect(results[i] == 1);
  } else if (name == "left_over") {
    run(left_over, 8);
    expect(results[0] != 7);  // whatever block ran before, nothing of it is left
  } else if (name == "early_return") {
    run(early_return);
  } else if (name == "divided_warp") {
    run(divided_warp);
  } else if (name == "shared_overrun") {
    run(shared_overrun);
  } else {
    return 2;
  }
  return 0;
}
