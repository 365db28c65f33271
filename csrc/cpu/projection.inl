// The ops built on selection, compiled per instruction set: top-k masks, the ADMM projection and
// the overlap of two selections. Formulas: sparselth/ops/contract.py.

template <class T>
void topk_masks(const std::vector<const T*>& scores, const std::vector<int64_t>& sizes,
                const std::vector<int64_t>& k, bool pooled, const std::vector<uint8_t*>& masks,
                const Threads& threads) {
  const auto chunks = make_chunks(sizes, pooled);
  const auto value = [&](int tensor, int64_t i) { return scores[tensor][i]; };
  const auto cuts = select<T>(chunks, k, value, threads);
  threads.run(int64_t(chunks.size()), [&](int64_t c) {
    const T* from = scores[chunks[c].tensor];
    uint8_t* mask = masks[chunks[c].tensor];
    apply_cut<T>(
        chunks[c], cuts[c], [=](int, int64_t i) { return from[i]; },
        [=](int64_t i, bool keep) { mask[i] = keep; });
  });
}

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
    constexpr int kSums = 8;  // independent, so that the additions overlap and vectorise
    double primal[kSums] = {}, change[kSums] = {};
    apply_cut<T>(
        chunks[c], cuts[c], [=](int, int64_t i) { return sum_of(weight[i], dual[i]); },
        [&](int64_t i, bool keep) {
          const T v = sum_of(weight[i], dual[i]);
          const T kept = keep ? v : T(0);
          const double off = double(weight[i]) - double(kept);
          const double moved = double(kept) - double(target[i]);
          primal[i % kSums] += off * off;
          change[i % kSums] += moved * moved;
          target[i] = kept;
          dual[i] = keep ? T(0) : v;
        });
    for (int i = 0; i < kSums; ++i) {
      partial[c].primal += primal[i];
      partial[c].change += change[i];
    }
  });
  for (size_t c = 0; c < chunks.size(); ++c) {
    residuals[2 * chunks[c].tensor] += partial[c].primal;
    residuals[2 * chunks[c].tensor + 1] += partial[c].change;
  }
}

// counts[l]: indices kept in both a[l] and b[l]. Zeroed by the caller.
template <class T>
void overlap_counts(const std::vector<const T*>& a, const std::vector<const T*>& b,
                    const std::vector<int64_t>& sizes, const std::vector<int64_t>& k,
                    int64_t* counts, const Threads& threads) {
  const auto chunks = make_chunks(sizes, false);
  const auto cuts_a = select<T>(
      chunks, k, [&](int tensor, int64_t i) { return a[tensor][i]; }, threads);
  const auto cuts_b = select<T>(
      chunks, k, [&](int tensor, int64_t i) { return b[tensor][i]; }, threads);
  std::vector<int64_t> partial(chunks.size(), 0);
  threads.run(int64_t(chunks.size()), [&](int64_t c) {
    const Chunk chunk = chunks[c];
    std::vector<uint8_t> kept(chunk.end - chunk.begin);
    const T *from_a = a[chunk.tensor], *from_b = b[chunk.tensor];
    uint8_t* mask = kept.data();
    apply_cut<T>(
        chunk, cuts_a[c], [=](int, int64_t i) { return from_a[i]; },
        [=](int64_t i, bool keep) { mask[i - chunk.begin] = keep; });
    int64_t both = 0;
    apply_cut<T>(
        chunk, cuts_b[c], [=](int, int64_t i) { return from_b[i]; },
        [&](int64_t i, bool keep) { both += keep & mask[i - chunk.begin]; });
    partial[c] = both;
  });
  for (size_t c = 0; c < chunks.size(); ++c) counts[chunks[c].tensor] += partial[c];
}
