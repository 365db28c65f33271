// Exact selection of the k largest magnitudes, compiled per instruction set.
//
// Magnitudes are compared as keys (magnitude_keys.inl). No sort, and two passes over the values:
//   1. a small sample brackets the k-th key; then one pass counts the keys above the bracket and
//      at its ends, and collects those between, among which the k-th key is found
//   2. the caller's apply pass, with the key's threshold and the chunk's share of the ties
// A bracket that missed is seen from the counts, widened and tried again: the sample decides how
// long it takes, never what is found. Ends are counted, not collected: a tensor full of equal
// values costs no more than another.
// Ties keep the lowest index: every chunk knows how many ties come before it.
// NaN and infinity rank above all else, NaN first. They are counted on the way; what to do about
// them is the caller's business.
// One selection may span several tensors, and ask for several k; all of them share the passes.
// Memory: a sample of about (2.4 n)^(2/3) keys, and as many collected. Deterministic for any number
// of threads.

#include "cpu/census.inl"

// The keys drawn from every part of the selections, chunk after chunk: runs at regular steps, as
// neighbors are often alike.
template <class T>
class Samples {
 public:
  // needed: per chunk, whether its selection has to be sampled. values: per chunk, in its
  // selection.
  Samples(const std::vector<Chunk>& chunks, const std::vector<char>& needed,
          const std::vector<int64_t>& values)
      : first_(chunks.size() + 1, 0), step_(chunks.size(), 0) {
    for (size_t c = 0; c < chunks.size(); ++c) {
      // The chunks of a selection are neighbors.
      const bool as_before = c > 0 && chunks[c].selection == chunks[c - 1].selection;
      step_[c] = as_before ? step_[c - 1] : needed[c] ? step_for(values[c]) : 0;
      const int64_t size = chunks[c].end - chunks[c].begin;
      first_[c + 1] = first_[c] + (step_[c] > 0 ? drawn_from(size, step_[c]) : 0);
    }
    keys_.resize(size_t(first_.back()));
  }

  template <class Source>
  void draw(int64_t c, const Chunk& chunk, const Source& source) {
    if (step_[c] == 0) return;
    Key<T>* to = keys_.data() + first_[c];
    int64_t i = chunk.begin;
    for (; i + kRun <= chunk.end; i += step_[c], to += kRun)
      for (int64_t j = 0; j < kRun; ++j) to[j] = source.key_at(chunk.tensor, i + j);
    for (; i < chunk.end; ++i) *to++ = source.key_at(chunk.tensor, i);
  }

  int64_t count(int64_t begin, int64_t end) const { return first_[end] - first_[begin]; }

  // What was drawn from the chunks in [begin, end).
  std::vector<Key<T>> of(int64_t begin, int64_t end) const {
    std::vector<Key<T>> drawn = room_for<T>(count(begin, end));
    drawn.assign(keys_.begin() + first_[begin], keys_.begin() + first_[end]);
    return drawn;
  }

 private:
  static constexpr int64_t kRun = 8;

  std::vector<int64_t> first_, step_;
  std::vector<Key<T>> keys_;

  // About (2.4 n)^(2/3) of n values, which makes sampling cost what collecting costs.
  static int64_t step_for(int64_t values) {
    const double wanted = std::pow(2.4 * double(values), 2.0 / 3.0);
    return std::max<int64_t>(kRun, int64_t(kRun * double(values) / wanted));
  }

  static int64_t drawn_from(int64_t size, int64_t step) {
    if (size == 0) return 0;
    const int64_t last = (size - 1) / step;
    return last * kRun + std::min(kRun, size - last * step);
  }
};

// One k of one selection: which chunks hold what, and what follows.
template <class T>
struct Search {
  int64_t begin = 0, end = 0;    // its chunks
  int64_t which = 0, asked = 1;  // of the k of its selection
  int64_t size = 0, k = 0;
  double margin = 0;  // ranks of the sample on either side of the one expected
  Bracket<T> bracket;
  bool found = false;
  Key<T> threshold = kLargestKey<T>;
  int64_t ties = 0;

  bool needs_sample() const { return k > 0 && k < size; }

  int64_t census(int64_t chunk) const { return chunk * asked + which; }

  // Four standard deviations of a rank in an independent sample.
  void start(const Samples<T>& samples) {
    const double share = double(k) / double(size);
    margin = 4 * std::sqrt(double(samples.count(begin, end)) * share * (1 - share)) + 4;
  }

