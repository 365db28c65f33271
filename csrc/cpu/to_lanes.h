// Conversions between images and bundles, for the ops that need one inside.
#pragma once

#include "cpu/lane_tensors.h"

namespace sparselth {

// x (N, C, H, W), any strides, of any type of lanes: bundles with a halo of zeros.
Tensor to_lanes(const Tensor& x, int64_t lanes, int64_t halo);
// Images of a tensor in lanes, written to `images`: contiguous or channels_last.
void from_lanes_into(const Tensor& input, int64_t halo, const Tensor& images);
// The tensor itself, or a copy with a wider halo.
Tensor with_halo(const Tensor& input, int64_t halo, int64_t wanted);

}  // namespace sparselth
