// admm_project_: Z <- Proj(W + U), U <- W + U - Z, in place, over lists of tensors.
//
// Proj keeps the k largest magnitudes of V = W + U (rounded to the tensors' dtype) and clears the
// rest, so U becomes V where V was cleared and zero where it was kept: no subtraction is needed.
// Also, per tensor, the squared residuals |W - Z|^2 and |Z_new - Z_old|^2: float64 sums in a
// fixed order (threads, warps, then chunks), the same bits on every run.
//
// Where some V is NaN or Inf nothing is written at all, and the residuals of the tensors that hold
// them are NaN; unless `allow_nonfinite`, when they rank above all else.
//
// Single entries are selected by select.cuh, on values W + U that are added again in each pass and
// never stored: 2 b bytes read per value and digit, then 3 b read and 2 b written. With a pattern,
// kept_groups.cuh writes a mask first: 2 b read and 1 written, then 3 b + 1 read and 2 b written.
//
// Reference: Zhang et al., "A Systematic DNN Weight Pruning Framework using Alternating Direction
// Method of Multipliers", ECCV 2018, section 3.
#include "kept_groups.cuh"

namespace sparselth::cuda {

// --- device code --------------------------------------------------------------------------
// Segment: W as values, U as addend, Z as target.  Segments::results: (tensors, 2) doubles.

// By the last block of a tensor: add the chunks' sums in order.
__device__ inline void add_partials(const Segments& s, const Chunk& chunk, double* scratch) {
  const Segment& segment = s.segments[chunk.segment];
  const uint32_t chunks = chunks_of(s, segment);
  double* result = reinterpret_cast<double*>(s.results) + 2 * static_cast<uint64_t>(chunk.segment);
  for (int which = 0; which < 2; ++which) {
    double sum = 0;
    for (uint32_t c = threadIdx.x; c < chunks; c += kThreads) {
      sum += __ldcg(s.partials + 2 * static_cast<uint64_t>(segment.first_chunk + c) + which);
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) result[which] = sum;
  }
}

// Table: a Select, which knows what is kept by its pivots, or a Grouped, by its masks.
template <class T, class Table>
__global__ void project(const __grid_constant__ Table s, bool allow_nonfinite) {
  constexpr bool kByMask = std::is_same_v<Table, Grouped>;
  __shared__ uint32_t rank_scratch[kWarps];
  __shared__ double sum_scratch[kWarps];
  const Chunk chunk = chunk_of(s, blockIdx.x);
  Segment& segment = s.segments[chunk.segment];
  if (!allow_nonfinite && *s.any_nonfinite != 0) {
    if (chunk.begin == 0 && threadIdx.x < 2 && segment.nonfinite != 0) {
      reinterpret_cast<double*>(s.results)[2 * chunk.segment + threadIdx.x] = nan("");
    }
    return;
  }
  uint32_t rank = 0;
  if constexpr (!kByMask) rank = first_rank(s, s.pools[s.pool_of(chunk)], blockIdx.x);
  double primal = 0, change = 0;
  for (uint32_t tile = chunk.begin; tile < chunk.end; tile += kTile<T>) {
    const uint32_t i = tile + threadIdx.x * kVec<T>;
    const int valid = valid_count<kVec<T>>(i, chunk.end);
    const Pack<T> v = load_values<T, Source::kSum>(segment, i, valid);
    uint32_t kept;
    if constexpr (kByMask) {
      kept = existing<T, Source::kMasked>(segment, i, valid);
    } else {
      const uint32_t exist = existing<T, Source::kSum>(segment, i, valid);
      kept = kept_bits(s.pools[s.pool_of(chunk)], v, exist, rank_scratch, rank);
    }
    const Pack<T> w = load_pack<T>(segment.values, i, valid);
    const Pack<T> z_old = load_pack<T>(segment.target, i, valid);
    Pack<T> z, u;
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) {
      const T zero = Number<T>::narrow(0);
      const bool keep = kept >> j & 1;
      z.v[j] = keep ? v.v[j] : zero;
      u.v[j] = keep ? zero : v.v[j];
      const double z_new = Number<T>::widen(z.v[j]);
      const double gap = Number<T>::widen(w.v[j]) - z_new;
      const double step = z_new - Number<T>::widen(z_old.v[j]);
      if (j < valid) {
        primal += gap * gap;
        change += step * step;
      }
    }
    store_pack(segment.target, i, valid, z);
    store_pack(segment.addend, i, valid, u);
  }
  primal = block_sum(primal, sum_scratch);
  change = block_sum(change, sum_scratch);
  if (threadIdx.x == 0) {
    s.partials[2 * static_cast<uint64_t>(blockIdx.x)] = primal;
    s.partials[2 * static_cast<uint64_t>(blockIdx.x) + 1] = change;
  }
  if (last_to_arrive(&segment.done, chunks_of(s, segment))) add_partials(s, chunk, sum_scratch);
}

