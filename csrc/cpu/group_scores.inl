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
    typedef float Floats __attribute__((vector_size(SPARSELTH_VECTOR_BYTES / 2)));
    Floats from;
    __builtin_memcpy(&from, keys, sizeof from);
    value = __builtin_convertvector(from, Vec<double>);
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

// (inputs, taps) sums -> (taps) sums, at the front.
inline void fold_inputs(double* sums, int64_t inputs, int64_t taps) {
  constexpr int64_t kPartial = 32;
  for (int64_t i = kPartial; i < inputs; i += kPartial)
    add_to(sums, sums + i * taps, std::min(kPartial, inputs - i) * taps);
  int64_t left = std::min(kPartial, inputs);
  for (int64_t half = kPartial / 2; half > 0; half /= 2) {
    if (left <= half) continue;
    add_to(sums, sums + half * taps, (left - half) * taps);
    left = half;
  }
}

// NaN has one bit pattern, so that it ranks alike everywhere.
SPARSELTH_INLINE double one_nan(double score) { return score == score ? score : __builtin_nan(""); }

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

// About kChunk values each, where the groups allow it.
inline std::vector<Stripe> make_stripes(const std::vector<Grouping>& groupings) {
  std::vector<Stripe> stripes;
  for (int tensor = 0; tensor < int(groupings.size()); ++tensor) {
    const Grouping& g = groupings[tensor];
    if (g.groups() == 0) continue;
    const int64_t height = g.box.out * g.axes.row(), group = g.box.out * g.box.inputs * g.axes.taps;
    const int64_t outs = std::max<int64_t>(1, kChunk / height);
    const int64_t inputs = height <= 2 * kChunk || g.axes.row() < kShortRow
                               ? g.blocks[1]
                               : std::max<int64_t>(1, kChunk / group);
    for (int64_t out = 0; out < g.blocks[0]; out += outs)
      for (int64_t input = 0; input < g.blocks[1]; input += inputs)
        stripes.push_back({tensor, out, std::min(out + outs, g.blocks[0]), input,
                           std::min(input + inputs, g.blocks[1])});
  }
  return stripes;
}

// Scores the boxes of a stripe; returns how many of its values are NaN or infinite.
template <class T, class Source>
int64_t score_boxes(const Stripe& stripe, const Grouping& g, const Source& source, double* scores) {
  const int64_t row = g.axes.row(), taps = g.axes.taps;
  const int64_t begin = first_column(g, stripe.input_begin);
  const int64_t end = first_column(g, stripe.input_end);
  std::vector<double> sums(size_t(end - begin + kLanes<double>));
  alignas(64) Keys<T> keys;
  int64_t nonfinite = 0;
  for (int64_t out = stripe.out_begin; out < stripe.out_end; ++out) {
    const int64_t top = first_row(g, out), bottom = first_row(g, out + 1);
    if (row < kShortRow) {
      double squares[kKeysAtOnce];
      std::fill(sums.begin(), sums.end(), 0.0);
      for (int64_t i = top * row, column = 0; i < bottom * row; i += kKeysAtOnce) {
        const int n = int(std::min<int64_t>(kKeysAtOnce, bottom * row - i));
        source.fill(stripe.tensor, i, n, keys);
        nonfinite += count_nonfinite<T>(keys, n);
        add_squares_of<T>(keys, n, true, squares);
        for (int j = 0; j < n; ++j) {
          sums[column] += squares[j];
          if (++column == row) column = 0;
        }
      }
    } else {
      for (int64_t column = begin; column < end; column += kKeysAtOnce) {
        const int n = int(std::min<int64_t>(kKeysAtOnce, end - column));
        for (int64_t r = top; r < bottom; ++r) {
          source.fill(stripe.tensor, r * row + column, n, keys);
          nonfinite += count_nonfinite<T>(keys, n);
          add_squares_of<T>(keys, n, r == top, sums.data() + column - begin);
        }
      }
    }
    double* score = scores + g.first + g.group(out, stripe.input_begin);
    for (int64_t input = stripe.input_begin; input < stripe.input_end; ++input) {
      double* of_box = sums.data() + first_column(g, input) - begin;
      fold_inputs(of_box, (first_column(g, input + 1) - first_column(g, input)) / taps, taps);
      for (int64_t tap = 0; tap < taps; tap += g.box.taps) {
        double sum = of_box[tap];
        for (int64_t t = tap + 1; t < std::min(tap + g.box.taps, taps); ++t) sum += of_box[t];
        *score++ = one_nan(sum);
      }
    }
  }
  return nonfinite;
}

// Which taps each shape of a dictionary keeps, for many shapes at once and for one.
struct ShapeTable {
  static constexpr int kMost = 16;
  int shapes, taps;
  alignas(64) int64_t lanes[32][kMost] = {};  // by tap: all ones where the shape keeps it
  uint8_t kept[kMost][32] = {};               // by shape: 1 where it keeps the tap

  explicit ShapeTable(const Pattern& pattern)
      : shapes(int(pattern.shapes.size())), taps(int(pattern.taps)) {
    for (int s = 0; s < shapes; ++s)
      for (int t = 0; t < taps; ++t)
        if (pattern.shapes[s] >> t & 1) lanes[t][s] = -1, kept[s][t] = 1;
  }

  // The largest sum of squares over the taps of a shape, and which: of equals the first.
  SPARSELTH_INLINE double best(const double* squares, uint8_t& choice) const {
    constexpr int kN = kLanes<double>;
    alignas(64) double sums[kMost];
    for (int s = 0; s < shapes; s += kN) {
      Vec<double> sum{};
      for (int t = 0; t < taps; ++t) {
        const Vec<int64_t> square = (Vec<int64_t>)broadcast(squares[t]);
        sum += (Vec<double>)(square & load(&lanes[t][s]));
      }
      store(sums + s, sum);
    }
    Key<double> largest = kNoKey;
    for (int s = 0; s < shapes; ++s) {
      const Key<double> key = magnitude_key<double>(one_nan(sums[s]));
      choice = key > largest ? uint8_t(s) : choice;
      largest = std::max(largest, key);
    }
    return one_nan(sums[choice]);
  }
};

// Scores the kernels of a stripe by their best shape; returns how many values are not finite.
template <class T, class Source>
int64_t score_shapes(const Stripe& stripe, const Grouping& g, const Source& source,
                     const ShapeTable& table, double* scores, uint8_t* choices) {
  const int at_once = kKeysAtOnce / table.taps;
  const int64_t begin = g.group(stripe.out_begin, stripe.input_begin);
  const int64_t end = g.group(stripe.out_end - 1, stripe.input_end);
  alignas(64) Keys<T> keys;
  alignas(64) double squares[kKeysAtOnce];
  int64_t nonfinite = 0;
  for (int64_t kernel = begin; kernel < end; kernel += at_once) {
    const int count = int(std::min<int64_t>(at_once, end - kernel)), n = count * table.taps;
    source.fill(stripe.tensor, kernel * table.taps, n, keys);
    nonfinite += count_nonfinite<T>(keys, n);
    add_squares_of<T>(keys, n, true, squares);
    for (int i = 0; i < count; ++i)
      scores[g.first + kernel + i] =
          table.best(squares + i * table.taps, choices[g.first + kernel + i]);
  }
  return nonfinite;
}
