// The sums of squares by which groups of weights are ranked: boxes, and kernels of given shapes.
//
// In float64 and in the order that the contract fixes, so that every backend finds the same bits:
// outs one after another, inputs into 32 partial sums by their index modulo 32, which are then
// added in halves, taps one after another. Each weight is squared and the square rounded: nothing
// is fused. Partial sums of absent values are zeros, which change no sum.
//
// A block scores a job of panels (panels.cuh). First the partial sums, in shared memory: a thread
// for each, loading a batch of its values before it adds them. A job with few and long sums (whole
// channels, say) gives each to several threads, which load a batch each and add them in turn, so
// that as many loads are under way. Then the sums of each group are folded: the lanes of a panel
// are those of a warp, or of an even part of one, and halves are added by shuffles.
// NaN and Inf are counted on the way.
//
// Traffic: one pass over the values; 8 bytes written per group, and 1 where it chooses a shape.
#pragma once

#include "panels.cuh"

namespace sparselth::cuda {

// --- device code --------------------------------------------------------------------------

// Values a thread loads before it adds them.
template <class T>
constexpr int kBatch = sizeof(T) == 8 ? 8 : 16;

// NaN has one bit pattern, so that it ranks alike everywhere.
__device__ inline double one_nan(double score) { return score == score ? score : nan(""); }

__device__ inline double add_square(double sum, double value) {
  return __dadd_rn(sum, __dmul_rn(value, value));
}

// Threads per partial sum when `left` of them are to be found: whole warps take turns.
__device__ inline uint32_t turns_for(uint32_t left) {
  uint32_t turns = 1;
  while (turns < kWarps && left <= kThreads / (2 * turns)) turns *= 2;
  return turns;
}

// By one block: the partial sums of a job's slice of taps. Returns how many of the values this
// thread loaded are NaN or Inf. column: kThreads values of shared memory.
template <class T, Source kSource>
__device__ uint32_t sum_columns(const SingleValues<T, kSource>& from, const Panels& p,
                                const Job& job, uint32_t first_tap, double* sums, double* column) {
  const uint32_t total = job.count * p.partials();
  const uint32_t inputs = p.inputs, taps = p.taps, box_out = p.box_out;
  const uint32_t steps = box_out * ((p.box_inputs + kLanes - 1) / kLanes);
  uint32_t nonfinite = 0;
  for (uint32_t base = 0; base < total; base += kThreads) {
    const uint32_t turns = turns_for(total - base), width = kThreads / turns;
    const uint32_t mine = threadIdx.x / width, x = threadIdx.x % width;
    const Place place = place_of(p, job, first_tap, base + x);
    if (mine == 0) column[x] = sums[base + x] = 0;
    for (uint32_t first = 0; first < steps; first += turns * kBatch<T>) {
      const uint32_t step = first + mine * kBatch<T>;
      const int batch = valid_count<kBatch<T>>(step, steps);
      const uint32_t start = p.by_box_out.quotient(step), start_row = step - start * box_out;
      T values[kBatch<T>];
      uint32_t row = start_row, input = place.lane + start * kLanes;
#pragma unroll
      for (int i = 0; i < kBatch<T>; ++i) {
        if (i == batch) break;
        const bool exists = row < place.rows && input < place.inputs;
        const uint32_t offset = (row * inputs + input - place.lane) * taps;
        values[i] = exists ? from[place.begin + offset] : Number<T>::narrow(0);
        if (++row == box_out) row = 0, input += kLanes;
      }
      for (uint32_t turn = 0; turn < turns; ++turn) {
        if (turn == mine) {
          double of_column = column[x], sum = sums[base + x];
          row = start_row;
#pragma unroll
          for (int i = 0; i < kBatch<T>; ++i) {
            if (i == batch) break;
            nonfinite += !is_finite(values[i]);
            of_column = add_square(of_column, Number<T>::widen(values[i]));
            if (++row == box_out) {
              sum = __dadd_rn(sum, of_column);
              of_column = 0;
              row = 0;
            }
          }
          column[x] = of_column;
          sums[base + x] = sum;
        }
        if (turns > 1) __syncthreads();
      }
    }
  }
  return nonfinite;
}

// By one block: partial sums -> scores of the groups that have taps in the slice. A group that
// began in the slice before goes on from the score it has.
__device__ inline void fold(const Grouped& g, const Panels& p, const Job& job, uint32_t first_tap,
                            const double* sums) {
  uint32_t lanes = 1;
  while (lanes < p.lanes) lanes *= 2;
  const uint32_t end_tap = min(first_tap + p.slice, p.taps);
  const uint32_t first_block = p.by_box_taps.quotient(first_tap);
  const uint32_t blocks = p.by_box_taps.quotient(end_tap - 1) + 1 - first_block;
  const uint32_t groups = job.count * blocks, lane = threadIdx.x % lanes;
  const uint32_t longest = min(p.box_taps, p.slice);
  for (uint32_t base = 0; base < groups; base += kThreads / lanes) {
    const uint32_t at = base + threadIdx.x / lanes;
    // Jobs of several panels are not sliced.
    const uint32_t local = job.count == 1 ? 0 : p.by_tap_blocks.quotient(at);
    const uint32_t block = first_block + at - local * blocks, tap = block * p.box_taps;
    const uint32_t begin = max(tap, first_tap), end = min(tap + p.box_taps, end_tap);
    double* score = g.scores + p.first_group + (job.first + local) * p.tap_blocks + block;
    double total = at < groups && tap < first_tap ? *score : 0;
    for (uint32_t i = 0; i < longest; ++i) {
      const bool exists = at < groups && lane < p.lanes && begin + i < end;
      const uint32_t from = local * p.partials() + lane * p.slice + begin + i - first_tap;
      double sum = exists ? sums[from] : 0;
      // Lanes beyond the half receive what no other lane looks at.
      for (uint32_t half = lanes / 2; half > 0; half /= 2) {
        sum = __dadd_rn(sum, __shfl_down_sync(kAllLanes, sum, half));
      }
      total = __dadd_rn(total, sum);
    }
    if (at < groups && lane == 0) *score = one_nan(total);
  }
}

// By one block: squares of whole kernels -> each kernel's best shape, of equals the first.
__device__ inline void choose_shapes(const Grouped& g, const Panels& p, const Job& job,
                                     const double* squares) {
  for (uint32_t kernel = threadIdx.x; kernel < job.count; kernel += kThreads) {
    const double* square = squares + kernel * p.taps;
    double best = 0;
    uint32_t choice = 0;
    for (uint32_t shape = 0; shape < g.shape_count; ++shape) {
      double sum = 0;
      for (uint32_t t = 0; t < p.taps; ++t) {
        if (g.shapes[shape] >> t & 1) sum = __dadd_rn(sum, square[t]);
      }
      sum = one_nan(sum);
      if (shape == 0 || magnitude_key(sum) > magnitude_key(best)) best = sum, choice = shape;
    }
    const uint32_t group = p.first_group + job.first + kernel;
    g.scores[group] = best;
    g.choices[group] = static_cast<uint8_t>(choice);
  }
}

// Four blocks per SM: what hides latency where a thread has one value only.
template <class T, Source kSource>
__global__ void __launch_bounds__(kThreads, 4) score_groups(const __grid_constant__ Grouped g) {
  __shared__ double sums[kPartials];
  __shared__ double column[kThreads];
  const Job job = job_of(g, blockIdx.x);
  const SingleValues<T, kSource> values(g.segments[job.segment]);
  const Panels& p = g.panels[job.segment];
  uint32_t nonfinite = 0;
  for (uint32_t tap = 0; tap < p.taps; tap += p.slice) {
    nonfinite += sum_columns(values, p, job, tap, sums, column);
    __syncthreads();
    if (p.shaped) {
      choose_shapes(g, p, job, sums);
    } else {
      fold(g, p, job, tap, sums);
    }
    __syncthreads();
  }
  report_nonfinite(g, job, nonfinite);
}

}  // namespace sparselth::cuda
