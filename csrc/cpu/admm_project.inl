// The ADMM projection, compiled per instruction set.
//
//   Z <- Proj(W + U),  U <- W + U - Z,  and per tensor |W - Z|^2 and |Z_new - Z_old|^2
//
// Zhang et al. 2018, arXiv:1804.03294. The sum W + U is formed anew in each pass instead of being
// stored: the passes are bound by memory. Cost: the pass of select.inl (or, for a pattern, of
// group_scores.inl) and one that writes Z and U and sums the residuals. A float32 weight moves 8
// bytes in the first and 20 in the second.

#include "cpu/kept_groups.inl"

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

  Key<T> key_at(int tensor, int64_t i) const {
    return magnitude_key<T>(sum_of(w[tensor][i], u[tensor][i]));
  }

  void fill(int tensor, int64_t begin, int n, Key<T>* keys) const {
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
    HalfFloats from[2], to[2];
    __builtin_memcpy(from, &a, sizeof a);
    __builtin_memcpy(to, &b, sizeof b);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Vec<double> distance = widen(from[i]) - widen(to[i]);
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

// A stretch of n values, of which those stay whose byte is 1.
template <class T>
void project_stretch(int64_t begin, int64_t n, const uint8_t* kept, T* z, T* u, const T* w,
                     Residuals& total) {
  int64_t i = begin;
  if constexpr (sizeof(T) > 2) {
    constexpr int kN = kLanes<T>;
    Vec<double> primal{}, change{};
    for (; i + kN <= begin + n; i += kN) {
      const Vec<T> weight = load(w + i), v = weight + load(u + i);
      const Vec<Key<T>> stay = load_mask<T>(kept + i - begin);
      const Vec<T> stays = (Vec<T>)((Vec<Key<T>>)v & stay);
      add_squares<T>(primal, weight, stays);
      add_squares<T>(change, stays, load(z + i));
      store(z + i, stays);
      store(u + i, (Vec<T>)((Vec<Key<T>>)v & ~stay));
    }
    total.primal += reduce<double>(primal), total.change += reduce<double>(change);
  }
  for (; i < begin + n; ++i) project_value(kept[i - begin] != 0, w[i], z[i], u[i], total);
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

// Residuals of tensors that hold NaN or infinity are NaN.
inline void refuse(const std::vector<int64_t>& nonfinite, double* residuals) {
  for (size_t l = 0; l < nonfinite.size(); ++l)
    if (nonfinite[l]) residuals[2 * l] = residuals[2 * l + 1] = std::nan("");
}

inline void add(const Residuals& part, int tensor, double* residuals) {
  residuals[2 * tensor] += part.primal;
  residuals[2 * tensor + 1] += part.change;
}

template <class T>
struct Projection {
  std::vector<const T*> w;
  std::vector<T*> z, u;
  std::vector<Axes> axes;
  std::vector<int64_t> sizes, k;
  bool global_, allow_nonfinite;
  Pattern pattern;
  double* residuals;  // (tensors, 2), zeroed
};

template <class T>
void project_elements(const Projection<T>& p, const Threads& threads) {
  const auto chunks = make_chunks(p.sizes, p.global_);
  const SumsOf<T> sums{p.w, p.u};
  const Selection<T> selection = select<T>(chunks, p.sizes.size(), p.k, sums, threads);
  if (!p.allow_nonfinite && !selection.finite()) return refuse(selection.nonfinite, p.residuals);
  std::vector<Residuals> partial(chunks.size());
  for_each_chunk(chunks, threads, [&](int64_t c) {
    const int l = chunks[c].tensor;
    const Cut<T>& cut = selection.cuts[c];
    if constexpr (sizeof(T) > 2) {
      if (cut.plain()) {
        partial[c] = project_plain_chunk<T>(chunks[c], cut.below(), p.z[l], p.u[l], p.w[l]);
        return;
      }
    }
    apply_cut<T>(chunks[c], cut, sums, [&](int64_t begin, int n, const uint8_t* kept) {
      project_stretch<T>(begin, n, kept, p.z[l], p.u[l], p.w[l], partial[c]);
    });
  });
  for (size_t c = 0; c < chunks.size(); ++c) add(partial[c], chunks[c].tensor, p.residuals);
}

template <class T>
void project_groups(const Projection<T>& p, const Threads& threads) {
  const SumsOf<T> sums{p.w, p.u};
  const KeptGroups groups =
      keep_groups<T>(p.pattern, p.axes, p.k, p.global_, sums, !p.allow_nonfinite, threads);
  if (!p.allow_nonfinite && !groups.finite()) return refuse(groups.nonfinite, p.residuals);
  std::vector<Residuals> partial(groups.stripes.size());
  for_each_stripe(groups, threads, [&](int64_t i) {
    const Stripe& stripe = groups.stripes[i];
    const int l = stripe.tensor;
    apply_groups<T>(groups, p.pattern, stripe, sums,
                    [&](int64_t begin, int64_t n, const uint8_t* kept) {
                      project_stretch<T>(begin, n, kept, p.z[l], p.u[l], p.w[l], partial[i]);
                    });
  });
  for (size_t i = 0; i < partial.size(); ++i)
    add(partial[i], groups.stripes[i].tensor, p.residuals);
}

// Z <- Proj(W + U), U <- W + U - Z. Where the projection keeps, Z is W + U and U is 0;
// elsewhere the other way round. Where a sum is NaN or infinite, nothing is written and that
// tensor's residuals are NaN, unless `allow_nonfinite`: NaN then ranks above infinity, and infinity
// above all else.
template <class T>
void admm_project(const Projection<T>& p, const Threads& threads) {
  if (p.pattern.kind == Pattern::kElement) return project_elements<T>(p, threads);
  project_groups<T>(p, threads);
}
