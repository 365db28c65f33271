// Masked convolution of activations in lanes on the kept weights, compiled per instruction set.
//
//   forward      y[n,o,p,q]  = b[o] + sum_{(c,r,s) kept in o} w * x[n, c, p*sh - ph + r*dh, ...]
//   grad input   dx[n,c,h,w] = sum_{(o,r,s) kept in c} w * dy[n, o, (h + ph - r*dh) / sh, ...]
//   grad weight  dw[o,c,r,s] = sum_{n,p,q} dy[n,o,p,q] * x[n, c, p*sh - ph + r*dh, ...]
//
// Layout: cpu/lane_tensors.h. The halo stands for the padding; the caller sees to it that it is
// wide enough for what the taps reach (conv_taps.h). The input gradient gathers: it is the forward
// loop on the transposed rows, one phase per remainder of the output position modulo the stride.
// Channels of the input are taken in groups whose part of a tile stays in L1, where a row has
// enough weights in a group to pay for summing the output in steps.
// Activations stored in 16 bits, and those computed as they are read, go through lane_strips.inl,
// in the same loops.
// Cost: one multiply-add per kept weight and output. Deterministic for a fixed number of threads;
// no atomics.

#include "cpu/lane_planes.inl"
#include "cpu/moments.inl"
#include "cpu/scale_add_rule.inl"
#include "cpu/sparse_rows.inl"
#include "cpu/sparse_tiles.inl"

// One set of output positions that share their kept taps: (row0 + i * step_h, col0 + j * step_w).
// Taps read from x at (i * stride_h, j * stride_w) + (low_h, low_w) + offset.
template <class T>
struct Phase {
  int64_t row0, col0, rows, cols;
  TileShape tile;
  PackedRows<T> weights;

  // Tile rows are the unit of work; the last one also covers the rows that are left over.
  int64_t tile_rows() const { return rows / tile.rows; }
  int64_t first_row(int64_t tile_row) const { return tile_row * tile.rows; }
  int64_t last_row(int64_t tile_row) const {
    return tile_row + 1 == tile_rows() ? rows : (tile_row + 1) * tile.rows;
  }
};

// A correlation of lanes: what forward and grad input have in common.
template <class T>
struct Correlation {
  std::vector<Phase<T>> phases;
  int64_t low_h, low_w, stride_h, stride_w;  // in x
  int64_t step_h, step_w;                    // in the output
};

// Vectors a tile reads of one channel.
inline int64_t tile_footprint(TileShape tile, int64_t stride_h, int64_t stride_w, int64_t reach_h,
                              int64_t reach_w) {
  return ((tile.rows - 1) * stride_h + reach_h) * ((tile.cols - 1) * stride_w + reach_w);
}

// The tile of forward and grad weight.
inline TileShape forward_tile(const ConvGeometry& g, const Plan& plan) {
  return choose_tile(g.out_height, g.out_width, g.stride_w,
                     {g.c_in / g.groups, g.taps(), double(plan.nnz) / double(g.c_out)});
}

// The rows of forward and grad weight. value: as `pack_rows` takes it.
template <class T, class F>
PackedRows<T> pack_forward(const ConvGeometry& g, const Plan& plan, const LaneView<T>& x,
                           TileShape tile, const F& value, const Threads& threads) {
  const int64_t footprint =
      tile_footprint(tile, g.stride_h, g.stride_w, g.dilation_h * (g.kernel_h - 1) + 1,
                     g.dilation_w * (g.kernel_w - 1) + 1);
  return pack_rows<T>(plan.by_output, g.c_out, g.c_in,
                      channels_at_once(g.c_in, g.c_out, plan.nnz, footprint), value,
                      forward_taps(g, x.row_size(), x.lanes), x.plane_size(), threads);
}

