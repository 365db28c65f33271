// The sums of squares by which groups of weights are ranked, compiled per instruction set.
//
// In float64 and in the order that the contract fixes, so that every backend finds the same bits:
// outs one after another, inputs into 32 partial sums by their index modulo 32, which are then
// added in halves, taps one after another. Each step runs over contiguous columns (input, tap), in
// whole vectors. Cost: one pass over the values; a score is 8 bytes per group.
// Squares of float32 are exact in float64. Those of float64 are rounded: they must not be fused
// with the addition that follows.

#include "cpu/select.inl"

// Keeps the compiler from fusing what made `v` with what uses it.
SPARSELTH_INLINE void rounded(Vec<double>& v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#else
  asm("" : "+m"(v));
#endif
}

// The squares of kLanes<double> magnitudes.
template <class T>
SPARSELTH_INLINE Vec<double> squares_of(const Key<T>* keys) {
  constexpr int kN = kLanes<double>;
  Vec<double> value;
  if constexpr (sizeof(T) == 8) {
    __builtin_memcpy(&value, keys, sizeof value);
    Vec<double> square = value * value;
    rounded(square);
    return square;
  } else if constexpr (sizeof(T) == 4) {
    HalfFloats from;
    __builtin_memcpy(&from, keys, sizeof from);
    value = widen(from);
  } else {
    T from[kN];
    __builtin_memcpy(from, keys, sizeof from);
    for (int i = 0; i < kN; ++i) value[i] = double(float(from[i]));
  }
  return value * value;
}

// sums[j] = or += the square of the j-th of n magnitudes. Writes up to a vector beyond the n-th.
template <class T>
void add_squares_of(const Key<T>* keys, int n, bool first, double* sums) {
  constexpr int kN = kLanes<double>;
  if (first) {
    for (int j = 0; j < n; j += kN) store(sums + j, squares_of<T>(keys + j));
  } else {
    for (int j = 0; j < n; j += kN) store(sums + j, load(sums + j) + squares_of<T>(keys + j));
  }
}

SPARSELTH_INLINE void add_to(double* sums, const double* more, int64_t n) {
  constexpr int kN = kLanes<double>;
  int64_t j = 0;
  for (; j + kN <= n; j += kN) store(sums + j, load(sums + j) + load(more + j));
  for (; j < n; ++j) sums[j] += more[j];
}

// The partial sums that inputs are added into.
inline constexpr int64_t kPartial = 32;

// (inputs, taps) sums -> (taps) sums, at the front.
inline void fold_inputs(double* sums, int64_t inputs, int64_t taps) {
  for (int64_t i = kPartial; i < inputs; i += kPartial)
    add_to(sums, sums + i * taps, std::min(kPartial, inputs - i) * taps);
  int64_t left = std::min(kPartial, inputs);
  for (int64_t half = kPartial / 2; half > 0; half /= 2) {
    if (left <= half) continue;
    add_to(sums, sums + half * taps, (left - half) * taps);
    left = half;
  }
}

// The same for a single tap. What is missing of the partial sums is zero, and adds nothing.
SPARSELTH_INLINE double fold_values(const double* sums, int64_t inputs) {
  constexpr int kN = kLanes<double>, kVectors = int(kPartial) / kN;
  Vec<double> partial[kVectors] = {};
  int64_t i = 0;
  for (; i + kPartial <= inputs; i += kPartial)
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) partial[v] += load(sums + i + v * kN);
  if (i < inputs) {
    double rest[kPartial] = {};
    std::copy(sums + i, sums + inputs, rest);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) partial[v] += load(rest + v * kN);
  }
#pragma GCC unroll 4
  for (int half = kVectors / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int v = 0; v < half; ++v) partial[v] += partial[v + half];
  return reduce<double>(partial[0]);
}

