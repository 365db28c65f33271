// How many of the k largest magnitudes two tensors share, compiled per instruction set.
//
// Liu et al. 2021, arXiv:2102.11068, eq. (1): the numerator of R_p, per layer and for several k at
// once. Cost: one selection of select.inl for each of the two, and one pass that counts; every k
// takes part in the same three passes.

#include "cpu/select.inl"

// Several cuts of one chunk of a and b, and how many indices both keep under each.
template <class T>
class SharedCounter {
 public:
  SharedCounter(const Cut<T>* a, const Cut<T>* b, int64_t asked, int64_t* shared)
      : keep_a_(a, a + asked), keep_b_(b, b + asked), shared_(shared) {}

  // The next n keys of either.
  void take(const Keys<T>& a, const Keys<T>& b, int n) {
    for (size_t q = 0; q < keep_a_.size();) {
      if (plain(q, kTogether)) {
        take_plain<kTogether>(q, a, b, n), q += kTogether;
      } else if (plain(q, 1)) {
        take_plain<1>(q, a, b, n), q += 1;
      } else {
        take_ties(q, a, b, n), q += 1;
      }
    }
  }

 private:
  static constexpr size_t kTogether = 5;

  std::vector<Keeper<T>> keep_a_, keep_b_;
  int64_t* shared_;

  bool plain(size_t first, size_t count) const {
    if (first + count > keep_a_.size()) return false;
    for (size_t q = first; q < first + count; ++q)
      if (!keep_a_[q].plain() || !keep_b_[q].plain()) return false;
    return true;
  }

  template <size_t kCount>
  void take_plain(size_t first, const Keys<T>& a, const Keys<T>& b, int n) {
    using V = Vec<Key<T>>;
    V below_a[kCount], below_b[kCount], shared[kCount];
#pragma GCC unroll 8
    for (size_t q = 0; q < kCount; ++q) {
      below_a[q] = broadcast(keep_a_[first + q].below());
      below_b[q] = broadcast(keep_b_[first + q].below()), shared[q] = V{};
    }
    for (int j = 0; j < n; j += kLanes<Key<T>>) {
      const V key_a = load(a + j), key_b = load(b + j);
#pragma GCC unroll 8
      for (size_t q = 0; q < kCount; ++q)
        shared[q] -= (key_a > below_a[q]) & (key_b > below_b[q]);  // all ones is minus one
    }
#pragma GCC unroll 8
    for (size_t q = 0; q < kCount; ++q) shared_[first + q] += reduce<Key<T>>(shared[q]);
  }

  void take_ties(size_t q, const Keys<T>& a, const Keys<T>& b, int n) {
    alignas(64) uint8_t kept_a[kKeysAtOnce], kept_b[kKeysAtOnce];
    keep_a_[q].mark(a, n, kept_a);
    keep_b_[q].mark(b, n, kept_b);
    for (int j = 0; j < n; ++j) shared_[q] += kept_a[j] & kept_b[j];
  }
};

// counts[l * asked + q]: indices among the k[l * asked + q] largest of both a[l] and b[l]; -1 where
// either holds NaN or infinity. Zeroed by the caller. masks: one per pair, or none at all.
template <class T>
void overlap_counts(const std::vector<const T*>& a, const std::vector<const T*>& b,
                    const std::vector<const uint8_t*>& masks, const std::vector<int64_t>& sizes,
                    const std::vector<int64_t>& k, int64_t asked, int64_t* counts,
                    const Threads& threads) {
  const auto chunks = make_chunks(sizes, false);
  const MaskedValuesOf<T> values_a{a, masks}, values_b{b, masks};
  const Selection<T> of_a = select<T>(chunks, sizes.size(), k, values_a, threads, asked);
  const Selection<T> of_b = select<T>(chunks, sizes.size(), k, values_b, threads, asked);
  std::vector<int64_t> partial(chunks.size() * asked, 0);
  for_each_chunk(chunks, threads, [&](int64_t c) {
    const Chunk chunk = chunks[c];
    SharedCounter<T> counter(&of_a.cuts[c * asked], &of_b.cuts[c * asked], asked,
                             &partial[c * asked]);
    alignas(64) Keys<T> keys_a, keys_b;
    for (int64_t i = chunk.begin; i < chunk.end; i += kKeysAtOnce) {
      const int n = int(std::min<int64_t>(kKeysAtOnce, chunk.end - i));
      values_a.fill(chunk.tensor, i, n, keys_a);
      values_b.fill(chunk.tensor, i, n, keys_b);
      counter.take(keys_a, keys_b, n);
    }
  });
  for (size_t c = 0; c < chunks.size(); ++c)
    for (int64_t q = 0; q < asked; ++q)
      counts[chunks[c].tensor * asked + q] += partial[c * asked + q];
  for (size_t l = 0; l < sizes.size(); ++l)
    if (of_a.nonfinite[l] || of_b.nonfinite[l])
      std::fill(counts + l * asked, counts + (l + 1) * asked, -1);
}