template <class T>
Correlation<T> forward_correlation(const ConvGeometry& g, const Plan& plan, const LaneView<T>& x,
                                   const T* weight, const Threads& threads) {
  const TileShape tile = forward_tile(g, plan);
  const auto value = [&](int64_t o, int32_t j) { return weight[plan.weight_at(o, j)]; };
  Correlation<T> c{{}, -g.pad_h, -g.pad_w, g.stride_h, g.stride_w, 1, 1};
  c.phases.push_back(
      {0, 0, g.out_height, g.out_width, tile, pack_forward(g, plan, x, tile, value, threads)});
  return c;
}

template <class T>
Correlation<T> grad_input_correlation(const ConvGeometry& g, const Plan& plan,
                                      const LaneView<T>& dy, const T* weight,
                                      const Threads& threads) {
  const auto vertical = axis_phases(g.height, g.kernel_h, g.stride_h, g.pad_h, g.dilation_h);
  const auto horizontal = axis_phases(g.width, g.kernel_w, g.stride_w, g.pad_w, g.dilation_w);
  const Reach rows = reach(vertical, g.out_height), cols = reach(horizontal, g.out_width);
  const std::vector<T> values = values_by_output(plan, weight, threads);
  const auto value = [&](int64_t, int32_t j) { return values[plan.by_input.at[j]]; };
  Correlation<T> c{{}, rows.low, cols.low, 1, 1, g.stride_h, g.stride_w};
  for (const AxisPhase& v : vertical)
    for (const AxisPhase& h : horizontal) {
      std::vector<int64_t> taps;
      int64_t used = 0;
      for (int64_t r = 0; r < g.kernel_h; ++r)
        for (int64_t s = 0; s < g.kernel_w; ++s) {
          const bool reads = v.tap_used[r] && h.tap_used[s];
          taps.push_back(reads ? (v.tap_index[r] - rows.low) * dy.row_size() +
                                     (h.tap_index[s] - cols.low) * dy.lanes
                               : -1);
          used += reads;
        }
      const double kept = double(plan.nnz * used) / double(g.taps() * g.c_in);
      const TileShape tile = choose_tile(v.count, h.count, 1, {g.c_out / g.groups, used, kept});
      const int64_t footprint = tile_footprint(tile, 1, 1, v.extent(), h.extent());
      const int64_t group =
          channels_at_once(g.c_out, g.c_in, plan.nnz * used / g.taps(), footprint);
      c.phases.push_back({v.first, h.first, v.count, h.count, tile,
                          pack_rows<T>(plan.by_input, g.c_in, g.c_out, group, value, taps,
                                       dy.plane_size(), threads)});
    }
  return c;
}

// Output channels [first, last) of a phase's rows [begin, end), at least one tile of them. x: what
// the first tap of the first of them reads. sums: room for a tile of every channel where y is
// stored narrower than sums are; otherwise those of some input channels wait in y for the next.
// finish(to, skip_rows, skip_cols) makes what stores a tile, of which the first rows and columns
// were stored before.
template <class T, class O, class Finish>
void correlate_rows(const Correlation<T>& c, const Phase<T>& phase, const T* x, int64_t x_row,
                    const T* bias, const LaneView<O>& y, int64_t bundle, int64_t begin, int64_t end,
                    int64_t first, int64_t last, T* sums, const Finish& finish) {
  const int64_t in_row = c.stride_h * x_row, in_col = c.stride_w * y.lanes;
  const TileSteps step{c.step_h * y.row_size(), c.step_w * y.lanes};
  const int64_t groups = phase.weights.groups;
  with_tile(phase.tile, [&]<int kR, int kC>() {
    const TilePlace<T> waiting{sums, kR * kC * kLanes<T>, {kC * kLanes<T>, kLanes<T>}};
    const auto at = [&](int64_t i, int64_t j, int skip_rows, int skip_cols) {
      const T* from = x + (i - begin) * in_row + j * in_col;
      const TilePlace<O> to{y.at(bundle, phase.row0 + i * c.step_h, phase.col0 + j * c.step_w),
                            y.plane_size(), step};
      for (int64_t group = 0; group < groups; ++group)
        with_step(c.stride_w, [&]<int kStep>() {
          const auto add = [&](const TilePlace<T>& before) {
            const SparseRows<T> rows = phase.weights.group(group);
            const TilePlace<T> start{group ? before.data : nullptr, before.channel, before.step};
            if (group + 1 < groups)
              return correlate_tile<T, T, kR, kC, kStep>(from, in_row, rows, first, last, bias,
                                                         start, before);
            correlate_tile<T, kR, kC, kStep>(from, in_row, rows, first, last, bias, start,
                                             finish(to, skip_rows, skip_cols));
          };
          if constexpr (std::is_same_v<T, O>) {
            add(to);
          } else {
            add(waiting);
          }
        });
    };
    for_each_tile(begin, end, kR, [&](int64_t i, int skip_rows) {
      for_each_tile(0, phase.cols, kC,
                    [&](int64_t j, int skip_cols) { at(i, j, skip_rows, skip_cols); });
    });
  });
}