// Gives NaN its one bit pattern; returns whether all scores are finite.
inline bool finish_scores(double* scores, int64_t n) {
  constexpr int kN = kLanes<double>;
  constexpr double kLargest = std::numeric_limits<double>::max();
  const auto finish = [](Vec<double> score) {
    return score == score ? score : broadcast(__builtin_nan(""));
  };
  Vec<int64_t> odd{};
  int64_t j = 0;
  for (; j + kN <= n; j += kN) {
    const Vec<double> score = load(scores + j);
    odd |= ~(score <= kLargest);
    store(scores + j, finish(score));
  }
  bool finite = !any<int64_t>(odd);
  for (; j < n; ++j) {
    finite &= scores[j] <= kLargest;
    scores[j] = finish(broadcast(scores[j]))[0];
  }
  return finite;
}

// A stretch of groups: whole rows of blocks, or in one row of blocks some of its columns.
struct Stripe {
  int tensor;
  int64_t out_begin, out_end;      // blocks
  int64_t input_begin, input_end;  // blocks
};

inline int64_t first_row(const Grouping& g, int64_t out_block) {
  return std::min(out_block * g.box.out, g.axes.out);
}

inline int64_t first_column(const Grouping& g, int64_t input_block) {
  return std::min(input_block * g.box.inputs, g.axes.inputs) * g.axes.taps;
}

inline int64_t values_in(const Grouping& g, const Stripe& s) {
  return (first_row(g, s.out_end) - first_row(g, s.out_begin)) *
         (first_column(g, s.input_end) - first_column(g, s.input_begin));
}

// Rows so short that several are taken at once.
inline constexpr int64_t kShortRow = 64;

// Columns whose sums stay in the second-level cache while the rows of a block are added: mostly
// whole rows, so that memory is read in order.
inline constexpr int64_t kColumnsAtOnce = 8192;

// Columns of a stripe where rows have to be divided: runs long enough to be read ahead.
inline constexpr int64_t kStripeColumns = 2048;

// About kChunk values each, where the groups allow it.
inline std::vector<Stripe> make_stripes(const std::vector<Grouping>& groupings) {
  std::vector<Stripe> stripes;
  for (int tensor = 0; tensor < int(groupings.size()); ++tensor) {
    const Grouping& g = groupings[tensor];
    if (g.groups() == 0) continue;
    const int64_t height = g.box.out * g.axes.row();
    const int64_t outs = std::max<int64_t>(1, kChunk / height);
    // Rows are added one after another: the blocks of many rows are divided along the columns.
    const int64_t wide = std::max(kChunk / g.box.out, kStripeColumns);
    const int64_t parts = height > 2 * kChunk ? std::max<int64_t>(1, g.axes.row() / wide) : 1;
    const int64_t inputs = (g.blocks[1] + parts - 1) / parts;
    for (int64_t out = 0; out < g.blocks[0]; out += outs)
      for (int64_t input = 0; input < g.blocks[1]; input += inputs)
        stripes.push_back({tensor, out, std::min(out + outs, g.blocks[0]), input,
                           std::min(input + inputs, g.blocks[1])});
  }
  return stripes;
}

// Counts what is NaN or infinite in a stripe.
template <class T, class Source>
int64_t count_nonfinite_in(const Stripe& stripe, const Grouping& g, const Source& source) {
  alignas(64) Keys<T> keys;
  int64_t nonfinite = 0;
  for (int64_t r = first_row(g, stripe.out_begin); r < first_row(g, stripe.out_end); ++r) {
    const int64_t end = r * g.axes.row() + first_column(g, stripe.input_end);
    for (int64_t i = r * g.axes.row() + first_column(g, stripe.input_begin); i < end;
         i += kKeysAtOnce) {
      const int n = int(std::min<int64_t>(kKeysAtOnce, end - i));
      source.fill(stripe.tensor, i, n, keys);
      nonfinite += count_nonfinite<T>(keys, n);
    }
  }
  return nonfinite;
}

