// Blocked activations: [block][channel][row][column][lane], contiguous, with a halo of zeros.
//
// kLanes images lie side by side in one vector, so every load of a kernel is one whole, aligned
// vector whatever the stride, padding and dilation. Lanes beyond the batch are zero. Described for
// users in sparselth/ops/blocked_layout.py.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/isa.h"
#include "cpu/tensors.h"

namespace sparselth {

// Steps are in values.
template <class T>
struct Blocked {
  T* data;
  int64_t blocks, channels, height, width, halo, lanes;

  int64_t row_step() const { return (width + 2 * halo) * lanes; }
  int64_t channel_step() const { return (height + 2 * halo) * row_step(); }
  int64_t block_step() const { return channels * channel_step(); }
  int64_t size() const { return blocks * block_step(); }
  // Where pixel (row, column) of the block's first channel lies; it may be in the halo.
  T* at(int64_t block, int64_t row, int64_t column) const {
    return data + block * block_step() + (row + halo) * row_step() + (column + halo) * lanes;
  }
};

inline int64_t block_count(int64_t batch, int64_t lanes) { return (batch + lanes - 1) / lanes; }

template <class T>
Blocked<T> as_blocked(const Tensor& t, int64_t halo) {
  return {data<std::remove_const_t<T>>(t),
          t.size(0),
          t.size(1),
          t.size(2) - 2 * halo,
          t.size(3) - 2 * halo,
          halo,
          t.size(4)};
}

// Images per block of a compute type: the register width of the running instruction set.
inline int64_t block_lanes(ScalarType dtype) {
  const int64_t bytes = isa() == Isa::avx512 ? 64 : isa() == Isa::avx2 ? 32 : 16;
  return bytes / (dtype == ScalarType::Double ? 8 : 4);
}

// The same for a tensor from outside.
template <class T>
Blocked<T> checked_blocked(const Tensor& t, int64_t halo) {
  STD_TORCH_CHECK(t.dim() == 5 && t.is_contiguous() && t.size(4) == block_lanes(t.scalar_type()),
                  "a blocked tensor is 5-dimensional, contiguous and ends in ",
                  block_lanes(t.scalar_type()), " lanes for this type on this CPU");
  return as_blocked<T>(t, halo);
}

inline Tensor empty_blocked(const Tensor& like, int64_t blocks, int64_t channels, int64_t height,
                            int64_t width, int64_t halo, int64_t lanes) {
  return torch::stable::new_empty(
      like, Ints{blocks, channels, height + 2 * halo, width + 2 * halo, lanes});
}

}  // namespace sparselth
