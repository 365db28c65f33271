// Exact selection of the k largest magnitudes, compiled per instruction set.
//
// Keys are the magnitude's bits as an unsigned integer: they order as the magnitudes do, -0.0 and
// 0.0 are equal, and no arithmetic can round them. Three passes over the values, no sort:
//   1. a histogram of the keys' top bits, per chunk; its tail gives the pivot bin of the k-th key
//   2. the keys of the pivot bin alone are collected; the k-th key is found among them
//   3. the caller's apply pass, with the key's threshold and the chunk's share of the ties
// Ties keep the lowest index: every chunk knows how many ties come before it.
// One selection may span several tensors; all selections of a call share the passes.
// Memory: 16 KiB per chunk, plus the pivot bin. Deterministic for any number of threads.

template <class T>
struct KeyOf;
template <>
struct KeyOf<float> {
  using type = uint32_t;
};
template <>
struct KeyOf<double> {
  using type = uint64_t;
};
template <>
struct KeyOf<Half> {
  using type = uint16_t;
};
template <>
struct KeyOf<BFloat16> {
  using type = uint16_t;
};
template <class T>
using Key = typename KeyOf<T>::type;

template <class T>
SPARSELTH_INLINE Key<T> magnitude_key(T value) {
  Key<T> bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits & Key<T>(~(Key<T>(1) << (8 * sizeof bits - 1)));
}

inline constexpr int kBinBits = 12;
inline constexpr int64_t kChunk = 1 << 16;

template <class T>
SPARSELTH_INLINE uint32_t bin_of(Key<T> key) {
  constexpr int kShift = int(8 * sizeof(Key<T>)) - 1 - kBinBits;
  return uint32_t(key >> kShift);
}

// A stretch of one tensor.
struct Chunk {
  int selection, tensor;
  int64_t begin, end;
};

// What the apply pass needs: keep keys above `threshold`, and the first `ties` equal to it.
template <class T>
struct Cut {
  Key<T> threshold;
  int64_t ties, ties_here;  // how many to keep of the chunk's equal keys, and how many there are
};

inline std::vector<Chunk> make_chunks(const std::vector<int64_t>& sizes, bool pooled) {
  std::vector<Chunk> chunks;
  for (int tensor = 0; tensor < int(sizes.size()); ++tensor)
    for (int64_t begin = 0; begin < sizes[tensor]; begin += kChunk)
      chunks.push_back(
          {pooled ? 0 : tensor, tensor, begin, std::min(begin + kChunk, sizes[tensor])});
  return chunks;
}

// Fills a buffer with keys [begin, end) of a chunk, so that the loops after it vectorise.
inline constexpr int kKeysAtOnce = 512;