template <class T, class O>
void correlate_rows(const Correlation<T>& c, const Phase<T>& phase, const T* x, int64_t x_row,
                    const T* bias, const LaneView<O>& y, int64_t bundle, int64_t begin, int64_t end,
                    int64_t first, int64_t last, T* sums) {
  correlate_rows(c, phase, x, x_row, bias, y, bundle, begin, end, first, last, sums,
                 [](const TilePlace<O>& to, int, int) { return StoreTile<T, O>{to}; });
}

// A bias also fills the lanes beyond the batch; they have to stay zero.
template <class T>
void clear_absent_lanes(const LaneView<T>& y, int64_t batch) {
  T* at = y.data + (y.bundles - 1) * y.bundle_size();
  for (T* end = y.data + y.size(); at < end; at += y.lanes)
    std::fill(at + batch % y.lanes, at + y.lanes, T{});
}

// The tile rows of a correlation as independent tasks. Few images or a small plane: output channels
// are divided as well.
template <class T>
class CorrelationTasks {
 public:
  CorrelationTasks(Correlation<T> correlation, const LaneView<T>& x, const T* bias,
                   const LaneView<T>& y, const Threads& threads)
      : correlation_(std::move(correlation)), x_(x), y_(y), bias_(bias) {
    for (const Phase<T>& phase : correlation_.phases) rows_ += phase.tile_rows();
    const int64_t wanted = 4 * threads.count, tasks = y.bundles * rows_;
    parts_ = std::clamp<int64_t>((wanted + tasks - 1) / std::max<int64_t>(tasks, 1), 1,
                                 threads.count > 1 ? y.channels : 1);
  }

  int64_t count() const { return y_.bundles * rows_ * parts_; }

  void run(int64_t task) const {
    const int64_t part = task % parts_, bundle = task / parts_ / rows_;
    int64_t tile_row = task / parts_ % rows_;
    for (const Phase<T>& phase : correlation_.phases) {
      if (tile_row < phase.tile_rows())
        return run_tile_row(phase, bundle, tile_row, part * y_.channels / parts_,
                            (part + 1) * y_.channels / parts_);
      tile_row -= phase.tile_rows();
    }
  }

 private:
  void run_tile_row(const Phase<T>& phase, int64_t bundle, int64_t tile_row, int64_t first,
                    int64_t last) const {
    const Correlation<T>& c = correlation_;
    const int64_t begin = phase.first_row(tile_row), end = phase.last_row(tile_row);
    correlate_rows<T, T>(c, phase, x_.at(bundle, c.low_h + begin * c.stride_h, c.low_w),
                         x_.row_size(), bias_, y_, bundle, begin, end, first, last, nullptr);
  }

  Correlation<T> correlation_;
  LaneView<T> x_, y_;
  const T* bias_;
  int64_t rows_ = 0, parts_;
};

template <class T>
void conv_forward(const ConvGeometry& g, const Plan& plan, const LaneView<T>& x, const T* weight,
                  const T* bias, const LaneView<T>& y, const Threads& threads) {
  const CorrelationTasks<T> tasks(forward_correlation<T>(g, plan, x, weight, threads), x, bias, y,
                                  threads);
  threads.run(tasks.count(), [&](int64_t task) { tasks.run(task); });
  if (bias && g.batch % y.lanes != 0) clear_absent_lanes(y, g.batch);
}