  // Chooses the bracket around the k-th key, as far as the sample tells. Its ends need not be
  // ranked exactly.
  void aim(const Samples<T>& samples) {
    bracket = {};
    if (k == 0) return void(bracket.low = kLargestKey<T>);
    if (k == size) return void(bracket.high = 0);
    const int64_t count = samples.count(begin, end);
    const double expected = double(k) / double(size) * double(count);
    const int64_t first = int64_t(expected - margin), last = int64_t(expected + margin) + 1;
    const auto near = [&](int64_t rank) {
      const int64_t enough = std::max<int64_t>(kLanes<Key<T>>, int64_t(margin) / 8);
      std::vector<Key<T>> sample = samples.of(begin, end);
      return narrow<T>(sample, rank + 1, Key<T>(0), bracket.high, enough);
    };
    if (first > 0 && first < count) bracket.high = near(first).highest();
    if (last < count) bracket.low = near(last).lowest();
  }

  // Finds the k-th key among what was collected, or widens the margin. counts: all of them.
  void conclude(const std::vector<Census<T>>& counts) {
    int64_t above = 0, at_high = 0, at_low = 0, between = 0;
    for (int64_t c = begin; c < end; ++c) {
      const Census<T>& of_chunk = counts[census(c)];
      above += of_chunk.above, at_high += of_chunk.at_high, at_low += of_chunk.at_low;
      between += int64_t(of_chunk.between.size());
    }
    int64_t wanted = k - above;
    found = k == 0 || k == size || (wanted > 0 && wanted <= at_high + between + at_low);
    if (!found) return void(margin *= 8);
    if (k == 0) return;
    if (wanted <= at_high) {  // of k == size, all that are not above zero
      threshold = bracket.high, ties = wanted;
      return;
    }
    wanted -= at_high;
    if (wanted > between) {
      threshold = bracket.low, ties = wanted - between;
      return;
    }
    std::vector<Key<T>> keys = room_for<T>(between);
    for (int64_t c = begin; c < end; ++c) {
      const std::vector<Key<T>>& collected = counts[census(c)].between;
      keys.insert(keys.end(), collected.begin(), collected.end());
    }
    const Ranked<T> ranked = kth_largest<T>(keys, wanted, bracket.low, bracket.high);
    threshold = ranked.key, ties = ranked.ties;
  }

  int64_t ties_in(const Census<T>& chunk) const {
    if (threshold == bracket.high) return chunk.at_high;
    if (threshold == bracket.low) return chunk.at_low;
    return std::count(chunk.between.begin(), chunk.between.end(), threshold);
  }
};

template <class T>
struct Selection {
  std::vector<Cut<T>> cuts;        // per chunk, and for every k of its selection in turn
  std::vector<int64_t> nonfinite;  // per tensor: values that are NaN or infinite

  bool finite() const {
    return std::all_of(nonfinite.begin(), nonfinite.end(), [](int64_t n) { return n == 0; });
  }
};

// Calls f(search) for all that are not found yet, each thread for about as much work as another.
template <class T, class F>
void for_each_search(std::vector<Search<T>>& searches, const Threads& threads, const F& f) {
  std::vector<Search<T>*> by_size;
  for (Search<T>& search : searches)
    if (!search.found) by_size.push_back(&search);
  std::sort(by_size.begin(), by_size.end(),
            [](const Search<T>* a, const Search<T>* b) { return a->size > b->size; });
  struct Share {
    int64_t size = 0;
    std::vector<Search<T>*> searches;
  };
  std::vector<Share> shares(size_t(threads.count));
  for (Search<T>* search : by_size) {
    Share& least =
        *std::min_element(shares.begin(), shares.end(),
                          [](const Share& a, const Share& b) { return a.size < b.size; });
    least.size += search->size + kKeysAtOnce, least.searches.push_back(search);
  }
  threads.run(threads.count, [&](int64_t i) {
    for (Search<T>* search : shares[i].searches) f(*search);
  });
}

// A search for each of the k, k[s * asked + q] being of selection s.
template <class T>
std::vector<Search<T>> searches_for(const std::vector<Chunk>& chunks, const std::vector<int64_t>& k,
                                    int64_t asked) {
  std::vector<Search<T>> searches(k.size());
  for (size_t i = 0; i < k.size(); ++i) {
    searches[i].k = k[i];
    searches[i].which = int64_t(i) % asked, searches[i].asked = asked;
  }
  for (size_t c = 0; c < chunks.size(); ++c)
    for (int64_t q = 0; q < asked; ++q) {
      Search<T>& search = searches[chunks[c].selection * asked + q];
      if (search.end == 0) search.begin = int64_t(c);
      search.end = int64_t(c) + 1;
      search.size += chunks[c].end - chunks[c].begin;
    }
  return searches;
}

