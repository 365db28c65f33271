// Exact selection of the k largest magnitudes, over many tensors at once.
//
//   pool     one selection: a tensor of its own, or (global) all tensors in list order. Its chunks
//             (segments.cuh) are consecutive.
//   pivot     the k-th largest magnitude of a pool. Kept is what lies above it, and of those
//             equal to it (ties) the first `keep` in flat order.
//   NaN, Inf  rank above all else, NaN first. They are counted per tensor, at no extra pass: the
//             first digit holds the whole exponent. What to do about them is the op's business.
//
// The pivot is found by radix selection on the magnitude bits, most significant digit first:
// one histogram pass per 11-bit digit (float32: 3, float64: 6, 16-bit: 2); the last block of a
// pool to finish picks the digit. Ties need ranks only where not all of them are kept; then
// they are counted per chunk and scanned. No host synchronization, the same launches whatever
// the values, so a CUDA graph can hold it. Integers only: the result is the same on every run.
//
// Launches: ceil(tensors / 64) for the table, one per digit, one for ties, one by the op.
// Traffic: each digit pass and the op's own pass read the values once; the tie pass only when
// ties are cut.
//
// Reference: Alabi et al., "Fast k-selection algorithms for graphics processing units", 2012;
// Zhang et al., "Parallel Top-K Algorithms on GPU: A Comprehensive Study", SC 2023 (the
// last-block idiom, AIR Top-K).
#pragma once

#include "segments.cuh"

namespace sparselth::cuda {

constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
constexpr int kBinsPerThread = kBins / kThreads;

struct Pool {
  uint64_t pivot;  // its leading digits while the search runs
  uint32_t keep;   // how many of the values that share them are kept
  uint32_t tied;   // how many values share them
  uint32_t first_chunk;
  uint32_t chunk_count;
  uint32_t done;
};

// What the kernels receive by value.
struct Select : Segments {
  Pool* pools;
  uint32_t* ties_in_chunk;  // counts, then the number of ties before the chunk
  uint32_t* histograms;     // (pools, kBins), all zero between passes
  bool global_;

  __device__ uint32_t pool_of(const Chunk& chunk) const { return global_ ? 0 : chunk.segment; }
};

// --- launch table -------------------------------------------------------------------------

constexpr int kSegmentsPerLaunch = 64;
static_assert(sizeof(Select) + sizeof(Rows<Segment, kSegmentsPerLaunch>) + 4 <= 4096);

// --- device code --------------------------------------------------------------------------

// Block b writes segment first + b and prepares its pool.
static __global__ void write_table(const __grid_constant__ Select s,
                                   const __grid_constant__ Rows<Segment, kSegmentsPerLaunch> table,
                                   uint32_t first) {
  const Segment& segment = table.rows[blockIdx.x];
  const uint32_t index = first + blockIdx.x;
  write_segment(s, index, segment);
  if (s.global_ && index != 0) return;
  for (uint32_t bin = threadIdx.x; bin < kBins; bin += kThreads) {
    s.histograms[static_cast<uint64_t>(index) * kBins + bin] = 0;
  }
  if (threadIdx.x == 0) {
    // keep == 0 ends the search before it begins: no magnitude reaches this pivot.
    const uint64_t pivot = segment.keep == 0 ? ~uint64_t(0) : 0;
    const uint32_t chunks = s.global_ ? s.chunk_count : chunks_of(s, segment);
    s.pools[index] = {pivot, segment.keep, 0, segment.first_chunk, chunks, 0};
  }
}

// By one block: find the digit in which the pool's keep-th largest value lies, counting bins
// from the top, and leave the histogram empty for the next pass.
__device__ inline void pick_digit(const Select& s, uint32_t index, int width) {
  __shared__ uint32_t scratch[kWarps];
  Pool& pool = s.pools[index];
  uint32_t* histogram = s.histograms + static_cast<uint64_t>(index) * kBins;
  const uint32_t keep = pool.keep;
  const uint64_t prefix = pool.pivot;
  const uint32_t top = kBins - 1 - threadIdx.x * kBinsPerThread;
  uint32_t counts[kBinsPerThread], sum = 0, total;
#pragma unroll
  for (int j = 0; j < kBinsPerThread; ++j) {
    counts[j] = __ldcg(histogram + top - j);  // written by atomics of other blocks: past L1
    sum += counts[j];
    histogram[top - j] = 0;
  }
  uint32_t above = block_exclusive_scan(sum, scratch, total);
  // Exactly one thread's bins hold the keep-th value; the scan's barriers stand between its
  // writes and the other threads' reads of the pool.
  if (above < keep && keep <= above + sum) {
    int j = 0;
    while (above + counts[j] < keep) above += counts[j++];
    pool.pivot = prefix << width | (top - j);
    pool.keep = keep - above;
    pool.tied = counts[j];
  }
  if (threadIdx.x == 0) pool.done = 0;
}

// By one block, after the first digit: those of the block's values whose exponent is all ones.
template <class T>
__device__ void count_nonfinite(const Select& s, Segment& segment, const uint32_t* bins) {
  static_assert(Number<T>::kExponentBits <= kDigitBits);
  constexpr int kMantissa = kDigitBits - Number<T>::kExponentBits;
  uint32_t count = 0;
  for (int bin = kBins - (1 << kMantissa) + threadIdx.x; bin < kBins; bin += kThreads) {
    count += bins[bin];
  }
  if (count != 0) {
    atomicAdd(&segment.nonfinite, count);
    atomicAdd(s.any_nonfinite, 1u);
  }
}

// One digit, `width` bits from bit `shift` on: histogram of the values that share the digits
// found so far.
template <class T, Source kSource>
__global__ void count_digits(const __grid_constant__ Select s, int shift, int width) {
  __shared__ uint32_t bins[kBins];
  const Chunk chunk = chunk_of(s, blockIdx.x);
  Segment& segment = s.segments[chunk.segment];
  Pool& pool = s.pools[s.pool_of(chunk)];
  const bool first = shift + width == Number<T>::kKeyBits;
  if (pool.keep == 0 && !first) return;
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) bins[bin] = 0;
  __syncthreads();
  // In the first pass every value counts, also of a pool that keeps none.
  const auto prefix = static_cast<typename Number<T>::Key>(first ? 0 : pool.pivot);
  for (uint32_t i = chunk.begin + threadIdx.x * kVec<T>; i < chunk.end; i += kTile<T>) {
    const int valid = valid_count<kVec<T>>(i, chunk.end);
    const Pack<T> values = load_values<T, kSource>(segment, i, valid);
    const uint32_t exist = existing<T, kSource>(segment, i, valid);
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) {
      const auto key = magnitude_key(values.v[j]) >> shift;
      if ((exist >> j & 1) && key >> width == prefix) {
        atomicAdd(&bins[static_cast<uint32_t>(key) & ((1u << width) - 1)], 1u);
      }
    }
  }
  __syncthreads();
  if (first) count_nonfinite<T>(s, segment, bins);
  if (pool.keep == 0) return;
  uint32_t* histogram = s.histograms + static_cast<uint64_t>(s.pool_of(chunk)) * kBins;
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) {
    if (bins[bin] != 0) atomicAdd(histogram + bin, bins[bin]);
  }
  if (last_to_arrive(&pool.done, pool.chunk_count)) pick_digit(s, s.pool_of(chunk), width);
}

