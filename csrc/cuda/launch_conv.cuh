// The torch side of the convolutions: shapes, plans, and how large a launch may be.
#pragma once

#include <optional>

#include "common/conv_geometry.h"
#include "launch.cuh"

namespace sparselth::cuda {

using Ints = std::vector<int64_t>;

inline Ints shape_of(const Tensor& t) { return Ints(t.sizes().begin(), t.sizes().end()); }

// The words of a plan on the device.
inline const int32_t* plan_words(const char* op, const Tensor& plan) {
  STD_TORCH_CHECK(plan.scalar_type() == ScalarType::Int && plan.is_contiguous(), "sparselth::", op,
                  ": the plan must be contiguous and int32");
  return static_cast<const int32_t*>(plan.const_data_ptr());
}

// fits: whether the tile does.  is_whole: whether the plan's length is that of its mask.
inline void check_conv(const char* op, bool fits, bool is_whole, int64_t blocks) {
  STD_TORCH_CHECK(fits, "sparselth::", op, ": the kernel reaches too far for shared memory");
  STD_TORCH_CHECK(is_whole, "sparselth::", op, ": the plan belongs to another mask; rebuild it");
  STD_TORCH_CHECK(blocks < (int64_t(1) << 31), "sparselth::", op,
                  ": too many tiles for one launch");
}

}  // namespace sparselth::cuda