// sums[j]: the squares of column begin + j, added over rows [top, bottom). Short rows: columns are
// all of them, and several rows are squared at once.
template <class T, class Source>
void add_rows(const Source& source, int tensor, int64_t row, int64_t top, int64_t bottom,
              int64_t begin, int64_t end, double* sums) {
  alignas(64) Keys<T> keys;
  if (row < kShortRow) {
    double squares[kKeysAtOnce];
    std::fill(sums, sums + row, 0.0);
    for (int64_t i = top * row, column = 0; i < bottom * row; i += kKeysAtOnce) {
      const int n = int(std::min<int64_t>(kKeysAtOnce, bottom * row - i));
      source.fill(tensor, i, n, keys);
      add_squares_of<T>(keys, n, true, squares);
      for (int j = 0; j < n; ++j) {
        sums[column] += squares[j];
        if (++column == row) column = 0;
      }
    }
    return;
  }
  for (int64_t left = begin; left < end; left += kColumnsAtOnce)
    for (int64_t r = top; r < bottom; ++r)
      for (int64_t c = left; c < std::min(left + kColumnsAtOnce, end); c += kKeysAtOnce) {
        const int n = int(std::min({int64_t(kKeysAtOnce), left + kColumnsAtOnce - c, end - c}));
        source.fill(tensor, r * row + c, n, keys);
        add_squares_of<T>(keys, n, r == top, sums + c - begin);
      }
}

// The sums of whole kernels, tap after tap; several at a time, to hide the latency of an addition.
SPARSELTH_INLINE void add_taps(const double* sums, int64_t kernels, int64_t taps, double* scores) {
  constexpr int64_t kAtOnce = 8;
  int64_t i = 0;
  for (; i + kAtOnce <= kernels; i += kAtOnce) {
    double total[kAtOnce];
    const double* from = sums + i * taps;
#pragma GCC unroll 8
    for (int64_t j = 0; j < kAtOnce; ++j) total[j] = from[j * taps];
    for (int64_t t = 1; t < taps; ++t)
#pragma GCC unroll 8
      for (int64_t j = 0; j < kAtOnce; ++j) total[j] += from[j * taps + t];
    std::copy(total, total + kAtOnce, scores + i);
  }
  for (; i < kernels; ++i) {
    scores[i] = sums[i * taps];
    for (int64_t t = 1; t < taps; ++t) scores[i] += sums[i * taps + t];
  }
}

// The sums of columns become the scores of the stripe's boxes in one row of blocks.
inline void fold_columns(const Stripe& stripe, const Grouping& g, double* sums, double* scores) {
  const int64_t taps = g.axes.taps, begin = first_column(g, stripe.input_begin);
  if (g.box.inputs == 1) {
    const int64_t kernels = stripe.input_end - stripe.input_begin;
    if (g.box.taps == 1) return void(std::copy(sums, sums + kernels * taps, scores));
    if (g.box.taps == taps) return add_taps(sums, kernels, taps, scores);
  }
  for (int64_t input = stripe.input_begin; input < stripe.input_end; ++input) {
    double* of_box = sums + first_column(g, input) - begin;
    const int64_t inputs = (first_column(g, input + 1) - first_column(g, input)) / taps;
    if (taps == 1) {
      *scores++ = fold_values(of_box, inputs);
      continue;
    }
    fold_inputs(of_box, inputs, taps);
    for (int64_t tap = 0; tap < taps; tap += g.box.taps) {
      double sum = of_box[tap];
      for (int64_t t = tap + 1; t < std::min(tap + g.box.taps, taps); ++t) sum += of_box[t];
      *scores++ = sum;
    }
  }
}

// Scores the boxes of a stripe; returns how many of its values are NaN or infinite.
template <class T, class Source>
int64_t score_boxes(const Stripe& stripe, const Grouping& g, const Source& source, double* scores) {
  const int64_t begin = first_column(g, stripe.input_begin);
  const int64_t end = first_column(g, stripe.input_end);
  const int64_t boxes = (stripe.input_end - stripe.input_begin) * g.blocks[2];
  std::vector<double> sums(size_t(end - begin + kLanes<double>));
  bool finite = true;
  for (int64_t out = stripe.out_begin; out < stripe.out_end; ++out) {
    add_rows<T>(source, stripe.tensor, g.axes.row(), first_row(g, out), first_row(g, out + 1),
                begin, end, sums.data());
    double* of_row = scores + g.first + g.group(out, stripe.input_begin);
    fold_columns(stripe, g, sums.data(), of_row);
    finite &= finish_scores(of_row, boxes);
  }
  // The squares of large float64 values overflow; of all others only NaN and infinity do.
  return finite ? 0 : count_nonfinite_in<T>(stripe, g, source);
}

