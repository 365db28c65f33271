// How many of the k largest magnitudes two tensors share, compiled per instruction set.
//
// Liu et al. 2021, arXiv:2102.11068, eq. (1): the numerator of R_p, per layer and for several k at
// once. Cost: one selection of select.inl for each of the two, and one pass that counts; every k
// takes part in the same three passes.

#include "cpu/select.inl"

// Indices that both cuts keep, of the next n.
template <class T>
int count_shared(Keeper<T>& a, Keeper<T>& b, const Keys<T>& keys_a, const Keys<T>& keys_b, int n) {
  if (a.plain() && b.plain()) {
    const auto below_a = broadcast(a.below()), below_b = broadcast(b.below());
    Vec<Key<T>> shared{};
    for (int j = 0; j < n; j += kLanes<Key<T>>)
      shared -= (load(keys_a + j) > below_a) & (load(keys_b + j) > below_b);
    return int(reduce<Key<T>>(shared));
  }
  alignas(64) uint8_t kept_a[kKeysAtOnce], kept_b[kKeysAtOnce];
  a.mark(keys_a, n, kept_a);
  b.mark(keys_b, n, kept_b);
  int shared = 0;
  for (int j = 0; j < n; ++j) shared += kept_a[j] & kept_b[j];
  return shared;
}

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
    const auto cuts = [&](const Selection<T>& of) { return of.cuts.begin() + c * asked; };
    std::vector<Keeper<T>> keep_a(cuts(of_a), cuts(of_a) + asked);
    std::vector<Keeper<T>> keep_b(cuts(of_b), cuts(of_b) + asked);
    alignas(64) Keys<T> keys_a, keys_b;
    for (int64_t i = chunk.begin; i < chunk.end; i += kKeysAtOnce) {
      const int n = int(std::min<int64_t>(kKeysAtOnce, chunk.end - i));
      values_a.fill(chunk.tensor, i, n, keys_a);
      values_b.fill(chunk.tensor, i, n, keys_b);
      for (int64_t q = 0; q < asked; ++q) {
        partial[c * asked + q] += count_shared(keep_a[q], keep_b[q], keys_a, keys_b, n);
      }
    }
  });
  for (size_t c = 0; c < chunks.size(); ++c)
    for (int64_t q = 0; q < asked; ++q)
      counts[chunks[c].tensor * asked + q] += partial[c * asked + q];
  for (size_t l = 0; l < sizes.size(); ++l)
    if (of_a.nonfinite[l] || of_b.nonfinite[l])
      std::fill(counts + l * asked, counts + (l + 1) * asked, -1);
}
