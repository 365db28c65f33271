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
// Cost: one multiply-add per kept weight and output. Deterministic for a fixed number of threads;
// no atomics.

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

// The rows of forward and grad weight. weight: null where only the offsets are read.
template <class T>
PackedRows<T> pack_forward(const ConvGeometry& g, const Plan& plan, const LaneView<T>& x,
                           TileShape tile, const T* weight, const Threads& threads) {
  const int64_t footprint =
      tile_footprint(tile, g.stride_h, g.stride_w, g.dilation_h * (g.kernel_h - 1) + 1,
                     g.dilation_w * (g.kernel_w - 1) + 1);
  return pack_rows(plan.by_output, g.c_out, g.c_in,
                   channels_at_once(g.c_in, g.c_out, plan.nnz, footprint), weight,
                   forward_taps(g, x.row_size(), x.lanes), x.plane_size(), threads);
}

template <class T>
Correlation<T> forward_correlation(const ConvGeometry& g, const Plan& plan, const LaneView<T>& x,
                                   const T* weight, const Threads& threads) {
  const TileShape tile = forward_tile(g, plan);
  Correlation<T> c{{}, -g.pad_h, -g.pad_w, g.stride_h, g.stride_w, 1, 1};
  c.phases.push_back(
      {0, 0, g.out_height, g.out_width, tile, pack_forward(g, plan, x, tile, weight, threads)});
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
                          pack_rows(plan.by_input, g.c_in, g.c_out, group, values.data(), taps,
                                    dy.plane_size(), threads)});
    }
  return c;
}

// Output channels [first, last) of one row of tiles.
template <class T>
void run_tile_row(const Correlation<T>& c, const Phase<T>& phase, const LaneView<T>& x,
                  const T* bias, const LaneView<T>& y, int64_t bundle, int64_t tile_row,
                  int64_t first, int64_t last) {
  const int64_t in_row = c.stride_h * x.row_size(), in_col = c.stride_w * x.lanes;
  const TileSteps out_step{c.step_h * y.row_size(), c.step_w * y.lanes};
  with_tile(phase.tile, [&]<int kR, int kC>() {
    const auto at = [&](int64_t i, int64_t j) {
      const T* from = x.at(bundle, c.low_h, c.low_w) + i * in_row + j * in_col;
      T* to = y.at(bundle, phase.row0 + i * c.step_h, phase.col0 + j * c.step_w);
      for (int64_t group = 0; group < phase.weights.groups; ++group)
        with_step(c.stride_w, [&]<int kStep>() {
          correlate_tile<T, kR, kC, kStep>(from, in_row, phase.weights.group(group), first, last,
                                           bias, group > 0, to, y.plane_size(), out_step);
        });
    };
    for_each_tile(phase.first_row(tile_row), phase.last_row(tile_row), kR, [&](int64_t i, int) {
      for_each_tile(0, phase.cols, kC, [&](int64_t j, int) { at(i, j); });
    });
  });
}

// A bias also fills the lanes beyond the batch; they have to stay zero.
template <class T>
void clear_absent_lanes(const LaneView<T>& y, int64_t batch) {
  T* at = y.data + (y.bundles - 1) * y.bundle_size();
  for (T* end = y.data + y.size(); at < end; at += y.lanes)
    std::fill(at + batch % y.lanes, at + y.lanes, T(0));
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
        return run_tile_row(correlation_, phase, x_, bias_, y_, bundle, tile_row,
                            part * y_.channels / parts_, (part + 1) * y_.channels / parts_);
      tile_row -= phase.tile_rows();
    }
  }

 private:
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

// The weight gradient, summed over tile rows. Each run of tile rows has sums of its own, added up
// in order afterwards; with few rows the output channels are divided as well, and no two tasks
// touch the same sum.
template <class T>
class GradWeightTasks {
 public:
  GradWeightTasks(const ConvGeometry& g, const Plan& plan, const LaneView<T>& dy,
                  const LaneView<T>& x, const Threads& threads)
      : g_(g), plan_(plan), dy_(dy), x_(x) {
    const TileShape tile = forward_tile(g, plan);
    phase_ = {
        0,           0,    g.out_height,
        g.out_width, tile, pack_forward(g, plan, x, tile, static_cast<const T*>(nullptr), threads)};
    runs_ = std::min(rows(), threads.count);
    parts_ = std::clamp<int64_t>(threads.count / std::max<int64_t>(runs_, 1), 1, g.c_out);
    sums_.assign(runs_ * plan.nnz, T(0));
  }

  int64_t count() const { return runs_ * parts_; }
  int64_t rows() const { return x_.bundles * phase_.tile_rows(); }

  // Calls after(row) when a tile row is done.
  template <class F>
  void run(int64_t task, const F& after) {
    const int64_t run = task / parts_, part = task % parts_;
    for (int64_t row = run * rows() / runs_; row < (run + 1) * rows() / runs_; ++row) {
      run_row(row, part * g_.c_out / parts_, (part + 1) * g_.c_out / parts_,
              sums_.data() + run * plan_.nnz);
      after(row);
    }
  }

  // dw: dense; zero where the mask is False.
  void finish(T* dw, const Threads& threads) const {
    const int64_t row = g_.c_in / g_.groups * g_.taps(), tasks = std::min(threads.count, g_.c_out);
    threads.run(tasks, [&](int64_t task) {
      for (int64_t o = task * g_.c_out / tasks; o < (task + 1) * g_.c_out / tasks; ++o) {
        std::fill(dw + o * row, dw + (o + 1) * row, T(0));
        const int32_t* at = plan_.by_output.at + plan_.by_output.begin[o];
        phase_.weights.for_each_of(o, [&](int32_t entry) {
          T sum = 0;
          for (int64_t run = 0; run < runs_; ++run) sum += sums_[run * plan_.nnz + entry];
          dw[*at++] = sum;
        });
      }
    });
  }

 private:
  void run_row(int64_t row, int64_t first, int64_t last, T* sums) {
    const int64_t bundle = row / phase_.tile_rows(), tile_row = row % phase_.tile_rows();
    const int64_t in_row = g_.stride_h * x_.row_size(), in_col = g_.stride_w * x_.lanes;
    with_tile(phase_.tile, [&]<int kR, int kC>() {
      const auto at = [&](int64_t i, int64_t j, int skip_rows, int skip_cols) {
        const T* from = x_.at(bundle, -g_.pad_h, -g_.pad_w) + i * in_row + j * in_col;
        for (int64_t group = 0; group < phase_.weights.groups; ++group)
          with_step(g_.stride_w, [&]<int kStep>() {
            grad_weight_tile<T, kR, kC, kStep>(from, in_row, phase_.weights.group(group), first,
                                               last, dy_.at(bundle, i, j), dy_.plane_size(),
                                               dy_.row_size(), skip_rows, skip_cols, sums);
          });
      };
      for_each_tile(
          phase_.first_row(tile_row), phase_.last_row(tile_row), kR, [&](int64_t i, int skip_rows) {
            for_each_tile(0, g_.out_width, kC,
                          [&](int64_t j, int skip_cols) { at(i, j, skip_rows, skip_cols); });
          });
    });
  }

  ConvGeometry g_;
  Plan plan_;
  LaneView<T> dy_, x_;
  Phase<T> phase_;
  int64_t runs_, parts_;
  std::vector<T> sums_;
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