// Which taps each shape of a dictionary keeps.
struct ShapeTable {
  static constexpr int kMost = 16, kMostTaps = 32;
  int shapes, taps;
  std::vector<int> kept_taps[kMost];        // by shape: its taps in order
  uint8_t kept[kMost + 1][kMostTaps] = {};  // by shape: 1 where it keeps the tap; then none

  explicit ShapeTable(const Pattern& pattern)
      : shapes(int(pattern.shapes.size())), taps(int(pattern.taps)) {
    for (int s = 0; s < shapes; ++s)
      for (int t = 0; t < taps; ++t)
        if (pattern.shapes[s] >> t & 1) kept_taps[s].push_back(t), kept[s][t] = 1;
  }
};

// A vector of kernels: the largest sum of squares over the taps of a shape, and which shape: of
// equals the first. squares: kernel after kernel.
struct BestShapes {
  Vec<double> score;
  Vec<int64_t> shape;

  BestShapes(const ShapeTable& table, const double* squares) {
    constexpr int kN = kLanes<double>;
    Vec<double> by_tap[ShapeTable::kMostTaps];
    for (int t = 0; t < table.taps; ++t)
#pragma GCC unroll 8
      for (int i = 0; i < kN; ++i) by_tap[t][i] = squares[i * table.taps + t];
    const Vec<double> nan = broadcast(__builtin_nan(""));
    score = nan, shape = Vec<int64_t>{};
    for (int s = 0; s < table.shapes; ++s) {
      const std::vector<int>& taps = table.kept_taps[s];
      Vec<double> sum = by_tap[taps[0]];
      for (size_t j = 1; j < taps.size(); ++j) sum += by_tap[taps[j]];
      sum = sum == sum ? sum : nan;
      // As integers, so that NaN is above all; there are no negative sums.
      const Vec<int64_t> better =
          s == 0 ? ~Vec<int64_t>{} : (Vec<int64_t>)sum > (Vec<int64_t>)score;
      score = better ? sum : score;
      shape = better ? broadcast(int64_t(s)) : shape;
    }
  }
};

// Scores the kernels of a stripe by their best shape; returns how many values are not finite.
template <class T, class Source>
int64_t score_shapes(const Stripe& stripe, const Grouping& g, const Source& source,
                     const ShapeTable& table, double* scores, uint8_t* choices) {
  constexpr int kN = kLanes<double>;
  const int at_once = kKeysAtOnce / table.taps / kN * kN;
  const int64_t begin = g.group(stripe.out_begin, stripe.input_begin);
  const int64_t end = g.group(stripe.out_end - 1, stripe.input_end);
  alignas(64) Keys<T> keys;
  alignas(64) double squares[kKeysAtOnce] = {};
  int64_t nonfinite = 0;
  for (int64_t kernel = begin; kernel < end; kernel += at_once) {
    const int count = int(std::min<int64_t>(at_once, end - kernel)), n = count * table.taps;
    source.fill(stripe.tensor, kernel * table.taps, n, keys);
    nonfinite += count_nonfinite<T>(keys, n);
    add_squares_of<T>(keys, n, true, squares);
    for (int i = 0; i < count; i += kN) {
      const BestShapes best(table, squares + i * table.taps);
      const int64_t to = g.first + kernel + i;
      for (int lane = 0; lane < std::min(kN, count - i); ++lane)
        scores[to + lane] = best.score[lane], choices[to + lane] = uint8_t(best.shape[lane]);
    }
  }
  return nonfinite;
}
