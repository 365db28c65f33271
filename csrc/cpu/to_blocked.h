// Conversions between images and blocks, for the ops that need one inside.
#pragma once

#include "cpu/blocked_tensors.h"

namespace sparselth {

// x (N, C, H, W), any strides, float or double (or 16 bit, widened): blocks with a halo of zeros.
Tensor to_blocked(const Tensor& x, int64_t lanes, int64_t halo);
// Images of a blocked tensor, written to `images`: contiguous or channels_last.
void from_blocked_into(const Tensor& blocked, int64_t halo, const Tensor& images);
// The tensor itself, or a copy with a wider halo.
Tensor with_halo(const Tensor& blocked, int64_t halo, int64_t wanted);

}  // namespace sparselth
