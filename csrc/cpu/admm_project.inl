// The ADMM projection, compiled per instruction set.
//
//   Z <- Proj(W + U),  U <- W + U - Z,  and per tensor |W - Z|^2 and |Z_new - Z_old|^2
//
// Zhang et al. 2018, arXiv:1804.03294. The sum W + U is formed anew in each pass instead of being
// stored: the passes are bound by memory. Cost: the pass of select.inl and one that writes Z and U
// and sums the residuals. A float32 weight moves 8 bytes in the first and 20 in the second.

#include "cpu/select.inl"

// Sums of squares of one chunk: |w - z|^2 and |z_new - z_old|^2.
struct Residuals {
  double primal = 0, change = 0;
};

template <class T>
SPARSELTH_INLINE T sum_of(T a, T b) {
  return a + b;
}
template <>
SPARSELTH_INLINE Half sum_of(Half a, Half b) {
  return Half(float(a) + float(b));
}
template <>
SPARSELTH_INLINE BFloat16 sum_of(BFloat16 a, BFloat16 b) {
  return BFloat16(float(a) + float(b));
}

template <class T>
SPARSELTH_INLINE Vec<Key<T>> keys_of(Vec<T> v) {
  return (Vec<Key<T>>)v & kLargestKey<T>;
}

// The sums that are projected.
template <class T>
struct SumsOf {
  const std::vector<const T*>& w;
  const std::vector<T*>& u;

  T at(int tensor, int64_t i) const { return sum_of(w[tensor][i], u[tensor][i]); }

  void fill(int tensor, int64_t begin, int n, Keys<T>& keys) const {
    const T *a = w[tensor] + begin, *b = u[tensor] + begin;
    int j = 0;
    if constexpr (sizeof(T) > 2) {
      for (; j + kLanes<T> <= n; j += kLanes<T>)
        store(keys + j, keys_of<T>(load(a + j) + load(b + j)));
    }
    for (; j < n; ++j) keys[j] = magnitude_key<T>(sum_of(a[j], b[j]));
    for (; j % kLanes<Key<T>> != 0; ++j) keys[j] = kNoKey;
  }
};

// Adds the squares of a - b to `sum`, in double.
template <class T>
SPARSELTH_INLINE void add_squares(Vec<double>& sum, Vec<T> a, Vec<T> b) {
  if constexpr (sizeof(T) == sizeof(double)) {
    sum += (a - b) * (a - b);
  } else {
    constexpr int kN = kLanes<double>;
    typedef T HalfVec __attribute__((vector_size(SPARSELTH_VECTOR_BYTES / 2)));
    HalfVec from[2], to[2];
    __builtin_memcpy(from, &a, sizeof a);
    __builtin_memcpy(to, &b, sizeof b);
    static_assert(sizeof from == sizeof a && sizeof(HalfVec) / sizeof(T) == kN);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Vec<double> distance = __builtin_convertvector(from[i], Vec<double>) -
                                   __builtin_convertvector(to[i], Vec<double>);
      sum += distance * distance;
    }
  }
}

template <class T>
SPARSELTH_INLINE void project_value(bool keep, T w, T& z, T& u, Residuals& total) {
  const T v = sum_of(w, u), stays = keep ? v : T(0);
  const double off = double(w) - double(stays), moved = double(stays) - double(z);
  total.primal += off * off;
  total.change += moved * moved;
  z = stays;
  u = keep ? T(0) : v;
}

// One chunk, value by value.
template <class T>
Residuals project_chunk(const Chunk& chunk, const Cut<T>& cut, const SumsOf<T>& sums, T* z, T* u,
                        const T* w) {
  Residuals total;
  apply_cut<T>(chunk, cut, sums, [&](int64_t begin, int n, const uint8_t* kept) {
    for (int64_t i = begin; i < begin + n; ++i)
      project_value(kept[i - begin] != 0, w[i], z[i], u[i], total);
  });
  return total;
}

// One chunk in which keys above one value are all that is kept: in vectors, read and written once.
template <class T>
Residuals project_plain_chunk(const Chunk& chunk, Key<T> below, T* z, T* u, const T* w) {
  constexpr int kN = kLanes<T>;
  Vec<double> primal{}, change{};
  int64_t i = chunk.begin;
  for (; i + kN <= chunk.end; i += kN) {
    const Vec<T> weight = load(w + i), v = weight + load(u + i);
    const Vec<Key<T>> kept = keys_of<T>(v) > below;
    const Vec<T> stays = (Vec<T>)((Vec<Key<T>>)v & kept);
    add_squares<T>(primal, weight, stays);
    add_squares<T>(change, stays, load(z + i));
    store(z + i, stays);
    store(u + i, (Vec<T>)((Vec<Key<T>>)v & ~kept));
  }
  Residuals total{reduce<double>(primal), reduce<double>(change)};
  for (; i < chunk.end; ++i)
    project_value(magnitude_key<T>(sum_of(w[i], u[i])) > below, w[i], z[i], u[i], total);
  return total;
}

// Z <- Proj(W + U), U <- W + U - Z. Where the projection keeps, Z is W + U and U is 0;
// elsewhere the other way round. `residuals`: (tensors, 2), zeroed. Where a sum is NaN or infinite,
// nothing is written and that tensor's residuals are NaN, unless `ordered`: NaN then ranks above
// infinity, and infinity above all else.
template <class T>
void admm_project(const std::vector<const T*>& w, const std::vector<T*>& z,
                  const std::vector<T*>& u, const std::vector<int64_t>& sizes,
                  const std::vector<int64_t>& k, bool pooled, bool ordered, double* residuals,
                  const Threads& threads) {
  const auto chunks = make_chunks(sizes, pooled);
  const SumsOf<T> sums{w, u};
  const Selection<T> selection = select<T>(chunks, sizes.size(), k, sums, threads);
  if (!ordered && !selection.finite()) {
    for (size_t l = 0; l < sizes.size(); ++l)
      if (selection.nonfinite[l]) residuals[2 * l] = residuals[2 * l + 1] = std::nan("");
    return;
  }
  std::vector<Residuals> partial(chunks.size());
  for_each_chunk(chunks, threads, [&](int64_t c) {
    const int l = chunks[c].tensor;
    const Cut<T>& cut = selection.cuts[c];
    if constexpr (sizeof(T) > 2) {
      if (cut.plain()) {
        partial[c] = project_plain_chunk<T>(chunks[c], cut.below(), z[l], u[l], w[l]);
        return;
      }
    }
    partial[c] = project_chunk<T>(chunks[c], cut, sums, z[l], u[l], w[l]);
  });
  for (size_t c = 0; c < chunks.size(); ++c) {
    residuals[2 * chunks[c].tensor] += partial[c].primal;
    residuals[2 * chunks[c].tensor + 1] += partial[c].change;
  }
}
