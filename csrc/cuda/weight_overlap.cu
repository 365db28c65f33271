// weight_overlap: per tensor pair, how many of the k largest magnitudes of a and of b coincide.
//
// One selection (select.cuh) over the 2 L tensors a_0 .. a_{L-1}, b_0 .. b_{L-1}, each with its
// own k, or with several, for which it comes several times; a pair has the same shape, so its
// chunks match one to one. Integer counts: exact. The count of a pair with NaN or Inf is -1.
// With masks, entries outside them do not exist, in any pass.
// Traffic per pair of values of b bytes: 2 (digits + 1) b read, with masks b + 1 for b.
//
// Reference: Liu et al., "Lottery Ticket Preserves Weight Correlation: Is It Desirable or Not?",
// ICML 2021, section 3.
#include "select.cuh"

namespace sparselth::cuda {

// --- device code --------------------------------------------------------------------------
// Segment: values, and the mask of those that exist.  Segments::results: one count per segment,
// those of a are used.

template <class T, Source kSource>
__global__ void count_common(const __grid_constant__ Select s) {
  __shared__ uint32_t scratch[kWarps];
  const uint32_t pairs = s.segment_count / 2;
  const Chunk chunk = chunk_of(s, blockIdx.x);
  const Segment& a = s.segments[chunk.segment];
  const Segment& b = s.segments[chunk.segment + pairs];
  if (a.nonfinite != 0 || b.nonfinite != 0) {
    if (chunk.begin == 0 && threadIdx.x == 0) s.results[chunk.segment] = ~uint64_t(0);
    return;
  }
  const Pool& pool_a = s.pools[chunk.segment];
  const Pool& pool_b = s.pools[chunk.segment + pairs];
  const uint32_t chunk_b = b.first_chunk + (blockIdx.x - a.first_chunk);
  uint32_t rank_a = first_rank(s, pool_a, blockIdx.x);
  uint32_t rank_b = first_rank(s, pool_b, chunk_b);
  uint32_t common = 0;
  for (uint32_t tile = chunk.begin; tile < chunk.end; tile += kTile<T>) {
    const uint32_t i = tile + threadIdx.x * kVec<T>;
    const int valid = valid_count<kVec<T>>(i, chunk.end);
    const Pack<T> values_a = load_values<T, kSource>(a, i, valid);
    const Pack<T> values_b = load_values<T, kSource>(b, i, valid);
    const uint32_t exist = existing<T, kSource>(a, i, valid);  // a and b share the mask
    const uint32_t kept_a = kept_bits(pool_a, values_a, exist, scratch, rank_a);
    const uint32_t kept_b = kept_bits(pool_b, values_b, exist, scratch, rank_b);
    common += __popc(kept_a & kept_b);
  }
  common = block_sum(common, scratch);
  if (threadIdx.x == 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(s.results + chunk.segment),
              static_cast<unsigned long long>(common));
  }
}

// --- launcher -----------------------------------------------------------------------------

// The selection holds all a, then all b. counts: (2 L,) 64-bit, the first L are the result.
template <class T, Source kSource>
void queue_weight_overlap(Selection<T>& selection, void* scratch, void* counts,
                          cudaStream_t stream) {
  const Select& s = selection.template run<kSource>(scratch, counts, 1, stream);
  launch(count_common<T, kSource>, s.chunk_count / 2, stream, s);
}

template <class T>
void queue_weight_overlap(Selection<T>& selection, bool masked, void* scratch, void* counts,
                          cudaStream_t stream) {
  if (masked) return queue_weight_overlap<T, Source::kMasked>(selection, scratch, counts, stream);
  queue_weight_overlap<T, Source::kValues>(selection, scratch, counts, stream);
}

}  // namespace sparselth::cuda

#ifndef SPARSELTH_EMULATION
#include "launch_selection.cuh"

namespace sparselth::cuda {

Tensor weight_overlap(std::vector<Tensor> a, std::vector<Tensor> b, std::vector<Tensor> masks,
                      std::vector<int64_t> k) {
  const char* op = "weight_overlap";
  check_kind(op, "a", a);
  check_list(op, "b", b, a);
  check_masks(op, masks, a);
  check_sizes(op, a);
  check_overlap_counts(op, k, a);
  const size_t asked = k.size() / a.size();
  const DeviceGuard guard(a[0].get_device_index());
  const cudaStream_t stream = current_stream(a[0].get_device_index());
  const std::vector<Tensor> inputs_a = contiguous_all(a), inputs_b = contiguous_all(b),
                            inside = contiguous_all(masks);
  const int64_t rows = static_cast<int64_t>(a.size());
  Tensor counts =
      torch::stable::new_empty(a[0], {2 * rows, static_cast<int64_t>(asked)}, ScalarType::Long);
  dispatch_float(a[0].scalar_type(), "weight_overlap", [&]<class T>(T*) {
    Selection<T> selection(/*global_=*/false);
    for (const auto* inputs : {&inputs_a, &inputs_b}) {
      for (size_t l = 0; l < inputs->size(); ++l) {
        const Tensor& t = (*inputs)[l];
        for (size_t q = 0; q < asked; ++q) {
          Segment segment = segment_of(t, k, l * asked + q);
          if (!inside.empty()) segment.mask = const_cast<void*>(inside[l].const_data_ptr());
          selection.add(segment);
        }
      }
    }
    const Tensor scratch = scratch_for(selection, a[0], "weight_overlap");
    queue_weight_overlap(selection, !inside.empty(), scratch.mutable_data_ptr(),
                         counts.mutable_data_ptr(), stream);
  });
  check_launch("weight_overlap");
  // A copy, so that the result owns just its own memory.
  return torch::stable::clone(torch::stable::narrow(counts, 0, 0, rows));
}

}  // namespace sparselth::cuda

// --- registration -------------------------------------------------------------------------

STABLE_TORCH_LIBRARY_IMPL(sparselth, CUDA, m) {
  m.impl("weight_overlap", TORCH_BOX(&sparselth::cuda::weight_overlap));
}
#endif
