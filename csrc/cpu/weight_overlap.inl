// How many of the k largest magnitudes two tensors share, compiled per instruction set.
//
// Liu et al. 2021, arXiv:2102.11068, eq. (1): the numerator of R_p, per layer. Cost: one selection
// of select.inl for each of the two, and one pass that counts.

#include "cpu/select.inl"

// counts[l]: indices kept in both a[l] and b[l]; -1 where either holds NaN or infinity. Zeroed by
// the caller.
template <class T>
void overlap_counts(const std::vector<const T*>& a, const std::vector<const T*>& b,
                    const std::vector<int64_t>& sizes, const std::vector<int64_t>& k,
                    int64_t* counts, const Threads& threads) {
  const auto chunks = make_chunks(sizes, false);
  const ValuesOf<T> values_a{a}, values_b{b};
  const Selection<T> of_a = select<T>(chunks, sizes.size(), k, values_a, threads);
  const Selection<T> of_b = select<T>(chunks, sizes.size(), k, values_b, threads);
  std::vector<int64_t> partial(chunks.size(), 0);
  for_each_chunk(chunks, threads, [&](int64_t c) {
    const Chunk chunk = chunks[c];
    std::vector<uint8_t> kept(chunk.end - chunk.begin);
    uint8_t* mask = kept.data();
    apply_cut<T>(chunk, of_a.cuts[c], values_a, [=](int64_t i, int n, const uint8_t* keep) {
      std::copy(keep, keep + n, mask + (i - chunk.begin));
    });
    int64_t both = 0;
    apply_cut<T>(chunk, of_b.cuts[c], values_b, [&](int64_t i, int n, const uint8_t* keep) {
      const uint8_t* other = mask + (i - chunk.begin);
      int shared = 0;
      for (int j = 0; j < n; ++j) shared += keep[j] & other[j];
      both += shared;
    });
    partial[c] = both;
  });
  for (size_t c = 0; c < chunks.size(); ++c) counts[chunks[c].tensor] += partial[c];
  for (size_t l = 0; l < sizes.size(); ++l)
    if (of_a.nonfinite[l] || of_b.nonfinite[l]) counts[l] = -1;
}
