// The inner loops shared by masked_conv2d and masked_linear.
//
// A tile is kR x kC output positions of one channel, each position a vector of images, held in
// registers while the channel's kept weights stream by: one broadcast and kR * kC fused
// multiply-adds per weight, nothing stored until the channel is done.

inline constexpr int kMaxTile = SPARSELTH_VECTOR_BYTES == 64 ? 16 : 8;  // of 32 or 16 registers

// Places of a tile's positions in memory, in values.
struct TileSteps {
  int64_t row, col;
};

// A tile of every channel, in memory.
template <class T>
struct TilePlace {
  T* data;
  int64_t channel;
  TileSteps step;
};

// Stores the results of a tile. O: what they are stored as.
template <class T, class O>
struct StoreTile {
  TilePlace<O> out;

  // Whether results are there already where nothing is added to these sums.
  bool is_done(const TilePlace<T>& sums) const {
    return (const void*)sums.data == (const void*)out.data;
  }

  template <int kR, int kC>
  SPARSELTH_INLINE void operator()(int64_t o, const Vec<T> (&sum)[kR][kC]) const {
    O* to = out.data + o * out.channel;
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < kC; ++c) store(to + r * out.step.row + c * out.step.col, sum[r][c]);
  }
};

// finish(o, sums[o] + sum_j value[j] * x[offset[j]]) for every channel o of [first, last); bias[o]
// in place of sums where those are nullptr. kStep: vectors between neighboring columns of x.
template <class T, int kR, int kC, int kStep, class Finish>
void correlate_tile(const T* x, int64_t row_step, const SparseRows<T>& rows, int64_t first,
                    int64_t last, const T* bias, const TilePlace<T>& sums, const Finish& finish) {
  constexpr int kL = kLanes<T> * kStep;
  const bool skip_empty = finish.is_done(sums);
  for (int64_t o = first; o < last; ++o) {
    if (skip_empty && rows.begin[o] == rows.begin[o + 1]) continue;
    Vec<T> sum[kR][kC];
    if (sums.data) {
      const T* from = sums.data + o * sums.channel;
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < kC; ++c) sum[r][c] = load(from + r * sums.step.row + c * sums.step.col);
    } else {
      const Vec<T> start = broadcast(bias ? bias[o] : T(0));
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < kC; ++c) sum[r][c] = start;
    }
    for (int32_t j = rows.begin[o]; j < rows.begin[o + 1]; ++j) {
      const Vec<T> weight = broadcast(rows.value[j]);
      const T* from = x + rows.offset[j];
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < kC; ++c) sum[r][c] += weight * load(from + r * row_step + c * kL);
    }
    finish(o, sum);
  }
}

// The same, stored at `out`.
template <class T, class O, int kR, int kC, int kStep>
void correlate_tile(const T* x, int64_t row_step, const SparseRows<T>& rows, int64_t first,
                    int64_t last, const T* bias, const TilePlace<T>& sums,
                    const TilePlace<O>& out) {
  correlate_tile<T, kR, kC, kStep>(x, row_step, rows, first, last, bias, sums,
                                   StoreTile<T, O>{out});
}

// d_value[j] += sum over the tile of grad[o] * x[offset[j]], for every weight j of the channels
// [first, last). The first `skip` rows and columns were counted by the tile before.
template <class T, int kR, int kC, int kStep>
void grad_weight_tile(const T* x, int64_t row_step, const SparseRows<T>& rows, int64_t first,
                      int64_t last, const T* grad, int64_t grad_channel, int64_t grad_row,
                      int skip_rows, int skip_cols, T* d_value) {
  constexpr int kL = kLanes<T>;
  const auto product = [&](const Vec<T>(&g)[kR][kC], const T* from, Vec<T>& sum, int r, int c) {
    sum += g[r][c] * load(from + r * row_step + c * kL * kStep);
  };
  for (int64_t o = first; o < last; ++o) {
    int32_t j = rows.begin[o];
    const int32_t end = rows.begin[o + 1];
    if (j == end) continue;
    Vec<T> g[kR][kC];
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < kC; ++c)
        g[r][c] = r < skip_rows || c < skip_cols
                      ? Vec<T>{}
                      : load(grad + o * grad_channel + r * grad_row + c * kL);

    // Four weights at a time: independent sums hide the latency of the additions, and one
    // horizontal reduction serves all four. Two or three left over read the last one twice.
    for (; j + 2 <= end; j += 4) {
      const int32_t last_one = end - 1;
      const T* from[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) from[i] = x + rows.offset[j + i < end ? j + i : last_one];
      Vec<T> sum[4] = {};
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < kC; ++c)
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) product(g, from[i], sum[i], r, c);
      if (j + 4 <= end) {
        add_reduced4<T>(d_value + j, sum[0], sum[1], sum[2], sum[3]);
      } else {
        T sums[4] = {};
        add_reduced4<T>(sums, sum[0], sum[1], sum[2], sum[3]);
        for (int i = 0; j + i < end; ++i) d_value[j + i] += sums[i];
      }
    }
    if (j + 1 == end) {
      Vec<T> sum[2] = {};
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < kC; ++c) product(g, x + rows.offset[j], sum[(r + c) & 1], r, c);
      d_value[j] += reduce<T>(sum[0] + sum[1]);
    }
  }
}

