// What one pass over magnitudes finds out about brackets of the k-th key: how many keys lie above,
// how many at either end, and which between. Part of select.inl, which says what it is for.
// Counts are exact and do not depend on threads: each chunk is counted by itself.

#include "cpu/magnitude_keys.inl"

inline constexpr int64_t kChunk = 1 << 16;

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

  // Whether keys above below() are all that is kept: the usual case.
  bool plain() const { return ties == 0 || ties == ties_here; }
  Key<T> below() const { return ties == 0 ? threshold : Key<T>(threshold - 1); }
};

inline std::vector<Chunk> make_chunks(const std::vector<int64_t>& sizes, bool global_) {
  std::vector<Chunk> chunks;
  for (int tensor = 0; tensor < int(sizes.size()); ++tensor)
    for (int64_t begin = 0; begin < sizes[tensor]; begin += kChunk)
      chunks.push_back(
          {global_ ? 0 : tensor, tensor, begin, std::min(begin + kChunk, sizes[tensor])});
  return chunks;
}

// Calls f(i) for every part, size(i) being the number of values in it: each thread takes a run of
// neighbors of about the same size in all.
template <class Size, class F>
void for_each_part(size_t parts, const Size& size, const Threads& threads, const F& f) {
  std::vector<int64_t> before(parts + 1, 0);  // values in the parts before this one
  for (size_t i = 0; i < parts; ++i) before[i + 1] = before[i] + size(i);
  const auto first_of = [&](int64_t run) {
    const int64_t target = run * before.back() / threads.count;
    return std::lower_bound(before.begin(), before.end(), target) - before.begin();
  };
  threads.run(threads.count, [&](int64_t run) {
    for (int64_t i = first_of(run); i < first_of(run + 1); ++i) f(i);
  });
}

template <class F>
void for_each_chunk(const std::vector<Chunk>& chunks, const Threads& threads, const F& f) {
  for_each_part(
      chunks.size(), [&](size_t c) { return chunks[c].end - chunks[c].begin; }, threads, f);
}

// Keys strictly between are collected.
template <class T>
struct Bracket {
  Key<T> low = 0, high = kLargestKey<T>;
};

// What one pass finds out about a chunk.
template <class T>
struct Census {
  int64_t above = 0, at_high = 0, at_low = 0;
  std::vector<Key<T>> between;
};

// The censuses of several brackets in the making: counts lane by lane, of which none exceeds a
// chunk's keys per lane. Brackets are taken a few at a time, so that one load of a key serves them.
template <class T>
class CensusTaker {
 public:
  explicit CensusTaker(std::vector<Bracket<T>> brackets) : tallies_(brackets.size()) {
    for (size_t i = 0; i < brackets.size(); ++i) tallies_[i].bracket = brackets[i];
  }

  void take(const Keys<T>& keys, int n) {
    size_t i = 0;
    for (; i + kTogether <= tallies_.size(); i += kTogether) take<kTogether>(&tallies_[i], keys, n);
    for (; i < tallies_.size(); ++i) take<1>(&tallies_[i], keys, n);
  }

  // What bracket i found out. Once for each.
  Census<T> result(size_t i) {
    const auto sum = [](const Key<T>(&lanes)[kN]) {
      return std::accumulate(lanes, lanes + kN, int64_t(0));
    };
    Tally& tally = tallies_[i];
    const bool single = tally.bracket.low == tally.bracket.high;
    return {sum(tally.above), sum(tally.at_high), single ? 0 : sum(tally.at_low),
            std::move(tally.between)};
  }

 private:
  using V = Vec<Key<T>>;
  static constexpr int kN = kLanes<Key<T>>;
  static constexpr size_t kTogether = 5;
  static_assert(kChunk / kN <= kLargestKey<T>);

  // Its members are not vectors: containers would have to align them.
  struct Tally {
    Bracket<T> bracket;
    Key<T> above[kN] = {}, at_high[kN] = {}, at_low[kN] = {};
    std::vector<Key<T>> between;
  };

  std::vector<Tally> tallies_;

  // Keys inside any of the brackets are set aside first, without a branch, and told apart then:
  // they are few.
  template <size_t kCount>
  static void take(Tally* tallies, const Keys<T>& keys, int n) {
    V low[kCount], high[kCount], above[kCount];
#pragma GCC unroll 8
    for (size_t b = 0; b < kCount; ++b) {
      low[b] = broadcast(tallies[b].bracket.low), high[b] = broadcast(tallies[b].bracket.high);
      above[b] = load(tallies[b].above);
    }
    Key<T> inside[kKeysAtOnce + kN];
    int count = 0;
    for (int i = 0; i < n; i += kN) {
      const V key = load(keys + i);
      V within{};
#pragma GCC unroll 8
      for (size_t b = 0; b < kCount; ++b) {
        above[b] -= key > high[b];  // all ones is minus one
        within |= (key >= low[b]) & (key <= high[b]);
      }
      count += compress<Key<T>>(inside + count, key, within);
    }
    store(inside + count, broadcast(Key<T>(kNoKey)));
#pragma GCC unroll 8
    for (size_t b = 0; b < kCount; ++b) {
      store(tallies[b].above, above[b]);
      collect(tallies[b], inside, count);
    }
  }

  // Counts and collects the bracket's keys. keys: up to a whole vector.
  static void collect(Tally& tally, const Key<T>* keys, int n) {
    const V low = broadcast(tally.bracket.low), high = broadcast(tally.bracket.high);
    V at_high = load(tally.at_high), at_low = load(tally.at_low);
    Key<T> found[kKeysAtOnce + kN];
    int hits = 0;
    for (int i = 0; i < n; i += kN) {
      const V key = load(keys + i);
      at_high -= key == high, at_low -= key == low;
      hits += compress<Key<T>>(found + hits, key, (key > low) & (key < high));
    }
    store(tally.at_high, at_high), store(tally.at_low, at_low);
    tally.between.insert(tally.between.end(), found, found + hits);
  }
};

// How many of n keys are NaN or infinite.
template <class T>
int count_nonfinite(const Keys<T>& keys, int n) {
  const Vec<Key<T>> last_finite = broadcast(Key<T>(kInfinity<T> - 1));
  Vec<Key<T>> count{};
  for (int j = 0; j < n; j += kLanes<Key<T>>) count -= load(keys + j) > last_finite;
  return int(reduce<Key<T>>(count));
}