template <class T>
CorrelationTasks<T> grad_input_tasks(const ConvGeometry& g, const Plan& plan, const LaneView<T>& dy,
                                     const T* weight, const LaneView<T>& dx,
                                     const Threads& threads) {
  return {grad_input_correlation<T>(g, plan, dy, weight, threads), dy, nullptr, dx, threads};
}

template <class T>
void conv_grad_input(const ConvGeometry& g, const Plan& plan, const LaneView<T>& dy,
                     const T* weight, const LaneView<T>& dx, const Threads& threads) {
  const auto tasks = grad_input_tasks<T>(g, plan, dy, weight, dx, threads);
  threads.run(tasks.count(), [&](int64_t task) { tasks.run(task); });
}

// The phase of the weight gradient, which has no values. x: where the taps read.
template <class T>
Phase<T> grad_weight_phase(const ConvGeometry& g, const Plan& plan, const LaneView<T>& x,
                           const Threads& threads) {
  const TileShape tile = forward_tile(g, plan);
  return {0, 0, g.out_height, g.out_width, tile, pack_forward(g, plan, x, tile, nullptr, threads)};
}

// Sums of the weight gradient: each run of rows has its own, added up in order at the end.
template <class T>
class WeightSums {
 public:
  WeightSums(int64_t runs, int64_t nnz) : runs_(runs), nnz_(nnz), sums_(size_t(runs * nnz)) {}

  T* of_run(int64_t run) { return sums_.data() + run * nnz_; }

  // dw: dense, as the plan says; zero where the mask is False. entries: in the order of the sums.
  void write(const ConvGeometry& g, const Plan& plan, const PackedRows<T>& entries, T* dw,
             const Threads& threads) const {
    const int64_t row = g.c_in / g.groups * g.taps(), tasks = std::min(threads.count, g.c_out);
    threads.run(tasks, [&](int64_t task) {
      for (int64_t o = task * g.c_out / tasks; o < (task + 1) * g.c_out / tasks; ++o) {
        std::fill(dw + o * row, dw + (o + 1) * row, T(0));
        int32_t j = plan.by_output.begin[o];
        entries.for_each_of(o, [&](int32_t entry) {
          T sum = 0;
          for (int64_t run = 0; run < runs_; ++run) sum += sums_[run * nnz_ + entry];
          dw[plan.weight_at(o, j++)] = sum;
        });
      }
    });
  }

 private:
  int64_t runs_, nnz_;
  std::vector<T> sums_;
};

// Adds what rows [begin, end) of dy, at least one tile of them, give the channels [first, last). x:
// what the first tap of the first row reads. dy: the first row; dy_plane, dy_row: its steps.
// Calls before() for each tile.
template <class T, class Before>
void grad_weight_rows(const ConvGeometry& g, const Phase<T>& phase, const T* x, int64_t x_row,
                      const T* dy, int64_t dy_plane, int64_t dy_row, int64_t begin, int64_t end,
                      int64_t first, int64_t last, T* sums, const Before& before) {
  const int64_t in_row = g.stride_h * x_row, in_col = g.stride_w * kLanes<T>;
  with_tile(phase.tile, [&]<int kR, int kC>() {
    const auto at = [&](int64_t i, int64_t j, int skip_rows, int skip_cols) {
      before();
      const T* from = x + (i - begin) * in_row + j * in_col;
      const T* grad = dy + (i - begin) * dy_row + j * kLanes<T>;
      for (int64_t group = 0; group < phase.weights.groups; ++group)
        with_step(g.stride_w, [&]<int kStep>() {
          grad_weight_tile<T, kR, kC, kStep>(from, in_row, phase.weights.group(group), first, last,
                                             grad, dy_plane, dy_row, skip_rows, skip_cols, sums);
        });
    };
    for_each_tile(begin, end, kR, [&](int64_t i, int skip_rows) {
      for_each_tile(0, g.out_width, kC,
                    [&](int64_t j, int skip_cols) { at(i, j, skip_rows, skip_cols); });
    });
  });
}

