// Where the values of a convolution's weight or mask lie, as a pass meets them.
#pragma once

#include "device.cuh"

namespace sparselth::cuda {

// By row (what the pass computes), column (what it sums over) and tap.
struct WeightStrides {
  int64_t row, column, tap, first;

  __host__ __device__ int64_t at(int32_t r, int32_t c, int32_t t) const {
    return first + r * row + c * column + t * tap;
  }
};

// Of a tensor (C_out, C_in, kH, kW) with these strides, one for all taps. Seen from the input, rows
// are inputs and the taps are turned around.
inline WeightStrides weight_strides(int64_t out, int64_t in, int64_t tap, int64_t taps,
                                    bool by_input) {
  if (by_input) return {in, out, -tap, (taps - 1) * tap};
  return {out, in, tap, 0};
}

}  // namespace sparselth::cuda
