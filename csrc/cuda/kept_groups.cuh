// Which weights a pattern keeps, as masks, over many tensors at once.
//
//   boxes, shapes  score_groups (group_scores.cuh) -> the selection of select.cuh among the scores
//                  -> a flag per group -> masks.
//   N:M            decided from the values alone: a value stays when fewer than n of its m
//                  neighbors along the inputs are larger, or equal and before it.
//
// An op that overwrites its values reads the mask after all of it is written: N:M looks at
// neighbors that other threads may own. That costs 2 bytes per value, 1 written and 1 read.
//
// Launches: ceil(tensors / 20) for the table; N:M one more; else one for scores, those of a
// float64 selection, one for flags and one for masks. No host synchronization.
#pragma once

#include "group_scores.cuh"
#include "select.cuh"

namespace sparselth::cuda {

// --- device code --------------------------------------------------------------------------

// Flags of groups -> masks. Segment::mask: what is written.
static __global__ void spread_groups(const __grid_constant__ Grouped g) {
  constexpr int kCount = kVec<bool>;
  const Chunk chunk = chunk_of(g, blockIdx.x);
  const Panels& p = g.panels[chunk.segment];
  for (uint32_t i = chunk.begin + threadIdx.x * kCount; i < chunk.end; i += kTile<bool>) {
    const int valid = valid_count<kCount>(i, chunk.end);
    uint32_t out = p.by_row.quotient(i);
    const uint32_t within = i - out * p.inputs * p.taps;
    uint32_t input = p.by_taps.quotient(within), tap = within - input * p.taps;
    const auto group_here = [&] {
      const uint32_t panel =
          p.by_box_out.quotient(out) * p.across + p.by_box_inputs.quotient(input);
      return p.first_group + panel * p.tap_blocks;
    };
    uint32_t group = group_here();
    Pack<bool, kCount> mask{};
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (j == valid) break;
      const uint32_t of_tap = group + p.by_box_taps.quotient(tap);
      mask.v[j] = g.kept[of_tap] != 0 && (!p.shaped || (g.shapes[g.choices[of_tap]] >> tap & 1));
      if (++tap < p.taps) continue;
      tap = 0;
      if (++input == p.inputs) input = 0, ++out;
      group = group_here();
    }
    store_pack(g.segments[chunk.segment].mask, i, valid, mask);
  }
}

// The panels are the groups of m inputs, their partial sums here the values themselves.
template <class T, Source kSource>
__global__ void keep_n_of_m(const __grid_constant__ Grouped g) {
  __shared__ typename Number<T>::Key keys[kPartials];
  const Job job = job_of(g, blockIdx.x);
  const SingleValues<T, kSource> values(g.segments[job.segment]);
  bool* mask = static_cast<bool*>(g.segments[job.segment].mask);
  const Panels& p = g.panels[job.segment];
  const uint32_t total = job.count * p.partials();
  uint32_t nonfinite = 0;
  for (uint32_t first_tap = 0; first_tap < p.taps; first_tap += p.slice) {
    for (uint32_t at = threadIdx.x; at < total; at += kThreads) {
      const Place place = place_of(p, job, first_tap, at);
      if (place.lane >= place.inputs) continue;
      const T value = values[place.begin];
      keys[at] = magnitude_key(value);
      nonfinite += !is_finite(value);
    }
    __syncthreads();
    for (uint32_t at = threadIdx.x; at < total; at += kThreads) {
      const Place place = place_of(p, job, first_tap, at);
      if (place.lane >= place.inputs) continue;
      uint32_t rank = 0;
      for (uint32_t lane = 0; lane < place.inputs; ++lane) {
        const auto other = keys[place.panel_begin + lane * p.slice];
        rank += other > keys[at] || (other == keys[at] && lane < place.lane);
      }
      mask[place.begin] = rank < g.n;
    }
    __syncthreads();
  }
  report_nonfinite(g, job, nonfinite);
}

// --- launcher -----------------------------------------------------------------------------

// Collects the tensors, says how much scratch memory it needs, then finds the masks.
template <class T>
class GroupSelection {
 public:
  GroupSelection(const Pattern& pattern, bool global_) : pattern_(pattern), pooled_(global_) {
    grouped_.n = static_cast<uint32_t>(pattern.n);
    for (const uint32_t shape : pattern.shapes) grouped_.shapes[grouped_.shape_count++] = shape;
  }