// --- launcher -----------------------------------------------------------------------------

// selection: a Selection or a GroupSelection.  residuals: (tensors, 2) doubles.
template <class T, template <class> class AnySelection>
void queue_admm_project(AnySelection<T>& selection, void* scratch, void* residuals,
                        bool allow_nonfinite, cudaStream_t stream) {
  const auto& s = selection.template run<Source::kSum>(scratch, residuals, 2, stream);
  launch(project<T, std::decay_t<decltype(s)>>, s.chunk_count, stream, s, allow_nonfinite);
}

}  // namespace sparselth::cuda

#ifndef SPARSELTH_EMULATION
#include "launch_selection.cuh"

namespace sparselth::cuda {

Tensor admm_project_(std::vector<Tensor> weights, std::vector<Tensor> z, std::vector<Tensor> u,
                     std::vector<int64_t> k, bool global_, std::vector<int64_t> pattern_code,
                     bool allow_nonfinite) {
  const char* op = "admm_project_";
  check_kind(op, "weights", weights);
  check_list(op, "z", z, weights);
  check_list(op, "u", u, weights);
  check_sizes(op, weights);
  const Pattern pattern(pattern_code);
  check_counts(op, k, pattern, global_, weights);
  const DeviceGuard guard(weights[0].get_device_index());
  const cudaStream_t stream = current_stream(weights[0].get_device_index());
  const std::vector<Tensor> w_in = contiguous_all(weights), z_io = contiguous_all(z),
                            u_io = contiguous_all(u);
  const int64_t rows = static_cast<int64_t>(weights.size());
  Tensor residuals = torch::stable::new_empty(weights[0], {rows, 2}, ScalarType::Double);
  dispatch_float(weights[0].scalar_type(), "admm_project_", [&]<class T>(T*) {
    with_selection<T>(pattern, global_, [&](auto selection) {
      for (size_t l = 0; l < w_in.size(); ++l) {
        Segment segment = segment_of(w_in[l], k, global_ ? 0 : l);
        segment.addend = u_io[l].mutable_data_ptr();
        segment.target = z_io[l].mutable_data_ptr();
        selection.add(segment, axes_of(w_in[l].sizes()));
      }
      const Tensor scratch = scratch_for(selection, weights[0], "admm_project_");
      queue_admm_project(selection, scratch.mutable_data_ptr(), residuals.mutable_data_ptr(),
                         allow_nonfinite, stream);
    });
  });
  check_launch("admm_project_");
  write_back(z, z_io);
  write_back(u, u_io);
  return residuals;
}

}  // namespace sparselth::cuda

// --- registration -------------------------------------------------------------------------

STABLE_TORCH_LIBRARY_IMPL(sparselth, CUDA, m) {
  m.impl("admm_project_", TORCH_BOX(&sparselth::cuda::admm_project_));
}
#endif
