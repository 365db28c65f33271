// Masked convolution of blocked activations on the kept weights, compiled per instruction set.
//
//   forward      y[n,o,p,q]  = b[o] + sum_{(c,r,s) kept in o} w * x[n, c, p*sh - ph + r*dh, ...]
//   grad input   dx[n,c,h,w] = sum_{(o,r,s) kept in c} w * dy[n, o, (h + ph - r*dh) / sh, ...]
//   grad weight  dw[o,c,r,s] = sum_{n,p,q} dy[n,o,p,q] * x[n, c, p*sh - ph + r*dh, ...]
//
// Layout: cpu/blocked_tensors.h. The halo stands for the padding; the caller sees to it that it is
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

// A correlation of blocks: what forward and grad input have in common.
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
PackedRows<T> pack_forward(const ConvGeometry& g, const Plan& plan, const Blocked<T>& x,
                           TileShape tile, const T* weight, const Threads& threads) {
  const int64_t footprint =
      tile_footprint(tile, g.stride_h, g.stride_w, g.dilation_h * (g.kernel_h - 1) + 1,
                     g.dilation_w * (g.kernel_w - 1) + 1);
  return pack_rows(plan.by_output, g.c_out, g.c_in,
                   channels_at_once(g.c_in, g.c_out, plan.nnz, footprint), weight,
                   forward_taps(g, x.row_size(), x.lanes), x.plane_size(), threads);
}

template <class T>
Correlation<T> forward_correlation(const ConvGeometry& g, const Plan& plan, const Blocked<T>& x,
                                   const T* weight, const Threads& threads) {
  const TileShape tile = forward_tile(g, plan);
  Correlation<T> c{{}, -g.pad_h, -g.pad_w, g.stride_h, g.stride_w, 1, 1};
  c.phases.push_back(
      {0, 0, g.out_height, g.out_width, tile, pack_forward(g, plan, x, tile, weight, threads)});
  return c;
}