// The k[s * asked + q] largest keys of selection s among the source's values, for every s and for q
// below `asked`.
template <class T, class Source>
Selection<T> select(const std::vector<Chunk>& chunks, size_t tensors, const std::vector<int64_t>& k,
                    const Source& source, const Threads& threads, int64_t asked = 1) {
  std::vector<Search<T>> searches = searches_for<T>(chunks, k, asked);
  std::vector<char> needed;
  std::vector<int64_t> values;
  for (const Chunk& chunk : chunks) {
    const Search<T>* of_chunk = &searches[chunk.selection * asked];
    needed.push_back(std::any_of(of_chunk, of_chunk + asked,
                                 [](const Search<T>& s) { return s.needs_sample(); }));
    values.push_back(of_chunk->size);
  }
  Samples<T> samples(chunks, needed, values);
  for_each_chunk(chunks, threads, [&](int64_t c) { samples.draw(c, chunks[c], source); });
  for_each_search(searches, threads, [&](Search<T>& search) {
    search.start(samples);
    search.aim(samples);
  });

  std::vector<Census<T>> counts(chunks.size() * asked);
  std::vector<int64_t> nonfinite(chunks.size(), 0);
  const auto open = [](const Search<T>& search) { return !search.found; };
  for (bool first = true; first || std::any_of(searches.begin(), searches.end(), open);
       first = false) {
    for_each_chunk(chunks, threads, [&](int64_t c) {
      const Chunk& chunk = chunks[c];
      const Search<T>* of_chunk = &searches[chunk.selection * asked];
      if (!first && std::none_of(of_chunk, of_chunk + asked, open)) return;
      std::vector<int64_t> asking;
      std::vector<Bracket<T>> brackets;
      for (int64_t q = 0; q < asked; ++q)
        if (open(of_chunk[q])) asking.push_back(q), brackets.push_back(of_chunk[q].bracket);
      CensusTaker<T> taker(std::move(brackets));
      alignas(64) Keys<T> keys;
      for (int64_t i = chunk.begin; i < chunk.end; i += kKeysAtOnce) {
        const int n = int(std::min<int64_t>(kKeysAtOnce, chunk.end - i));
        source.fill(chunk.tensor, i, n, keys);
        if (first) nonfinite[c] += count_nonfinite<T>(keys, n);
        taker.take(keys, n);
      }
      for (size_t i = 0; i < asking.size(); ++i) counts[c * asked + asking[i]] = taker.result(i);
    });
    for_each_search(searches, threads, [&](Search<T>& search) {
      search.conclude(counts);
      if (!search.found) search.aim(samples);
    });
  }

  Selection<T> selection{std::vector<Cut<T>>(counts.size()), std::vector<int64_t>(tensors, 0)};
  for (const Search<T>& search : searches) {
    int64_t ties = search.ties;
    for (int64_t c = search.begin; c < search.end; ++c) {
      const int64_t i = search.census(c);
      const int64_t here = search.ties_in(counts[i]), kept = std::min(here, ties);
      selection.cuts[i] = {search.threshold, kept, here};
      ties -= kept;
    }
  }
  for (size_t c = 0; c < chunks.size(); ++c) selection.nonfinite[chunks[c].tensor] += nonfinite[c];
  return selection;
}

// Applies a cut to one chunk, buffer by buffer in order.
template <class T>
class Keeper {
 public:
  explicit Keeper(const Cut<T>& cut)
      : threshold_(cut.threshold),
        below_(cut.plain() ? cut.below() : cut.threshold),
        ties_(cut.plain() ? 0 : cut.ties) {}

  // Whether keys above below() are all that is kept from here on.
  bool plain() const { return ties_ == 0; }
  Key<T> below() const { return below_; }

  // kept[j]: 1 where the key stays, else 0.
  void mark(const Keys<T>& keys, int n, uint8_t (&kept)[kKeysAtOnce]) {
    constexpr int kN = kLanes<Key<T>>;
    const auto below = broadcast(below_);
    for (int j = 0; j < n; j += kN) store_mask<Key<T>>(kept + j, load(keys + j) > below);
    for (int j = 0; ties_ > 0 && j < n; ++j) {
      if (keys[j] == threshold_) kept[j] = 1, --ties_;
    }
  }

 private:
  Key<T> threshold_, below_;
  int64_t ties_;  // still to be kept, one by one; 0 where below_ says it all
};

// Calls block(begin, n, kept) for consecutive stretches of the chunk, kept[j] being 1 where
// element begin + j stays.
template <class T, class Source, class Block>
SPARSELTH_INLINE void apply_cut(const Chunk& chunk, const Cut<T>& cut, const Source& source,
                                const Block& block) {
  Keeper<T> keeper(cut);
  alignas(64) Keys<T> keys;
  alignas(64) uint8_t kept[kKeysAtOnce];
  for (int64_t i = chunk.begin; i < chunk.end; i += kKeysAtOnce) {
    const int n = int(std::min<int64_t>(kKeysAtOnce, chunk.end - i));
    source.fill(chunk.tensor, i, n, keys);
    keeper.mark(keys, n, kept);
    block(i, n, static_cast<const uint8_t*>(kept));
  }
}
