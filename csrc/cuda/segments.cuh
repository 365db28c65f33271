// Lists of tensors on the device: a table of segments, each cut into chunks for blocks to work on.
//
//   segment   one tensor of the list: its pointers and what is known of it.
//   chunk     a run of one tensor's elements; the unit of work of one block. Chunks are numbered
//             through all tensors in list order.
//
// The table is written by a kernel that gets its rows by value, so pointers reach the device
// without a copy from host memory and a CUDA graph can hold the call.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "common/pattern.h"
#include "device.cuh"

namespace sparselth::cuda {

struct Segment {
  const void* values;  // W of a projection
  void* addend;        // U
  void* target;        // Z
  void* mask;          // read: which values exist; written: which are kept
  uint32_t count;
  uint32_t first_chunk;
  uint32_t keep;       // k; of a global selection in the first segment
  uint32_t done;       // blocks that have finished with this segment, for the op's own use
  uint32_t nonfinite;  // values that are NaN or Inf
};

// What kernels receive by value. The arrays lie in one scratch buffer on the device.
struct Segments {
  Segment* segments;
  uint32_t* segment_of_chunk;
  uint32_t* any_nonfinite;  // whether some segment holds NaN or Inf
  double* partials;         // (chunks, 2), for the op's own use
  uint64_t* results;        // (segments, result_words), zeroed with the table; may be null
  uint32_t result_words;
  uint32_t segment_count;
  uint32_t chunk_count;
  uint32_t chunk_size;
};

// --- launch table -------------------------------------------------------------------------

// At least four tiles per block, so that what a block does once is paid for; doubled until about
// 2,000 blocks are left, which fills the largest GPU.
template <class T>
uint32_t default_chunk_size(uint64_t total) {
  uint64_t size = 4 * kTile<T>;
  while (total / size > 2048 && size < (1u << 24)) size *= 2;
  return static_cast<uint32_t>(size);
}

// --- device code --------------------------------------------------------------------------

// As many rows as fit beside the other arguments into the 4 KiB that kernel arguments may take.
template <class Row, int kRows>
struct Rows {
  Row rows[kRows];
};

__host__ __device__ inline uint32_t chunks_of(const Segments& s, const Segment& segment) {
  return (segment.count + s.chunk_size - 1) / s.chunk_size;
}

// By one block: one row of the table, and all that belongs to it.
__device__ inline void write_segment(const Segments& s, uint32_t index, const Segment& segment) {
  const uint32_t chunks = chunks_of(s, segment);
  for (uint32_t c = threadIdx.x; c < chunks; c += kThreads) {
    s.segment_of_chunk[segment.first_chunk + c] = index;
  }
  for (uint32_t word = threadIdx.x; word < s.result_words; word += kThreads) {
    s.results[static_cast<uint64_t>(index) * s.result_words + word] = 0;
  }
  if (threadIdx.x == 0) s.segments[index] = segment;
  if (threadIdx.x == 0 && index == 0) *s.any_nonfinite = 0;
}

// The part of a tensor that this block works on.
struct Chunk {
  uint32_t segment, begin, end;
};

__device__ inline Chunk chunk_of(const Segments& s, uint32_t chunk) {
  const uint32_t index = s.segment_of_chunk[chunk];
  const Segment& segment = s.segments[index];
  const uint32_t begin = (chunk - segment.first_chunk) * s.chunk_size;
  const uint32_t left = segment.count - begin;
  return {index, begin, begin + (left < s.chunk_size ? left : s.chunk_size)};
}

// What is compared: the values, values + addend rounded to T, or those values that the mask says
// exist.
enum class Source { kValues, kSum, kMasked };

template <class T>
__device__ T sum_of(T a, T b) {
  return Number<T>::narrow(Number<T>::widen(a) + Number<T>::widen(b));
}

template <class T, Source kSource>
__device__ Pack<T> load_values(const Segment& segment, uint32_t i, int valid) {
  Pack<T> values = load_pack<T>(segment.values, i, valid);
  if constexpr (kSource == Source::kSum) {
    const Pack<T> addend = load_pack<T>(segment.addend, i, valid);
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) values.v[j] = sum_of(values.v[j], addend.v[j]);
  }
  return values;
}

// The same one by one, where they do not lie in packs.
template <class T, Source kSource>
struct SingleValues {
  const T *values, *addend;

  __device__ explicit SingleValues(const Segment& segment)
      : values(static_cast<const T*>(segment.values)),
        addend(static_cast<const T*>(segment.addend)) {}

  __device__ T operator[](uint32_t i) const {
    if constexpr (kSource == Source::kSum) return sum_of(values[i], addend[i]);
    return values[i];
  }
};

// Which of a pack's values there are, as bits.
template <class T, Source kSource>
__device__ uint32_t existing(const Segment& segment, uint32_t i, int valid) {
  const uint32_t within = (1u << valid) - 1;
  if constexpr (kSource != Source::kMasked) return within;
  const Pack<bool, kVec<T>> mask = load_pack<bool, kVec<T>>(segment.mask, i, valid);
  uint32_t bits = 0;
#pragma unroll
  for (int j = 0; j < kVec<T>; ++j) bits |= static_cast<uint32_t>(mask.v[j]) << j;
  return bits & within;
}

// --- launcher -----------------------------------------------------------------------------

// Places arrays one behind the other in memory that may not be there yet.
class Layout {
 public:
  explicit Layout(void* base) : base_(static_cast<char*>(base)) {}

  template <class V>
  void place(V*& pointer, size_t count) {
    pointer = reinterpret_cast<V*>(base_ + used_);
    used_ += (count * sizeof(V) + 15) / 16 * 16;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// Numbers the chunks of segments that stand in list order.
template <class Row, class SegmentOf>
void number_chunks(Segments& s, std::vector<Row>& rows, SegmentOf segment_of) {
  s.segment_count = static_cast<uint32_t>(rows.size());
  s.chunk_count = 0;
  for (Row& row : rows) {
    Segment& segment = segment_of(row);
    segment.first_chunk = s.chunk_count;
    s.chunk_count += chunks_of(s, segment);
  }
}

inline void place_segments(Layout& layout, Segments& s) {
  layout.place(s.segments, s.segment_count);
  layout.place(s.segment_of_chunk, s.chunk_count);
  layout.place(s.any_nonfinite, 1);
  layout.place(s.partials, size_t(s.chunk_count) * 2);
}

// Calls write(batch, count, first) for batches of rows that travel in kernel arguments.
template <int kRows, class Row, class Write>
void in_batches(const std::vector<Row>& rows, const Write& write) {
  for (size_t first = 0; first < rows.size(); first += kRows) {
    Rows<Row, kRows> batch{};
    const size_t left = rows.size() - first, count = left < kRows ? left : kRows;
    std::copy_n(rows.begin() + static_cast<std::ptrdiff_t>(first), count, batch.rows);
    write(batch, static_cast<uint32_t>(count), static_cast<uint32_t>(first));
  }
}

}  // namespace sparselth::cuda
