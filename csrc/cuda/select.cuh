// Exact selection of the k largest magnitudes, over many tensors at once.
//
//   group     one selection: a tensor of its own, or (pooled) all tensors in list order.
//   pivot     the k-th largest magnitude of a group. Kept is what lies above it, and of those
//             equal to it (ties) the first `keep` in flat order.
//   NaN, Inf  rank above all else, NaN first. They are counted per tensor, at no extra pass: the
//             first digit holds the whole exponent. What to do about them is the op's business.
//   chunk     a run of one tensor's elements; the unit of work of one block. Chunks are numbered
//             through all tensors in list order, so a group's chunks are consecutive.
//
// The pivot is found by radix selection on the magnitude bits, most significant digit first:
// one histogram pass per 11-bit digit (float32: 3, float64: 6, 16-bit: 2); the last block of a
// group to finish picks the digit. Ties need ranks only where not all of them are kept; then
// they are counted per chunk and scanned. No host synchronisation, the same launches whatever
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

#include <vector>

#include "device.cuh"

namespace sparselth::cuda {

constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
constexpr int kBinsPerThread = kBins / kThreads;

// One tensor. `data` is the op's: values (and addend), then what it writes.
struct Segment {
  void* data[3];
  uint32_t count;
  uint32_t first_chunk;
  uint32_t keep;       // k; of the pooled group in the first segment
  uint32_t done;       // blocks that have finished with this segment, for the op's own use
  uint32_t nonfinite;  // values that are NaN or Inf; final after the first digit
};

struct Group {
  uint64_t pivot;  // its leading digits while the search runs
  uint32_t keep;   // how many of the values that share them are kept
  uint32_t tied;   // how many values share them
  uint32_t first_chunk;
  uint32_t chunk_count;
  uint32_t done;
};

// What every kernel receives by value. The arrays lie in one scratch buffer on the device.
struct Select {
  Segment* segments;
  Group* groups;
  uint32_t* segment_of_chunk;
  uint32_t* ties_in_chunk;  // counts, then the number of ties before the chunk
  uint32_t* histograms;     // (groups, kBins), all zero between passes
  uint32_t* any_nonfinite;  // whether some segment holds NaN or Inf
  double* partials;         // (chunks, 2), for the op's own use
  uint64_t* results;        // (segments, result_words), zeroed with the table; may be null
  uint32_t result_words;
  uint32_t segment_count;
  uint32_t chunk_count;
  uint32_t chunk_size;
  bool pooled;
};

// --- launch table -------------------------------------------------------------------------

// Segments per table launch: kernel arguments are limited to 4 KiB.
constexpr int kSegmentsPerLaunch = 64;

// At least four tiles per block, so that clearing and flushing the bins is paid for; doubled
// until about 2,000 blocks are left, which fills the largest GPU.
template <class T>
uint32_t default_chunk_size(uint64_t total) {
  uint64_t size = 4 * kTile<T>;
  while (total / size > 2048 && size < (1u << 24)) size *= 2;
  return static_cast<uint32_t>(size);
}

// --- device code --------------------------------------------------------------------------

struct SegmentTable {
  Segment segments[kSegmentsPerLaunch];
};

// Block b copies segment first + b from the arguments to the device table and prepares all that
// belongs to it. This is how the pointers reach the device without a copy from host memory.
static __global__ void write_table(const __grid_constant__ Select s,
                                   const __grid_constant__ SegmentTable table, uint32_t first) {
  const Segment& segment = table.segments[blockIdx.x];
  const uint32_t index = first + blockIdx.x;
  const uint32_t chunks = (segment.count + s.chunk_size - 1) / s.chunk_size;
  for (uint32_t c = threadIdx.x; c < chunks; c += kThreads) {
    s.segment_of_chunk[segment.first_chunk + c] = index;
  }
  for (uint32_t word = threadIdx.x; word < s.result_words; word += kThreads) {
    s.results[static_cast<uint64_t>(index) * s.result_words + word] = 0;
  }
  if (threadIdx.x == 0) s.segments[index] = segment;
  if (threadIdx.x == 0 && index == 0) *s.any_nonfinite = 0;
  if (s.pooled && index != 0) return;
  for (uint32_t bin = threadIdx.x; bin < kBins; bin += kThreads) {
    s.histograms[static_cast<uint64_t>(index) * kBins + bin] = 0;
  }
  if (threadIdx.x == 0) {
    // keep == 0 ends the search before it begins: no magnitude reaches this pivot.
    const uint64_t pivot = segment.keep == 0 ? ~uint64_t(0) : 0;
    s.groups[index] = {
        pivot, segment.keep, 0, segment.first_chunk, s.pooled ? s.chunk_count : chunks, 0};
  }
}

// The part of a tensor that this block works on.
struct Chunk {
  uint32_t segment, group, begin, end;
};

__device__ inline Chunk chunk_of(const Select& s, uint32_t chunk) {
  const uint32_t index = s.segment_of_chunk[chunk];
  const Segment& segment = s.segments[index];
  const uint32_t begin = (chunk - segment.first_chunk) * s.chunk_size;
  const uint32_t left = segment.count - begin;
  return {index, s.pooled ? 0 : index, begin, begin + (left < s.chunk_size ? left : s.chunk_size)};
}

// The values that are compared: data[0], or data[0] + data[1] rounded to T.
template <class T, bool kSum>
__device__ Pack<T> load_values(const Segment& segment, uint32_t i, int valid) {
  Pack<T> values = load_pack<T>(segment.data[0], i, valid);
  if constexpr (kSum) {
    const Pack<T> addend = load_pack<T>(segment.data[1], i, valid);
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) {
      values.v[j] =
          Number<T>::narrow(Number<T>::widen(values.v[j]) + Number<T>::widen(addend.v[j]));
    }
  }
  return values;
}

