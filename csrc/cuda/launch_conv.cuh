// The torch side of the convolutions: shapes, plans, and how large a launch may be.
#pragma once

#include <optional>

#include "common/conv_geometry.h"
#include "launch.cuh"
#include "weight_strides.cuh"

namespace sparselth::cuda {

// The words of a plan on the device of `like`. Its length is compared with what the shapes give, in
// check_conv; its words are not read here, which would wait for the GPU: a kernel that finds one
// that leads outside traps.
inline const int32_t* plan_words(const char* op, const Tensor& plan, const Tensor& like) {
  expect(plan.scalar_type() == ScalarType::Int && plan.dim() == 1 && plan.is_contiguous(), op,
         "the plan must be a contiguous int32 vector, got ", toString(plan.scalar_type()),
         " of shape ", Extents(plan));
  check_device(op, "the plan", plan, like);
  return static_cast<const int32_t*>(plan.const_data_ptr());
}

// fits: whether the tile does.  is_whole: whether the plan's length is that of its mask.
inline void check_conv(const char* op, bool fits, bool is_whole, int64_t blocks) {
  expect(fits, op, "the kernel reaches too far for shared memory");
  expect(is_whole, op, "the plan belongs to another mask; rebuild it");
  expect(blocks < (int64_t(1) << 31), op, "too many tiles for one launch");
}

// A weight or mask (C_out, C_in, kH, kW) as it lies; copied where no one stride serves all taps.
struct WeightInPlace {
  Tensor tensor;
  WeightStrides strides;

  WeightInPlace(const Tensor& given, bool by_input) : tensor(given) {
    const int64_t width = tensor.size(3), taps = tensor.size(2) * width;
    if (tensor.size(2) > 1 && tensor.stride(2) != width * tensor.stride(3))
      tensor = torch::stable::contiguous(given);
    const int64_t tap = width > 1 ? tensor.stride(3) : tensor.stride(2);
    strides = weight_strides(tensor.stride(0), tensor.stride(1), tap, taps, by_input);
  }
};

}  // namespace sparselth::cuda
