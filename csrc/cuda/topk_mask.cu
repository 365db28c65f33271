// topk_mask: mask[i] = |score[i]| is among the k largest, ties to the lowest index; or what a
// pattern keeps.
//
// Lists of contiguous tensors, one selection per tensor or one over all (global_). See select.cuh
// for single entries, kept_groups.cuh for patterns; their last pass writes the bool masks.
// Traffic per value of b bytes: single entries (digits + 1) b read, 1 written; boxes and shapes b
// read, 1 written, and the selection among the groups' scores; N:M b read, 1 written.
#include "kept_groups.cuh"

namespace sparselth::cuda {

// --- device code --------------------------------------------------------------------------
// Segment: scores as values, mask.  Segments::results: per tensor, how many are NaN or Inf.

static __global__ void write_nonfinite(const __grid_constant__ Segments s) {
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index < s.segment_count) s.results[index] = s.segments[index].nonfinite;
}

// --- launcher -----------------------------------------------------------------------------

// nonfinite: (tensors,) 64-bit.
template <class T>
void queue_topk_mask(Selection<T>& selection, void* scratch, void* nonfinite, cudaStream_t stream) {
  const Select& s = selection.template run<Source::kValues>(scratch, nonfinite, 1, stream);
  launch(mark_kept<T>, s.chunk_count, stream, s);
}

template <class T>
void queue_topk_mask(GroupSelection<T>& selection, void* scratch, void* nonfinite,
                     cudaStream_t stream) {
  const Segments& s = selection.template run<Source::kValues>(scratch, nonfinite, 1, stream);
  launch(write_nonfinite, (s.segment_count + kThreads - 1) / kThreads, stream, s);
}

}  // namespace sparselth::cuda

#ifndef SPARSELTH_EMULATION
#include <tuple>

#include "launch_selection.cuh"

namespace sparselth::cuda {

std::tuple<std::vector<Tensor>, Tensor> topk_mask(std::vector<Tensor> scores,
                                                  std::vector<int64_t> k, bool global_,
                                                  std::vector<int64_t> pattern_code) {
  const char* op = "topk_mask";
  check_kind(op, "scores", scores);
  check_sizes(op, scores);
  const Pattern pattern(pattern_code);
  check_counts(op, k, pattern, global_, scores);
  std::vector<Tensor> masks;
  const DeviceGuard guard(scores[0].get_device_index());
  const cudaStream_t stream = current_stream(scores[0].get_device_index());
  const std::vector<Tensor> inputs = contiguous_all(scores);
  for (const Tensor& t : inputs) {
    masks.push_back(torch::stable::new_empty(t, t.sizes(), ScalarType::Bool));
  }
  const int64_t rows = static_cast<int64_t>(scores.size());
  Tensor nonfinite = torch::stable::new_empty(scores[0], {rows}, ScalarType::Long);
  dispatch_float(scores[0].scalar_type(), "topk_mask", [&]<class T>(T*) {
    with_selection<T>(pattern, global_, [&](auto selection) {
      for (size_t l = 0; l < inputs.size(); ++l) {
        Segment segment = segment_of(inputs[l], k, global_ ? 0 : l);
        segment.mask = masks[l].mutable_data_ptr();
        selection.add(segment, axes_of(inputs[l].sizes()));
      }
      const Tensor scratch = scratch_for(selection, scores[0], "topk_mask");
      queue_topk_mask(selection, scratch.mutable_data_ptr(), nonfinite.mutable_data_ptr(), stream);
    });
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