// By one block: find the digit in which the group's keep-th largest value lies, counting bins
// from the top, and leave the histogram empty for the next pass.
__device__ inline void pick_digit(const Select& s, uint32_t index, int width) {
  __shared__ uint32_t scratch[kWarps];
  Group& group = s.groups[index];
  uint32_t* histogram = s.histograms + static_cast<uint64_t>(index) * kBins;
  const uint32_t keep = group.keep;
  const uint64_t prefix = group.pivot;
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
  // writes and the other threads' reads of the group.
  if (above < keep && keep <= above + sum) {
    int j = 0;
    while (above + counts[j] < keep) above += counts[j++];
    group.pivot = prefix << width | (top - j);
    group.keep = keep - above;
    group.tied = counts[j];
  }
  if (threadIdx.x == 0) group.done = 0;
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
template <class T, bool kSum>
__global__ void count_digits(const __grid_constant__ Select s, int shift, int width) {
  __shared__ uint32_t bins[kBins];
  const Chunk chunk = chunk_of(s, blockIdx.x);
  Segment& segment = s.segments[chunk.segment];
  Group& group = s.groups[chunk.group];
  const bool first = shift + width == Number<T>::kKeyBits;
  if (group.keep == 0 && !first) return;
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) bins[bin] = 0;
  __syncthreads();
  // In the first pass every value counts, also of a group that keeps none.
  const auto prefix = static_cast<typename Number<T>::Key>(first ? 0 : group.pivot);
  for (uint32_t i = chunk.begin + threadIdx.x * kVec<T>; i < chunk.end; i += kTile<T>) {
    const int valid = valid_count<kVec<T>>(i, chunk.end);
    const Pack<T> values = load_values<T, kSum>(segment, i, valid);
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) {
      const auto key = magnitude_key(values.v[j]) >> shift;
      if (j < valid && key >> width == prefix) {
        atomicAdd(&bins[static_cast<uint32_t>(key) & ((1u << width) - 1)], 1u);
      }
    }
  }
  __syncthreads();
  if (first) count_nonfinite<T>(s, segment, bins);
  if (group.keep == 0) return;
  uint32_t* histogram = s.histograms + static_cast<uint64_t>(chunk.group) * kBins;
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) {
    if (bins[bin] != 0) atomicAdd(histogram + bin, bins[bin]);
  }
  if (last_to_arrive(&group.done, group.chunk_count)) pick_digit(s, chunk.group, width);
}

// By one block: counts of ties per chunk -> number of ties before each chunk of the group.
__device__ inline void scan_ties(const Select& s, const Group& group) {
  __shared__ uint32_t scratch[kWarps];
  uint32_t before = 0, total;
  for (uint32_t base = 0; base < group.chunk_count; base += kThreads) {
    const uint32_t c = base + threadIdx.x;
    uint32_t* ties = s.ties_in_chunk + group.first_chunk + c;
    const uint32_t count = c < group.chunk_count ? __ldcg(ties) : 0;
    const uint32_t rank = before + block_exclusive_scan(count, scratch, total);
    if (c < group.chunk_count) *ties = rank;
    before += total;
  }
}

// All ties are kept: the usual case, and that of an empty selection.
__device__ inline bool keeps_all_ties(const Group& group) { return group.keep == group.tied; }

template <class T, bool kSum>
__global__ void count_ties(const __grid_constant__ Select s) {
  __shared__ uint32_t scratch[kWarps];
  const Chunk chunk = chunk_of(s, blockIdx.x);
  const Segment& segment = s.segments[chunk.segment];
  Group& group = s.groups[chunk.group];
  if (keeps_all_ties(group)) return;
  const auto pivot = static_cast<typename Number<T>::Key>(group.pivot);
  uint32_t ties = 0;
  for (uint32_t i = chunk.begin + threadIdx.x * kVec<T>; i < chunk.end; i += kTile<T>) {
    const int valid = valid_count<kVec<T>>(i, chunk.end);
    const Pack<T> values = load_values<T, kSum>(segment, i, valid);
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) {
      if (j < valid && magnitude_key(values.v[j]) == pivot) ++ties;
    }
  }
  const uint32_t total = block_sum(ties, scratch);
  if (threadIdx.x == 0) s.ties_in_chunk[blockIdx.x] = total;
  if (last_to_arrive(&group.done, group.chunk_count)) scan_ties(s, group);
}

