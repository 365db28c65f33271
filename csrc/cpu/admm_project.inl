// The ADMM projection, compiled per instruction set.
//
//   Z <- Proj(W + U),  U <- W + U - Z,  and per tensor |W - Z|^2 and |Z_new - Z_old|^2
//
// Zhang et al. 2018, arXiv:1804.03294. The sum W + U is formed anew in each pass instead of being
// stored: the passes are bound by memory. Cost: the two passes of select.inl and one that writes
// Z and U and sums the residuals.

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

// Z <- Proj(W + U), U <- W + U - Z. Where the projection keeps, Z is W + U and U is 0;
// elsewhere the other way round. `residuals`: (tensors, 2), zeroed.
template <class T>
void admm_project(const std::vector<const T*>& w, const std::vector<T*>& z,
                  const std::vector<T*>& u, const std::vector<int64_t>& sizes,
                  const std::vector<int64_t>& k, bool pooled, double* residuals,
                  const Threads& threads) {
  const auto chunks = make_chunks(sizes, pooled);
  const auto cuts = select<T>(
      chunks, k, [&](int tensor, int64_t i) { return sum_of(w[tensor][i], u[tensor][i]); },
      threads);
  std::vector<Residuals> partial(chunks.size());
  threads.run(int64_t(chunks.size()), [&](int64_t c) {
    const T* weight = w[chunks[c].tensor];
    T* target = z[chunks[c].tensor];
    T* dual = u[chunks[c].tensor];
    Vec<double> primal{}, change{};
    apply_cut<T>(
        chunks[c], cuts[c], [=](int, int64_t i) { return sum_of(weight[i], dual[i]); },
        [&](int64_t begin, int n, const uint8_t* kept) {
          // Zero beyond n: the sums below run in whole vectors.
          double off[kKeysAtOnce] = {}, moved[kKeysAtOnce] = {};
          const T* w_at = weight + begin;
          T *z_at = target + begin, *u_at = dual + begin;
          for (int j = 0; j < n; ++j) {
            const T v = sum_of(w_at[j], u_at[j]);
            const T stays = kept[j] ? v : T(0);
            off[j] = double(w_at[j]) - double(stays);
            moved[j] = double(stays) - double(z_at[j]);
            z_at[j] = stays;
            u_at[j] = kept[j] ? T(0) : v;
          }
          for (int j = 0; j < kKeysAtOnce; j += kLanes<double>) {
            const Vec<double> a = load(off + j), b = load(moved + j);
            primal += a * a;
            change += b * b;
          }
        });
    partial[c] = {reduce<double>(primal), reduce<double>(change)};
  });
  for (size_t c = 0; c < chunks.size(); ++c) {
    residuals[2 * chunks[c].tensor] += partial[c].primal;
    residuals[2 * chunks[c].tensor + 1] += partial[c].change;
  }
}
