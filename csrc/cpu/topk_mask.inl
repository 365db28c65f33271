// Masks of the k largest magnitudes, compiled per instruction set.
//
// Cost: the two passes of select.inl and one that writes the mask.

#include "cpu/select.inl"

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
        [=](int64_t i, int n, const uint8_t* kept) { std::copy(kept, kept + n, mask + i); });
  });
}
