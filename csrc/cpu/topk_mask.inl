// Masks of the k largest magnitudes or groups, compiled per instruction set.
//
// Cost: the pass of select.inl (or, for a pattern, of group_scores.inl) and one that writes the
// mask.

#include "cpu/kept_groups.inl"

template <class T>
struct MaskRequest {
  std::vector<const T*> scores;
  std::vector<Axes> axes;
  std::vector<int64_t> sizes, k;
  bool global_;
  Pattern pattern;
  std::vector<uint8_t*> masks;
  int64_t* nonfinite;  // per tensor: how many values are NaN or infinite
};

template <class T>
void mask_elements(const MaskRequest<T>& r, const Threads& threads) {
  const auto chunks = make_chunks(r.sizes, r.global_);
  const ValuesOf<T> source{r.scores};
  const Selection<T> selection = select<T>(chunks, r.sizes.size(), r.k, source, threads);
  std::copy(selection.nonfinite.begin(), selection.nonfinite.end(), r.nonfinite);
  for_each_chunk(chunks, threads, [&](int64_t c) {
    uint8_t* mask = r.masks[chunks[c].tensor];
    apply_cut<T>(chunks[c], selection.cuts[c], source, [=](int64_t i, int n, const uint8_t* kept) {
      std::copy(kept, kept + n, mask + i);
    });
  });
}

template <class T>
void mask_groups(const MaskRequest<T>& r, const Threads& threads) {
  const ValuesOf<T> source{r.scores};
  const KeptGroups groups =
      keep_groups<T>(r.pattern, r.axes, r.k, r.global_, source, true, threads);
  std::copy(groups.nonfinite.begin(), groups.nonfinite.end(), r.nonfinite);
  for_each_stripe(groups, threads, [&](int64_t i) {
    const Stripe& stripe = groups.stripes[i];
    uint8_t* mask = r.masks[stripe.tensor];
    apply_groups<T>(groups, r.pattern, stripe, source,
                    [=](int64_t begin, int64_t n, const uint8_t* kept) {
                      std::copy(kept, kept + n, mask + begin);
                    });
  });
}

template <class T>
void topk_masks(const MaskRequest<T>& request, const Threads& threads) {
  if (request.pattern.kind == Pattern::kElement) return mask_elements<T>(request, threads);
  mask_groups<T>(request, threads);
}