// By one block: counts of ties per chunk -> number of ties before each chunk of the pool.
__device__ inline void scan_ties(const Select& s, const Pool& pool) {
  __shared__ uint32_t scratch[kWarps];
  uint32_t before = 0, total;
  for (uint32_t base = 0; base < pool.chunk_count; base += kThreads) {
    const uint32_t c = base + threadIdx.x;
    uint32_t* ties = s.ties_in_chunk + pool.first_chunk + c;
    const uint32_t count = c < pool.chunk_count ? __ldcg(ties) : 0;
    const uint32_t rank = before + block_exclusive_scan(count, scratch, total);
    if (c < pool.chunk_count) *ties = rank;
    before += total;
  }
}

// All ties are kept: the usual case, and that of an empty selection.
__device__ inline bool keeps_all_ties(const Pool& pool) { return pool.keep == pool.tied; }

template <class T, Source kSource>
__global__ void count_ties(const __grid_constant__ Select s) {
  __shared__ uint32_t scratch[kWarps];
  const Chunk chunk = chunk_of(s, blockIdx.x);
  const Segment& segment = s.segments[chunk.segment];
  Pool& pool = s.pools[s.pool_of(chunk)];
  if (keeps_all_ties(pool)) return;
  const auto pivot = static_cast<typename Number<T>::Key>(pool.pivot);
  uint32_t ties = 0;
  for (uint32_t i = chunk.begin + threadIdx.x * kVec<T>; i < chunk.end; i += kTile<T>) {
    const int valid = valid_count<kVec<T>>(i, chunk.end);
    const Pack<T> values = load_values<T, kSource>(segment, i, valid);
    const uint32_t exist = existing<T, kSource>(segment, i, valid);
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) {
      if ((exist >> j & 1) && magnitude_key(values.v[j]) == pivot) ++ties;
    }
  }
  const uint32_t total = block_sum(ties, scratch);
  if (threadIdx.x == 0) s.ties_in_chunk[blockIdx.x] = total;
  if (last_to_arrive(&pool.done, pool.chunk_count)) scan_ties(s, pool);
}

