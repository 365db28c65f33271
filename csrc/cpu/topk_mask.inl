// Masks of the k largest magnitudes, compiled per instruction set.
//
// Cost: the pass of select.inl and one that writes the mask.

#include "cpu/select.inl"

// nonfinite: per tensor, how many values are NaN or infinite.
template <class T>
void topk_masks(const std::vector<const T*>& scores, const std::vector<int64_t>& sizes,
                const std::vector<int64_t>& k, bool pooled, const std::vector<uint8_t*>& masks,
                int64_t* nonfinite, const Threads& threads) {
  const auto chunks = make_chunks(sizes, pooled);
  const ValuesOf<T> source{scores};
  const Selection<T> selection = select<T>(chunks, sizes.size(), k, source, threads);
  std::copy(selection.nonfinite.begin(), selection.nonfinite.end(), nonfinite);
  for_each_chunk(chunks, threads, [&](int64_t c) {
    uint8_t* mask = masks[chunks[c].tensor];
    apply_cut<T>(chunks[c], selection.cuts[c], source, [=](int64_t i, int n, const uint8_t* kept) {
      std::copy(kept, kept + n, mask + i);
    });
  });
}