// value(tensor, i) -> T. Returns one Cut per chunk.
template <class T, class Value>
std::vector<Cut<T>> select(const std::vector<Chunk>& chunks, const std::vector<int64_t>& k,
                           const Value& value, const Threads& threads) {
  constexpr int kBins = 1 << kBinBits;
  std::vector<uint32_t> histogram(chunks.size() * kBins, 0);
  threads.run(int64_t(chunks.size()), [&](int64_t c) {
    const Chunk chunk = chunks[c];
    uint32_t* bins = histogram.data() + c * kBins;
    Key<T> keys[kKeysAtOnce];
    for (int64_t i = chunk.begin; i < chunk.end; i += kKeysAtOnce) {
      const int n = int(std::min<int64_t>(kKeysAtOnce, chunk.end - i));
      for (int j = 0; j < n; ++j) keys[j] = magnitude_key<T>(value(chunk.tensor, i + j));
      for (int j = 0; j < n; ++j) ++bins[bin_of<T>(keys[j])];
    }
  });

  struct Selection {
    std::vector<int64_t> chunks;
    uint32_t pivot = 0;
    int64_t above = 0;  // keys in higher bins
    Key<T> threshold = 0;
    int64_t ties = 0;
  };
  std::vector<Selection> selections(k.size());
  for (size_t c = 0; c < chunks.size(); ++c)
    selections[chunks[c].selection].chunks.push_back(int64_t(c));
  threads.run(int64_t(selections.size()), [&](int64_t s) {
    Selection& selection = selections[s];
    std::vector<int64_t> total(kBins, 0);
    for (int64_t c : selection.chunks)
      for (int b = 0; b < kBins; ++b) total[b] += histogram[c * kBins + b];
    int64_t above = 0;
    for (int b = kBins - 1; b >= 0; --b) {
      if (above + total[b] >= k[s] || b == 0) {
        selection.pivot = uint32_t(b), selection.above = above;
        break;
      }
      above += total[b];
    }
  });

  std::vector<std::vector<Key<T>>> pivot_keys(chunks.size());
  threads.run(int64_t(chunks.size()), [&](int64_t c) {
    const Chunk chunk = chunks[c];
    const uint32_t pivot = selections[chunk.selection].pivot;
    const uint32_t expected = histogram[c * kBins + pivot];
    if (expected == 0) return;
    std::vector<Key<T>>& found = pivot_keys[c];
    found.resize(expected + kKeysAtOnce);
    size_t at = 0;
    Key<T> keys[kKeysAtOnce];
    for (int64_t i = chunk.begin; i < chunk.end; i += kKeysAtOnce) {
      const int n = int(std::min<int64_t>(kKeysAtOnce, chunk.end - i));
      int hits = 0;
      for (int j = 0; j < n; ++j) {
        keys[j] = magnitude_key<T>(value(chunk.tensor, i + j));
        hits += bin_of<T>(keys[j]) == pivot;
      }
      if (hits == 0) continue;
      for (int j = 0; j < n; ++j) {  // branch-free: written always, kept if it is a hit
        found[at] = keys[j];
        at += bin_of<T>(keys[j]) == pivot;
      }
    }
    found.resize(at);
  });

  threads.run(int64_t(selections.size()), [&](int64_t s) {
    Selection& selection = selections[s];
    const int64_t wanted = k[s] - selection.above;
    std::vector<Key<T>> keys;
    for (int64_t c : selection.chunks)
      keys.insert(keys.end(), pivot_keys[c].begin(), pivot_keys[c].end());
    if (k[s] == 0 || keys.empty()) {
      selection.threshold = Key<T>(~Key<T>(0));  // above every key: keeps nothing
      return;
    }
    auto kth = keys.begin() + (wanted - 1);
    std::nth_element(keys.begin(), kth, keys.end(), std::greater<Key<T>>());
    selection.threshold = *kth;
    const int64_t larger = std::count_if(keys.begin(), keys.end(),
                                         [&](Key<T> key) { return key > selection.threshold; });
    selection.ties = wanted - larger;
  });

  std::vector<Cut<T>> cuts(chunks.size());
  for (Selection& selection : selections)
    for (int64_t c : selection.chunks) {
      const int64_t here =
          std::count(pivot_keys[c].begin(), pivot_keys[c].end(), selection.threshold);
      const int64_t kept = std::min(here, selection.ties);
      cuts[c] = {selection.threshold, kept, here};
      selection.ties -= kept;
    }
  return cuts;
}

// Calls block(begin, n, kept) for consecutive stretches of the chunk, kept[j] being 1 where
// element begin + j stays. All but the one chunk in which the ties run out is a plain comparison.
template <class T, class Value, class Block>
SPARSELTH_INLINE void apply_cut(const Chunk& chunk, const Cut<T>& cut, const Value& value,
                                const Block& block) {
  const bool all_ties = cut.ties == cut.ties_here;
  const Key<T> floor = all_ties ? cut.threshold : Key<T>(cut.threshold + 1);
  int64_t ties = all_ties ? 0 : cut.ties;
  Key<T> keys[kKeysAtOnce];
  uint8_t kept[kKeysAtOnce];
  for (int64_t i = chunk.begin; i < chunk.end; i += kKeysAtOnce) {
    const int n = int(std::min<int64_t>(kKeysAtOnce, chunk.end - i));
    for (int j = 0; j < n; ++j) keys[j] = magnitude_key<T>(value(chunk.tensor, i + j));
    for (int j = 0; j < n; ++j) kept[j] = keys[j] >= floor;
    for (int j = 0; ties > 0 && j < n; ++j) {
      if (keys[j] == cut.threshold) kept[j] = 1, --ties;
    }
    block(i, n, static_cast<const uint8_t*>(kept));
  }
}