// For the op's own pass: which of this thread's values are kept, as bits. Called by the whole
// block, tile after tile; `rank` starts as first_rank() and counts the ties passed so far.
template <class T>
__device__ uint32_t kept_bits(const Group& group, const Pack<T>& values, int valid,
                              uint32_t* scratch, uint32_t& rank) {
  const auto pivot = static_cast<typename Number<T>::Key>(group.pivot);
  uint32_t kept = 0, tied = 0;
#pragma unroll
  for (int j = 0; j < kVec<T>; ++j) {
    const auto key = magnitude_key(values.v[j]);
    if (j < valid && key > pivot) kept |= 1u << j;
    if (j < valid && key == pivot) tied |= 1u << j;
  }
  if (keeps_all_ties(group)) return kept | tied;
  uint32_t total;
  uint32_t mine = rank + block_exclusive_scan(__popc(tied), scratch, total);
#pragma unroll
  for (int j = 0; j < kVec<T>; ++j) {
    if ((tied >> j & 1) && mine++ < group.keep) kept |= 1u << j;
  }
  rank += total;
  return kept;
}

__device__ inline uint32_t first_rank(const Select& s, const Group& group, uint32_t chunk) {
  return keeps_all_ties(group) ? 0 : s.ties_in_chunk[chunk];
}

// --- launcher -----------------------------------------------------------------------------

// Collects the tensors, says how much scratch memory it needs, then finds the pivots.
template <class T>
class Selection {
 public:
  explicit Selection(bool pooled) : pooled_(pooled) {}

  void add(const void* values, const void* second, const void* third, int64_t count, int64_t keep) {
    segments_.push_back(
        {{const_cast<void*>(values), const_cast<void*>(second), const_cast<void*>(third)},
         static_cast<uint32_t>(count),
         0,
         static_cast<uint32_t>(keep),
         0,
         0});
    total_ += static_cast<uint64_t>(count);
  }

  uint64_t total() const { return total_; }

  // Number the chunks and return the bytes of scratch memory. chunk_size: 0 for the default,
  // else a multiple of kTile<T>.
  size_t prepare(uint32_t chunk_size = 0) {
    select_.chunk_size = chunk_size != 0 ? chunk_size : default_chunk_size<T>(total_);
    select_.chunk_count = 0;
    for (Segment& segment : segments_) {
      segment.first_chunk = select_.chunk_count;
      select_.chunk_count += (segment.count + select_.chunk_size - 1) / select_.chunk_size;
    }
    return lay_out(nullptr);
  }

  // Queue the search. results: (segments, result_words) 64-bit words to clear, or null.
  template <bool kSum>
  const Select& run(void* scratch, void* results, uint32_t result_words, cudaStream_t stream) {
    lay_out(static_cast<char*>(scratch));
    select_.results = static_cast<uint64_t*>(results);
    select_.result_words = result_words;
    select_.segment_count = static_cast<uint32_t>(segments_.size());
    select_.pooled = pooled_;
    for (size_t first = 0; first < segments_.size(); first += kSegmentsPerLaunch) {
      SegmentTable table{};
      const size_t left = segments_.size() - first;
      const size_t count = left < kSegmentsPerLaunch ? left : kSegmentsPerLaunch;
      std::memcpy(table.segments, &segments_[first], count * sizeof(Segment));
      launch(write_table, static_cast<uint32_t>(count), stream, select_, table,
             static_cast<uint32_t>(first));
    }
    int shift = Number<T>::kKeyBits;
    while (shift > 0) {
      const int width = shift < kDigitBits ? shift : kDigitBits;
      shift -= width;
      launch(count_digits<T, kSum>, select_.chunk_count, stream, select_, shift, width);
    }
    launch(count_ties<T, kSum>, select_.chunk_count, stream, select_);
    return select_;
  }

 private:
  // Place the arrays one behind the other from `base` on; returns the bytes they take.
  size_t lay_out(char* base) {
    size_t used = 0;
    const auto place = [&](auto*& pointer, size_t count) {
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(base + used);
      used += (count * sizeof(*pointer) + 15) / 16 * 16;
    };
    const size_t groups = pooled_ ? 1 : segments_.size();
    place(select_.segments, segments_.size());
    place(select_.groups, groups);
    place(select_.segment_of_chunk, select_.chunk_count);
    place(select_.ties_in_chunk, select_.chunk_count);
    place(select_.histograms, groups * kBins);
    place(select_.any_nonfinite, 1);
    place(select_.partials, size_t(select_.chunk_count) * 2);
    return used;
  }

  bool pooled_;
  uint64_t total_ = 0;
  std::vector<Segment> segments_;
  Select select_{};
};

}  // namespace sparselth::cuda