// The weight gradient, summed over tile rows. With few rows the output channels are divided as
// well, and no two tasks touch the same sum.
template <class T>
class GradWeightTasks {
 public:
  GradWeightTasks(const ConvGeometry& g, const Plan& plan, const LaneView<T>& dy,
                  const LaneView<T>& x, const Threads& threads)
      : g_(g),
        plan_(plan),
        dy_(dy),
        x_(x),
        phase_(grad_weight_phase(g, plan, x, threads)),
        runs_(std::min(rows(), threads.count)),
        parts_(std::clamp<int64_t>(threads.count / std::max<int64_t>(runs_, 1), 1, g.c_out)),
        sums_(runs_, plan.nnz) {}

  int64_t count() const { return runs_ * parts_; }
  int64_t rows() const { return x_.bundles * phase_.tile_rows(); }

  // Calls after(row) when a tile row is done.
  template <class F>
  void run(int64_t task, const F& after) {
    const int64_t run = task / parts_, part = task % parts_;
    for (int64_t row = run * rows() / runs_; row < (run + 1) * rows() / runs_; ++row) {
      run_row(row, part * g_.c_out / parts_, (part + 1) * g_.c_out / parts_, sums_.of_run(run));
      after(row);
    }
  }

  void finish(T* dw, const Threads& threads) const {
    sums_.write(g_, plan_, phase_.weights, dw, threads);
  }

 private:
  void run_row(int64_t row, int64_t first, int64_t last, T* sums) {
    const int64_t bundle = row / phase_.tile_rows(), tile_row = row % phase_.tile_rows();
    const int64_t begin = phase_.first_row(tile_row), end = phase_.last_row(tile_row);
    grad_weight_rows<T>(g_, phase_, x_.at(bundle, begin * g_.stride_h - g_.pad_h, -g_.pad_w),
                        x_.row_size(), dy_.at(bundle, begin, 0), dy_.plane_size(), dy_.row_size(),
                        begin, end, first, last, sums, [] {});
  }

  ConvGeometry g_;
  Plan plan_;
  LaneView<T> dy_, x_;
  Phase<T> phase_;
  int64_t runs_, parts_;
  WeightSums<T> sums_;
};

template <class T>
void conv_grad_weight(const ConvGeometry& g, const Plan& plan, const LaneView<T>& dy,
                      const LaneView<T>& x, T* dw, const Threads& threads) {
  GradWeightTasks<T> tasks(g, plan, dy, x, threads);
  threads.run(tasks.count(), [&](int64_t task) { tasks.run(task, [](int64_t) {}); });
  tasks.finish(dw, threads);
}

// Both gradients at once: each row of dy is read for the one while the other has it in the cache.
template <class T>
void conv_backward(const ConvGeometry& g, const Plan& plan, const LaneView<T>& dy,
                   const LaneView<T>& x, const T* weight, const LaneView<T>& dx, T* dw,
                   const Threads& threads) {
  const auto input = grad_input_tasks<T>(g, plan, dy, weight, dx, threads);
  GradWeightTasks<T> tasks(g, plan, dy, x, threads);
  if (tasks.count() > tasks.rows()) {
    threads.run(input.count(), [&](int64_t task) { input.run(task); });
    threads.run(tasks.count(), [&](int64_t task) { tasks.run(task, [](int64_t) {}); });
  } else {
    const int64_t rows = tasks.rows();
    threads.run(tasks.count(), [&](int64_t task) {
      tasks.run(task, [&](int64_t row) {
        for (int64_t i = row * input.count() / rows; i < (row + 1) * input.count() / rows; ++i)
          input.run(i);
      });
    });
  }
  tasks.finish(dw, threads);
}

#include "cpu/lane_strips.inl"