  // Segment::keep counts groups. Where there is no Segment::mask, the masks are scratch memory.
  void add(const Segment& segment, const Axes& axes) {
    const int64_t first = groupings_.empty() ? 0 : group_count();
    groupings_.emplace_back(pattern_, axes).first = first;
    rows_.push_back({segment, {}});
    total_ += segment.count;
    // An empty tensor has no address, wherever its mask is.
    masks_in_scratch_ |= segment.mask == nullptr && segment.count != 0;
  }

  uint64_t total() const { return total_; }

  // Number chunks and jobs and return the bytes of scratch memory. chunk_size: 0 for the defaults,
  // else a multiple of kTile<T>, for both.
  size_t prepare(uint32_t chunk_size = 0) {
    grouped_.chunk_size = chunk_size != 0 ? chunk_size : default_chunk_size<T>(total_);
    number_chunks(grouped_, rows_, [](GroupedSegment& row) -> Segment& { return row.segment; });
    grouped_.job_count = 0;
    for (size_t l = 0; l < rows_.size(); ++l) {
      if (rows_[l].segment.count == 0) continue;
      Panels& panels = rows_[l].panels;
      panels = panels_of(groupings_[l], chunk_size != 0 ? chunk_size : kJobValues);
      panels.first_job = grouped_.job_count;
      grouped_.job_count += panels.jobs();
    }
    return lay_out(nullptr);
  }

  // Queue the work. Masks and counts of NaN and Inf are then in the result's segments. results: as
  // in Selection::run.
  template <Source kSource>
  const Grouped& run(void* scratch, void* results, uint32_t result_words, cudaStream_t stream) {
    lay_out(scratch);
    grouped_.results = static_cast<uint64_t*>(results);
    grouped_.result_words = result_words;
    in_batches<kGroupedPerLaunch>(rows_, [&](const auto& rows, uint32_t count, uint32_t first) {
      launch(write_grouped, count, stream, grouped_, rows, first);
    });
    if (!is_ranked()) {
      launch(keep_n_of_m<T, kSource>, grouped_.job_count, stream, grouped_);
      return grouped_;
    }
    launch(score_groups<T, kSource>, grouped_.job_count, stream, grouped_);
    Selection<double> ranking = ranking_of_scores();
    ranking.prepare();
    const Select& ranked =
        ranking.template run<Source::kValues>(ranking_scratch_, nullptr, 0, stream);
    launch(mark_kept<double>, ranked.chunk_count, stream, ranked);
    launch(spread_groups, grouped_.chunk_count, stream, grouped_);
    return grouped_;
  }

 private:
  bool is_ranked() const { return pattern_.kind != Pattern::kNOfM; }
  int64_t group_count() const { return groupings_.back().first + groupings_.back().groups(); }

  Selection<double> ranking_of_scores() const {
    Selection<double> ranking(pooled_);
    for (size_t l = 0; l < rows_.size(); ++l) {
      Segment scores{};
      scores.values = grouped_.scores + groupings_[l].first;
      scores.mask = grouped_.kept + groupings_[l].first;
      scores.count = static_cast<uint32_t>(groupings_[l].groups());
      scores.keep = rows_[l].segment.keep;
      ranking.add(scores);
    }
    return ranking;
  }

  size_t lay_out(void* base) {
    Layout layout(base);
    place_segments(layout, grouped_);
    layout.place(grouped_.panels, rows_.size());
    layout.place(grouped_.segment_of_job, grouped_.job_count);
    if (is_ranked()) {
      const auto groups = static_cast<size_t>(group_count());
      layout.place(grouped_.scores, groups);
      layout.place(grouped_.kept, groups);
      layout.place(grouped_.choices, pattern_.kind == Pattern::kKernelShapes ? groups : 0);
      layout.place(ranking_scratch_, ranking_of_scores().prepare());
    }
    for (GroupedSegment& row : rows_) {
      if (!masks_in_scratch_) break;
      char* mask;
      layout.place(mask, row.segment.count);
      row.segment.mask = mask;
    }
    return layout.used();
  }

  Pattern pattern_;
  bool pooled_, masks_in_scratch_ = false;
  uint64_t total_ = 0;
  std::vector<Grouping> groupings_;
  std::vector<GroupedSegment> rows_;
  Grouped grouped_{};
  char* ranking_scratch_ = nullptr;
};

// Calls f with what selects single entries or, for a pattern, groups.
template <class T, class F>
void with_selection(const Pattern& pattern, bool global_, const F& f) {
  if (pattern.kind == Pattern::kElement) return f(Selection<T>(global_));
  f(GroupSelection<T>(pattern, global_));
}

}  // namespace sparselth::cuda
