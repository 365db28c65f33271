// Patterns on the device: how the groups of a weight lie in memory, and which block has which.
//
//   group   what a pattern keeps or prunes together (sparselth/ops/contract/, common/pattern.h):
//   a
//           box of outs x inputs x taps of a tensor seen as contiguous (out, inputs, taps).
//   panel   all groups of one out block and one input block: rows of contiguous columns (input,
//           tap). Panels next to each other continue each other's columns.
//   lane    an input's index within its panel modulo 32. A panel has lanes x taps partial sums: one
//           for each of its columns, or where there are more than 32 inputs, for every 32nd input.
//           The partial sums of consecutive panels lie over consecutive columns, so that threads
//           which take them in order read memory in order, whatever the box.
//   job     consecutive panels of one tensor; what one block scores.
//   slice   so many taps at a time that a panel's partial sums fit in shared memory. All taps, but
//           for kernels of hundreds of them.
#pragma once

#include "segments.cuh"

namespace sparselth::cuda {

// --- launch table -------------------------------------------------------------------------

constexpr uint32_t kPartials = 2048;  // of a job: 16 KiB of float64
constexpr uint32_t kLanes = 32;
constexpr int kMostShapes = 16;
constexpr int kGroupedPerLaunch = 20;

// Values of a job where groups are small: several loads for each thread, and enough jobs for every
// SM from one large layer. Of long groups it takes at least so many as fill a memory transaction.
constexpr uint32_t kJobValues = 8192;

// --- device code --------------------------------------------------------------------------

// The panels of one tensor.
struct Panels {
  uint32_t out, inputs, taps;
  uint32_t box_out, box_inputs, box_taps;  // extents of a whole group
  uint32_t across, tap_blocks;             // panels side by side; groups of a panel
  uint32_t count, first_group;
  uint32_t lanes, slice;
  uint32_t per_job = 1, first_job;
  bool shaped;  // kernels that keep one of the pattern's shapes
  Divisor by_row, by_taps, by_slice, by_panel, by_across, by_box_out, by_box_inputs, by_box_taps,
      by_tap_blocks;

  __host__ __device__ uint32_t partials() const { return lanes * slice; }
  __host__ __device__ uint32_t jobs() const { return (count + per_job - 1) / per_job; }
};

// What kernels receive by value.
struct Grouped : Segments {
  Panels* panels;
  uint32_t* segment_of_job;
  double* scores;    // per group
  uint8_t* kept;     // per group
  uint8_t* choices;  // per kernel, its shape
  uint32_t job_count;
  uint32_t n;  // of m
  uint32_t shape_count;
  uint32_t shapes[kMostShapes];  // bit t: tap t stays
};

struct GroupedSegment {
  Segment segment;
  Panels panels;
};

using GroupedRows = Rows<GroupedSegment, kGroupedPerLaunch>;
static_assert(sizeof(Grouped) + sizeof(GroupedRows) + 4 <= 4096);

// Block b writes tensor first + b.
static __global__ void write_grouped(const __grid_constant__ Grouped g,
                                     const __grid_constant__ GroupedRows table, uint32_t first) {
  const GroupedSegment& row = table.rows[blockIdx.x];
  const uint32_t index = first + blockIdx.x;
  write_segment(g, index, row.segment);
  for (uint32_t job = threadIdx.x; job < row.panels.jobs(); job += kThreads) {
    g.segment_of_job[row.panels.first_job + job] = index;
  }
  if (threadIdx.x == 0) g.panels[index] = row.panels;
}

// What this block works on: `count` panels from `first` on.
struct Job {
  uint32_t segment, first, count;
};

__device__ inline Job job_of(const Grouped& g, uint32_t block) {
  const uint32_t index = g.segment_of_job[block];
  const Panels& panels = g.panels[index];
  const uint32_t first = (block - panels.first_job) * panels.per_job;
  const uint32_t left = panels.count - first;
  return {index, first, left < panels.per_job ? left : panels.per_job};
}

// Where the values of a partial sum lie: `rows` of every 32nd of the inputs below `inputs`, counted
// from `lane` on. Nowhere when rows is 0.
struct Place {
  uint32_t begin;  // index of the first value
  uint32_t rows, inputs, lane;
  uint32_t panel_begin;  // the first partial sum of the panel with the same tap
};

// at: number of the partial sum in the job. first_tap: of the slice.
__device__ inline Place place_of(const Panels& p, const Job& job, uint32_t first_tap, uint32_t at) {
  const uint32_t local = p.by_panel.quotient(at), within = at - local * p.partials();
  const uint32_t lane = p.by_slice.quotient(within), tap = within - lane * p.slice;
  const uint32_t panel = job.first + local;
  const uint32_t down = p.by_across.quotient(panel), right = panel - down * p.across;
  const uint32_t out = down * p.box_out, input = right * p.box_inputs;
  Place place{(out * p.inputs + input + lane) * p.taps + first_tap + tap, 0, 0, lane,
              local * p.partials() + tap};
  if (local >= job.count || first_tap + tap >= p.taps) return place;
  place.rows = min(p.box_out, p.out - out);
  place.inputs = min(p.box_inputs, p.inputs - input);
  return place;
}

// NaN and Inf that a thread has found among a tensor's values.
__device__ inline void report_nonfinite(const Grouped& g, const Job& job, uint32_t found) {
  if (found == 0) return;
  atomicAdd(&g.segments[job.segment].nonfinite, found);
  atomicAdd(g.any_nonfinite, 1u);
}

// --- launcher -----------------------------------------------------------------------------

// grouping: of a tensor with elements. job_values: how many values a job has, if its panels allow.
inline Panels panels_of(const Grouping& grouping, uint32_t job_values) {
  const auto least = [](int64_t a, int64_t b) { return static_cast<uint32_t>(a < b ? a : b); };
  const Axes &axes = grouping.axes, &box = grouping.box;
  Panels p{};
  p.out = static_cast<uint32_t>(axes.out);
  p.inputs = static_cast<uint32_t>(axes.inputs);
  p.taps = static_cast<uint32_t>(axes.taps);
  p.box_out = least(box.out, axes.out);
  p.box_inputs = least(box.inputs, axes.inputs);
  p.box_taps = least(box.taps, axes.taps);
  p.across = static_cast<uint32_t>(grouping.blocks[1]);
  p.tap_blocks = static_cast<uint32_t>(grouping.blocks[2]);
  p.count = static_cast<uint32_t>(grouping.blocks[0] * grouping.blocks[1]);
  p.first_group = static_cast<uint32_t>(grouping.first);
  p.lanes = least(p.box_inputs, kLanes);
  p.slice = least(p.taps, kPartials / p.lanes);
  p.shaped = grouping.shaped;
  const uint64_t values = uint64_t(p.box_out) * p.box_inputs * p.taps;
  const uint32_t fit = kPartials / p.partials(), fill = (kLanes - 1) / p.partials() + 1;
  p.per_job = std::min(fit, std::max(static_cast<uint32_t>(job_values / values), fill));
  p.by_row = Divisor(p.inputs * p.taps);
  p.by_taps = Divisor(p.taps);
  p.by_slice = Divisor(p.slice);
  p.by_panel = Divisor(p.partials());
  p.by_across = Divisor(p.across);
  p.by_box_out = Divisor(p.box_out);
  p.by_box_inputs = Divisor(p.box_inputs);
  p.by_box_taps = Divisor(p.box_taps);
  p.by_tap_blocks = Divisor(p.tap_blocks);
  return p;
}

}  // namespace sparselth::cuda
