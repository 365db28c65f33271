// topk_mask: mask[i] = |score[i]| is among the k largest, ties to the lowest index.
//
// Lists of contiguous tensors, one selection per tensor or one over all (pooled). See select.cuh
// for the method; this file adds the pass that writes the bool masks.
// Traffic per value of b bytes: (digits + 1) b read, 1 byte written.
#include "select.cuh"

namespace sparselth::cuda {

// --- device code --------------------------------------------------------------------------
// Segment::data: scores, unused, mask.  Select::results: per tensor, how many are NaN or Inf.

template <class T>
__global__ void write_mask(const __grid_constant__ Select s) {
  __shared__ uint32_t scratch[kWarps];
  const Chunk chunk = chunk_of(s, blockIdx.x);
  const Segment& segment = s.segments[chunk.segment];
  const Group& group = s.groups[chunk.group];
  if (chunk.begin == 0 && threadIdx.x == 0) s.results[chunk.segment] = segment.nonfinite;
  uint32_t rank = first_rank(s, group, blockIdx.x);
  for (uint32_t tile = chunk.begin; tile < chunk.end; tile += kTile<T>) {
    const uint32_t i = tile + threadIdx.x * kVec<T>;
    const int valid = valid_count<kVec<T>>(i, chunk.end);
    const Pack<T> scores = load_values<T, false>(segment, i, valid);
    const uint32_t kept = kept_bits(group, scores, valid, scratch, rank);
    Pack<bool, kVec<T>> mask;
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) mask.v[j] = kept >> j & 1;
    store_pack(segment.data[2], i, valid, mask);
  }
}

// --- launcher -----------------------------------------------------------------------------

// nonfinite: (tensors,) 64-bit.
template <class T>
void queue_topk_mask(Selection<T>& selection, void* scratch, void* nonfinite, cudaStream_t stream) {
  const Select& s = selection.template run<false>(scratch, nonfinite, 1, stream);
  launch(write_mask<T>, s.chunk_count, stream, s);
}

}  // namespace sparselth::cuda

#ifndef SPARSELTH_EMULATION
#include <tuple>

#include "launch.cuh"

namespace sparselth::cuda {

std::tuple<std::vector<Tensor>, Tensor> topk_mask(std::vector<Tensor> scores,
                                                  std::vector<int64_t> k, bool pooled) {
  STD_TORCH_CHECK(!scores.empty(), "sparselth::topk_mask: no tensors");
  std::vector<Tensor> masks;
  check_uniform(scores, scores[0], scores.size(), "topk_mask");
  STD_TORCH_CHECK(k.size() == (pooled ? 1 : scores.size()), "sparselth::topk_mask: length of k");
  const DeviceGuard guard(scores[0].get_device_index());
  const cudaStream_t stream = current_stream(scores[0].get_device_index());
  const std::vector<Tensor> inputs = contiguous_all(scores);
  for (const Tensor& t : inputs) {
    masks.push_back(torch::stable::new_empty(t, t.sizes(), ScalarType::Bool));
  }
  const int64_t rows = static_cast<int64_t>(scores.size());
  Tensor nonfinite = torch::stable::new_empty(scores[0], {rows}, ScalarType::Long);
  dispatch_float(scores[0].scalar_type(), "topk_mask", [&]<class T>(T*) {
    Selection<T> selection(pooled);
    for (size_t l = 0; l < inputs.size(); ++l) {
      selection.add(inputs[l].const_data_ptr(), nullptr, masks[l].mutable_data_ptr(),
                    inputs[l].numel(), k[pooled ? 0 : l]);
    }
    const Tensor scratch = scratch_for(selection, scores[0], "topk_mask");
    queue_topk_mask(selection, scratch.mutable_data_ptr(), nonfinite.mutable_data_ptr(), stream);
  });
  check_launch("topk_mask");
  return {masks, nonfinite};
}

}  // namespace sparselth::cuda

// --- registration -------------------------------------------------------------------------

STABLE_TORCH_LIBRARY_IMPL(sparselth, CUDA, m) {
  m.impl("topk_mask", TORCH_BOX(&sparselth::cuda::topk_mask));
}
#endif
