// The torch side of the ops that select: counts, patterns, scratch memory.
#pragma once

#include "launch.cuh"
#include "select.cuh"

namespace sparselth::cuda {

// k's entry at `which`, or of N:M none, counts what is kept of a contiguous tensor.
inline Segment segment_of(const Tensor& values, const std::vector<int64_t>& k, size_t which) {
  Segment segment{};
  segment.values = values.const_data_ptr();
  segment.count = static_cast<uint32_t>(values.numel());
  if (which < k.size()) segment.keep = static_cast<uint32_t>(k[which]);
  return segment;
}

// Scratch memory of a selection on the device of `like`, from torch's caching allocator: no
// synchronization, and reused only by later work of the same stream, so it may be dropped as soon
// as the kernels are queued.
template <class AnySelection>
Tensor scratch_for(AnySelection& selection, const Tensor& like, const char* op) {
  expect(selection.total() < (uint64_t(1) << 32), op, "more than 2^32 values in one call");
  const int64_t bytes = static_cast<int64_t>(selection.prepare());
  return torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
}

}  // namespace sparselth::cuda