struct TileShape {
  int rows, cols;
};

// Wider steps between columns take tiles of one column, which need no step.
inline constexpr int kMaxStep = 2;

// Calls f.operator()<kStep>() for the compile-time step between columns.
template <class F>
SPARSELTH_INLINE void with_step(int64_t step, const F& f) {
  if (step == 2) return f.template operator()<2>();
  return f.template operator()<1>();
}

// What one row of weights reads on average: `kept` of `taps` weights in each of `channels`.
struct RowLoad {
  int64_t channels, taps;
  double kept;
};

// The tile that covers the plane with the least work, overlapping tiles counted whole. Among equals
// the first. Small tiles read the fewest vectors around them, so that more channels fit the
// first-level cache at once: at 95 % 2 x 4 measured 10 to 15 % faster than 1 x 16. In wide planes
// 1 x 8 does better, its runs of neighbors are longer: a quarter less time at 16 channels of
// 32 x 32. Large tiles start and store less often. They pay where few channels are read, which fit
// anyway (a depthwise layer: up to twice as fast); where a row has few weights, so that a tile is
// mostly stored (64 channels of 32 x 32 at 99 %: a third less time); and where it has most of its
// weights, so that they are worth loading for more positions (128 channels of 16 x 16 at 50 %: 13 %
// less). Measured on an AMD EPYC (Zen 5), 2026-11-25. step: vectors between columns of the input.
inline TileShape choose_tile(int64_t height, int64_t width, int64_t step, const RowLoad& load) {
  constexpr int64_t kFewChannels = 8, kWideRow = 32;
  constexpr double kFewWeights = 12, kDense = 0.2;
  constexpr int64_t kPerTile = 2;  // starting and storing a tile costs about two positions
  static constexpr TileShape kLargeShapes[] = {{1, 16}, {2, 8}, {4, 4}, {1, 14}};
  static constexpr TileShape kFlatShapes[] = {{1, 8}};
  static constexpr TileShape kShapes[] = {{2, 4}, {4, 2}, {1, 8}, {2, 7}, {1, 7}, {2, 2},
                                          {1, 4}, {4, 1}, {2, 1}, {1, 2}, {1, 1}};
  TileShape best{1, 1};
  int64_t least = INT64_MAX;
  const auto consider = [&](const TileShape& t) {
    if (t.rows > height || t.cols > width || t.rows * t.cols > kMaxTile) return;
    if (t.cols > 1 && step > kMaxStep) return;
    const int64_t tiles = ((height + t.rows - 1) / t.rows) * ((width + t.cols - 1) / t.cols);
    const int64_t cost = tiles * (t.rows * t.cols + kPerTile);
    if (cost < least) least = cost, best = t;
  };
  if (load.channels <= kFewChannels || load.kept <= kFewWeights ||
      load.kept >= kDense * double(load.channels * load.taps))
    for (const TileShape& t : kLargeShapes) consider(t);
  if (width >= kWideRow)
    for (const TileShape& t : kFlatShapes) consider(t);
  for (const TileShape& t : kShapes) consider(t);
  return best;
}

// Calls f.operator()<kR, kC>() for the tile's compile-time shape.
template <class F>
SPARSELTH_INLINE void with_tile(TileShape tile, const F& f) {
#define SPARSELTH_TILE(R, C)       \
  if constexpr (R * C <= kMaxTile) \
    if (tile.rows == R && tile.cols == C) return f.template operator()<R, C>();
  // clang-format off
  SPARSELTH_TILE(2, 4) SPARSELTH_TILE(4, 2) SPARSELTH_TILE(1, 8)
  SPARSELTH_TILE(2, 7) SPARSELTH_TILE(1, 7)
  SPARSELTH_TILE(4, 4) SPARSELTH_TILE(2, 8) SPARSELTH_TILE(1, 16) SPARSELTH_TILE(1, 14)
  SPARSELTH_TILE(2, 2) SPARSELTH_TILE(1, 4) SPARSELTH_TILE(4, 1)
  SPARSELTH_TILE(2, 1) SPARSELTH_TILE(1, 2) SPARSELTH_TILE(1, 1)
  // clang-format on
#undef SPARSELTH_TILE
}

// Calls f(at, skip) for runs of `size` that cover [begin, end); the last one moves back to stay
// inside, and `skip` counts what it shares with the one before.
template <class F>
SPARSELTH_INLINE void for_each_tile(int64_t begin, int64_t end, int size, const F& f) {
  int64_t at = begin;
  for (; at + size <= end; at += size) f(at, 0);
  if (at < end) f(end - size, int(size - (end - at)));
}