// For the op's own pass: which of this thread's existing values are kept, as bits. Called by the
// whole block, tile after tile; `rank` starts as first_rank() and counts the ties passed so far.
template <class T>
__device__ uint32_t kept_bits(const Pool& pool, const Pack<T>& values, uint32_t exist,
                              uint32_t* scratch, uint32_t& rank) {
  const auto pivot = static_cast<typename Number<T>::Key>(pool.pivot);
  uint32_t kept = 0, tied = 0;
#pragma unroll
  for (int j = 0; j < kVec<T>; ++j) {
    const auto key = magnitude_key(values.v[j]);
    if (key > pivot) kept |= 1u << j;
    if (key == pivot) tied |= 1u << j;
  }
  kept &= exist;
  tied &= exist;
  if (keeps_all_ties(pool)) return kept | tied;
  uint32_t total;
  uint32_t mine = rank + block_exclusive_scan(__popc(tied), scratch, total);
#pragma unroll
  for (int j = 0; j < kVec<T>; ++j) {
    if ((tied >> j & 1) && mine++ < pool.keep) kept |= 1u << j;
  }
  rank += total;
  return kept;
}

__device__ inline uint32_t first_rank(const Select& s, const Pool& pool, uint32_t chunk) {
  return keeps_all_ties(pool) ? 0 : s.ties_in_chunk[chunk];
}

// Writes the mask of what is kept and, where results are asked for, how many values of each tensor
// are NaN or Inf.
template <class T>
__global__ void mark_kept(const __grid_constant__ Select s) {
  __shared__ uint32_t scratch[kWarps];
  const Chunk chunk = chunk_of(s, blockIdx.x);
  const Segment& segment = s.segments[chunk.segment];
  const Pool& pool = s.pools[s.pool_of(chunk)];
  if (s.results != nullptr && chunk.begin == 0 && threadIdx.x == 0) {
    s.results[chunk.segment] = segment.nonfinite;
  }
  uint32_t rank = first_rank(s, pool, blockIdx.x);
  for (uint32_t tile = chunk.begin; tile < chunk.end; tile += kTile<T>) {
    const uint32_t i = tile + threadIdx.x * kVec<T>;
    const int valid = valid_count<kVec<T>>(i, chunk.end);
    const Pack<T> values = load_values<T, Source::kValues>(segment, i, valid);
    const uint32_t exist = existing<T, Source::kValues>(segment, i, valid);
    const uint32_t kept = kept_bits(pool, values, exist, scratch, rank);
    Pack<bool, kVec<T>> mask;
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) mask.v[j] = kept >> j & 1;
    store_pack(segment.mask, i, valid, mask);
  }
}

// --- launcher -----------------------------------------------------------------------------

// Collects the tensors, says how much scratch memory it needs, then finds the pivots.
template <class T>
class Selection {
 public:
  explicit Selection(bool global_) { select_.global_ = global_; }

  void add(const Segment& segment, const Axes& = {}) {
    segments_.push_back(segment);
    total_ += segment.count;
  }

  uint64_t total() const { return total_; }

  // Number the chunks and return the bytes of scratch memory. chunk_size: 0 for the default,
  // else a multiple of kTile<T>.
  size_t prepare(uint32_t chunk_size = 0) {
    select_.chunk_size = chunk_size != 0 ? chunk_size : default_chunk_size<T>(total_);
    number_chunks(select_, segments_, [](Segment& segment) -> Segment& { return segment; });
    return lay_out(nullptr);
  }

  // Queue the search. results: (segments, result_words) 64-bit words to clear, or null.
  template <Source kSource>
  const Select& run(void* scratch, void* results, uint32_t result_words, cudaStream_t stream) {
    lay_out(scratch);
    select_.results = static_cast<uint64_t*>(results);
    select_.result_words = result_words;
    in_batches<kSegmentsPerLaunch>(segments_,
                                   [&](const auto& rows, uint32_t count, uint32_t first) {
                                     launch(write_table, count, stream, select_, rows, first);
                                   });
    int shift = Number<T>::kKeyBits;
    while (shift > 0) {
      const int width = shift < kDigitBits ? shift : kDigitBits;
      shift -= width;
      launch(count_digits<T, kSource>, select_.chunk_count, stream, select_, shift, width);
    }
    launch(count_ties<T, kSource>, select_.chunk_count, stream, select_);
    return select_;
  }

 private:
  size_t lay_out(void* base) {
    Layout layout(base);
    const size_t pools = select_.global_ ? 1 : segments_.size();
    place_segments(layout, select_);
    layout.place(select_.pools, pools);
    layout.place(select_.ties_in_chunk, select_.chunk_count);
    layout.place(select_.histograms, pools * kBins);
    return layout.used();
  }

  uint64_t total_ = 0;
  std::vector<Segment> segments_;
  Select select_{};
};

}  // namespace sparselth::cuda
