// The inner loops shared by masked_conv2d and masked_linear.
//
// A tile is kR x kC output positions of one channel, each position a vector of images, held in
// registers while the channel's kept weights stream by: one broadcast and kR * kC fused
// multiply-adds per weight, nothing stored until the channel is done. Weights are rows of
// (offset, value): where the weight reads from, relative to the tile, and its value.

template <class T>
struct SparseRows {
  const int32_t* begin;
  const uint32_t* offset;
  const T* value;
};

inline constexpr int kMaxTile = SPARSELTH_VECTOR_BYTES == 64 ? 16 : 8;  // of 32 or 16 registers

// out[o] = bias[o] + sum_j value[j] * x[offset[j]] for every channel o of [first, last).
// Positions of x are `row_step` apart downwards and one vector apart sideways.
template <class T, int kR, int kC>
void correlate_tile(const T* x, int64_t row_step, const SparseRows<T>& rows, int64_t first,
                    int64_t last, const T* bias, T* out, int64_t out_channel, int64_t out_row,
                    int64_t out_col) {
  constexpr int kL = kLanes<T>;
  for (int64_t o = first; o < last; ++o) {
    Vec<T> sum[kR][kC];
    const Vec<T> start = broadcast(bias ? bias[o] : T(0));
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < kC; ++c) sum[r][c] = start;
    for (int32_t j = rows.begin[o]; j < rows.begin[o + 1]; ++j) {
      const Vec<T> weight = broadcast(rows.value[j]);
      const T* from = x + rows.offset[j];
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < kC; ++c) sum[r][c] += weight * load(from + r * row_step + c * kL);
    }
    T* to = out + o * out_channel;
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < kC; ++c) store(to + r * out_row + c * out_col, sum[r][c]);
  }
}

// d_value[j] += sum over the tile of grad[o] * x[offset[j]], for every weight j of the channels
// [first, last). The first `skip` columns were counted by the tile before.
template <class T, int kR, int kC>
void grad_weight_tile(const T* x, int64_t row_step, const SparseRows<T>& rows, int64_t first,
                      int64_t last, const T* grad, int64_t grad_channel, int64_t grad_row, int skip,
                      T* d_value) {
  constexpr int kL = kLanes<T>;
  for (int64_t o = first; o < last; ++o) {
    int32_t j = rows.begin[o];
    const int32_t end = rows.begin[o + 1];
    if (j == end) continue;
    Vec<T> g[kR][kC];
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < kC; ++c)
        g[r][c] = c < skip ? Vec<T>{} : load(grad + o * grad_channel + r * grad_row + c * kL);

    // Four weights at a time: independent sums hide the latency of the additions, and one
    // horizontal reduction serves all four.
    for (; j + 4 <= end; j += 4) {
      Vec<T> sum[4] = {};
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < kC; ++c)
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i)
            sum[i] += g[r][c] * load(x + rows.offset[j + i] + r * row_step + c * kL);
      add_reduced4<T>(d_value + j, sum[0], sum[1], sum[2], sum[3]);
    }
    for (; j < end; ++j) {
      Vec<T> sum[2] = {};
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < kC; ++c)
          sum[(r + c) & 1] += g[r][c] * load(x + rows.offset[j] + r * row_step + c * kL);
      d_value[j] += reduce<T>(sum[0] + sum[1]);
    }
  }
}

struct TileShape {
  int rows, cols;
};

inline int power_of_two_below(int64_t n, int most) {
  int p = 1;
  while (2 * p <= n && 2 * p <= most) p *= 2;
  return p;
}

// As wide as the plane allows, then as tall: neighbours in a row share cache lines of x.
inline TileShape choose_tile(int64_t height, int64_t width) {
  const int cols = power_of_two_below(width, kMaxTile);
  const int most_rows = kMaxTile / cols < 4 ? kMaxTile / cols : 4;
  return {power_of_two_below(height, most_rows), cols};
}

// Calls f.operator()<kR, kC>() for the tile's compile-time shape.
template <class F>
SPARSELTH_INLINE void with_tile(TileShape tile, const F& f) {
#define SPARSELTH_TILE(R, C)       \
  if constexpr (R * C <= kMaxTile) \
    if (tile.rows == R && tile.cols == C) return f.template operator()<R, C>();
  // clang-format off
  SPARSELTH_TILE(1, 16)
  SPARSELTH_TILE(1, 8) SPARSELTH_TILE(2, 8)
  SPARSELTH_TILE(1, 4) SPARSELTH_TILE(2, 4) SPARSELTH_TILE(4, 4)
  SPARSELTH_TILE(1, 2) SPARSELTH_TILE(2, 2) SPARSELTH_TILE(4, 2)
  SPARSELTH_TILE(1, 1) SPARSELTH_TILE(2, 1) SPARSELTH_TILE(4, 1)
  // clang-format on
#undef SPARSELTH_TILE
}

// Calls f(col, skip) for tiles of `cols` columns that cover [0, width); the last one moves back
// to stay inside, and `skip` counts the columns it shares with the one before.
template <class F>
SPARSELTH_INLINE void for_each_column_tile(int64_t width, int cols, const F& f) {
  int64_t col = 0;
  for (; col + cols <= width; col += cols) f(col, 0);
  if (col < width) f(width - cols, int(cols - (width - col)));
}