template <class T>
Correlation<T> grad_input_correlation(const ConvGeometry& g, const Plan& plan, const Blocked<T>& dy,
                                      const T* weight, const Threads& threads) {
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
void run_tile_row(const Correlation<T>& c, const Phase<T>& phase, const Blocked<T>& x,
                  const T* bias, const Blocked<T>& y, int64_t block, int64_t tile_row,
                  int64_t first, int64_t last) {
  const int64_t in_row = c.stride_h * x.row_size(), in_col = c.stride_w * x.lanes;
  const TileSteps out_step{c.step_h * y.row_size(), c.step_w * y.lanes};
  with_tile(phase.tile, [&]<int kR, int kC>() {
    const auto at = [&](int64_t i, int64_t j) {
      const T* from = x.at(block, c.low_h, c.low_w) + i * in_row + j * in_col;
      T* to = y.at(block, phase.row0 + i * c.step_h, phase.col0 + j * c.step_w);
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
void clear_absent_lanes(const Blocked<T>& y, int64_t batch) {
  T* at = y.data + (y.blocks - 1) * y.block_size();
  for (T* end = y.data + y.size(); at < end; at += y.lanes)
    std::fill(at + batch % y.lanes, at + y.lanes, T(0));
}

template <class T>
void run_correlation(const Correlation<T>& c, int64_t batch, const Blocked<T>& x, const T* bias,
                     const Blocked<T>& y, const Threads& threads) {
  int64_t rows = 0;
  for (const Phase<T>& phase : c.phases) rows += phase.tile_rows();
  // Few images or a small plane: divide the output channels as well.
  const int64_t wanted = 4 * threads.count, tasks = y.blocks * rows;
  const int64_t parts = std::clamp<int64_t>((wanted + tasks - 1) / std::max<int64_t>(tasks, 1), 1,
                                            threads.count > 1 ? y.channels : 1);
  threads.run(tasks * parts, [&](int64_t item) {
    const int64_t part = item % parts, block = item / parts / rows;
    int64_t tile_row = item / parts % rows;
    for (const Phase<T>& phase : c.phases) {
      if (tile_row < phase.tile_rows()) {
        run_tile_row(c, phase, x, bias, y, block, tile_row, part * y.channels / parts,
                     (part + 1) * y.channels / parts);
        break;
      }
      tile_row -= phase.tile_rows();
    }
  });
  if (bias && batch % y.lanes != 0) clear_absent_lanes(y, batch);
}

template <class T>
void conv_forward(const ConvGeometry& g, const Plan& plan, const Blocked<T>& x, const T* weight,
                  const T* bias, const Blocked<T>& y, const Threads& threads) {
  run_correlation<T>(forward_correlation<T>(g, plan, x, weight, threads), g.batch, x, bias, y,
                     threads);
}

template <class T>
void conv_grad_input(const ConvGeometry& g, const Plan& plan, const Blocked<T>& dy, const T* weight,
                     const Blocked<T>& dx, const Threads& threads) {
  run_correlation<T>(grad_input_correlation<T>(g, plan, dy, weight, threads), g.batch, dy, nullptr,
                     dx, threads);
}

// dw: dense; zero where the mask is False.
template <class T>
void conv_grad_weight(const ConvGeometry& g, const Plan& plan, const Blocked<T>& dy,
                      const Blocked<T>& x, T* dw, const Threads& threads) {
  const TileShape tile = forward_tile(g, plan);
  const Phase<T> phase{
      0,           0,    g.out_height,
      g.out_width, tile, pack_forward(g, plan, x, tile, static_cast<const T*>(nullptr), threads)};
  const int64_t in_row = g.stride_h * x.row_size(), in_col = g.stride_w * x.lanes;

  // Each run of items has sums of its own, added up in order afterwards; with few items the
  // output channels are divided instead, and no two runs touch the same weight.
  const int64_t items = x.blocks * phase.tile_rows();
  const int64_t runs = std::min(items, threads.count);
  const int64_t parts = std::clamp<int64_t>(threads.count / std::max<int64_t>(runs, 1), 1, g.c_out);
  std::vector<T> sums(runs * plan.nnz, T(0));
  threads.run(runs * parts, [&](int64_t task) {
    const int64_t run = task / parts, part = task % parts;
    const int64_t first = part * g.c_out / parts, last = (part + 1) * g.c_out / parts;
    for (int64_t item = run * items / runs; item < (run + 1) * items / runs; ++item) {
      const int64_t block = item / phase.tile_rows(), tile_row = item % phase.tile_rows();
      with_tile(tile, [&]<int kR, int kC>() {
        for_each_tile(
            phase.first_row(tile_row), phase.last_row(tile_row), kR, [&](int64_t i, int skip_rows) {
              for_each_tile(0, g.out_width, kC, [&](int64_t j, int skip_cols) {
                const T* from = x.at(block, -g.pad_h, -g.pad_w) + i * in_row + j * in_col;
                for (int64_t group = 0; group < phase.weights.groups; ++group)
                  with_step(g.stride_w, [&]<int kStep>() {
                    grad_weight_tile<T, kR, kC, kStep>(from, in_row, phase.weights.group(group),
                                                       first, last, dy.at(block, i, j),
                                                       dy.plane_size(), dy.row_size(), skip_rows,
                                                       skip_cols, sums.data() + run * plan.nnz);
                  });
              });
            });
      });
    }
  });
  const int64_t row = g.c_in / g.groups * g.taps(), tasks = std::min(threads.count, g.c_out);
  threads.run(tasks, [&](int64_t task) {
    for (int64_t o = task * g.c_out / tasks; o < (task + 1) * g.c_out / tasks; ++o) {
      std::fill(dw + o * row, dw + (o + 1) * row, T(0));
      const int32_t* at = plan.by_output.at + plan.by_output.begin[o];
      phase.weights.for_each_of(o, [&](int32_t entry) {
        T sum = 0;
        for (int64_t run = 0; run < runs; ++run) sum += sums[run * plan.nnz + entry];
        dw[*at++] = sum;
      });
    }
  });
}
