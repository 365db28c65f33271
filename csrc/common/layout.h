// The memory layouts of an activation.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace sparselth {

using torch::stable::Tensor;

inline bool is_channels_last(const Tensor& t) {
  // As torch's is_contiguous(memory_format=channels_last): strides of extents 1 do not matter.
  if (t.dim() != 4) return false;
  int64_t expected = 1;
  for (int dim : {1, 3, 2, 0}) {
    if (t.size(dim) != 1) {
      if (t.stride(dim) != expected) return false;
      expected *= t.size(dim);
    }
  }
  return true;
}

// The layout rule of contract.memory_format.
inline bool prefers_channels_last(const Tensor& t) {
  return !t.is_contiguous() && is_channels_last(t);
}

}  // namespace sparselth
