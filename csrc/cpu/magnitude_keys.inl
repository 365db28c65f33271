// Magnitudes as integers, and how to rank them, compiled per instruction set.
//
// A key is the magnitude's bits: keys order as the magnitudes do, -0.0 and 0.0 are equal, infinity
// is above all finite values and NaN above infinity.

template <class T>
struct KeyOf;
template <>
struct KeyOf<float> {
  using type = int32_t;
};
template <>
struct KeyOf<double> {
  using type = int64_t;
};
template <>
struct KeyOf<Half> {
  using type = int16_t;
};
template <>
struct KeyOf<BFloat16> {
  using type = int16_t;
};
template <class T>
using Key = typename KeyOf<T>::type;  // never negative: the sign is gone

template <class T>
inline constexpr Key<T> kLargestKey = std::numeric_limits<Key<T>>::max();

template <class T>
inline constexpr Key<T> kInfinity =
    sizeof(T) == 8 ? Key<T>(0x7ff0000000000000) : Key<T>(0x7f800000);
template <>
inline constexpr Key<Half> kInfinity<Half> = 0x7c00;
template <>
inline constexpr Key<BFloat16> kInfinity<BFloat16> = 0x7f80;

template <class T>
SPARSELTH_INLINE Key<T> magnitude_key(T value) {
  Key<T> bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits & kLargestKey<T>;
}

// Keys are taken a buffer at a time. Beyond the last one it is filled up with kNoKey, which is
// below every key, so that all loops run in whole vectors.
inline constexpr int kKeysAtOnce = 512;

template <class T>
using Keys = Key<T>[kKeysAtOnce];

inline constexpr int kNoKey = -1;

// Where keys come from: the values themselves. fill(tensor, begin, n, keys) takes n of them.
template <class T>
struct ValuesOf {
  const std::vector<const T*>& values;

  Key<T> key_at(int tensor, int64_t i) const { return magnitude_key<T>(values[tensor][i]); }

  void fill(int tensor, int64_t begin, int n, Key<T>* keys) const {
    const Key<T>* from = reinterpret_cast<const Key<T>*>(values[tensor] + begin);
    constexpr int kN = kLanes<Key<T>>;
    int j = 0;
    for (; j + kN <= n; j += kN) store(keys + j, load(from + j) & kLargestKey<T>);
    for (; j < n; ++j) keys[j] = key_at(tensor, begin + j);
    for (; j % kN != 0; ++j) keys[j] = kNoKey;
  }
};

// The values inside a mask. What lies outside has kNoKey: it is never counted nor selected.
template <class T>
struct MaskedValuesOf {
  const std::vector<const T*>& values;
  const std::vector<const uint8_t*>& masks;  // one per tensor, or none at all

  Key<T> key_at(int tensor, int64_t i) const {
    const bool inside = masks.empty() || masks[tensor][i] != 0;
    return inside ? magnitude_key<T>(values[tensor][i]) : Key<T>(kNoKey);
  }

  void fill(int tensor, int64_t begin, int n, Key<T>* keys) const {
    ValuesOf<T>{values}.fill(tensor, begin, n, keys);
    if (masks.empty()) return;
    const uint8_t* inside = masks[tensor] + begin;
    for (int j = 0; j < n; ++j) keys[j] = inside[j] != 0 ? keys[j] : Key<T>(kNoKey);
  }
};

// An empty list with room for so many keys, and for filling up the last vector.
template <class T>
std::vector<Key<T>> room_for(int64_t keys) {
  std::vector<Key<T>> room;
  room.reserve(size_t(keys + kLanes<Key<T>>));
  return room;
}

// How many of n keys are above `limit`. n: whole vectors.
template <class T>
int64_t count_above(const Key<T>* keys, int64_t n, Key<T> limit) {
  using V = Vec<Key<T>>;
  constexpr int64_t kN = kLanes<Key<T>>;
  constexpr int64_t kStrip = kN << 10;  // so many that a lane of any width can count them
  const V bound = broadcast(limit);
  int64_t count = 0;
  for (int64_t i = 0; i < n;) {
    V lanes{};
    for (const int64_t end = std::min(i + kStrip, n); i < end; i += kN)
      lanes -= load(keys + i) > bound;
    Key<T> parts[kN];
    store(parts, lanes);
    for (const Key<T> part : parts) count += part;
  }
  return count;
}

// Moves the keys above `limit`, or all others, to the front and fills up the last vector with
// kNoKey; returns how many whole vectors hold them, in keys. n: whole vectors.
template <class T>
int64_t keep_side(Key<T>* keys, int64_t n, Key<T> limit, bool above) {
  constexpr int64_t kN = kLanes<Key<T>>;
  const auto bound = broadcast(limit);
  int64_t kept = 0;
  for (int64_t i = 0; i < n; i += kN) {
    const Vec<Key<T>> key = load(keys + i), larger = key > bound;
    kept += compress<Key<T>>(keys + kept, key, above ? larger : ~larger);
  }
  const int64_t end = (kept + kN - 1) / kN * kN;
  std::fill(keys + kept, keys + end, Key<T>(kNoKey));
  return end;
}

// Where the k-th largest of some keys is: it has the bits of `prefix` above the `open` lowest ones,
// and is the k-th largest of the first n keys, which are whole vectors.
template <class T>
struct Narrowed {
  Key<T> prefix;
  int open;
  int64_t n, k;

  Key<T> lowest() const { return prefix; }
  Key<T> highest() const {
    return Key<T>(prefix | Key<T>((std::make_unsigned_t<Key<T>>(1) << open) - 1));
  }
};

// Looks for the k-th largest of the keys, which lies in [low, high], until no more than `enough`
// keys are left: bit by bit, in whole vectors and without branches on values, where a partial sort
// mispredicts them. What a bit rules out is dropped, so that all bits together cost a few passes.
template <class T>
Narrowed<T> narrow(std::vector<Key<T>>& keys, int64_t k, Key<T> low, Key<T> high, int64_t enough) {
  using Unsigned = std::make_unsigned_t<Key<T>>;
  constexpr int64_t kN = kLanes<Key<T>>;
  int64_t n = (int64_t(keys.size()) + kN - 1) / kN * kN;
  keys.resize(size_t(n), Key<T>(kNoKey));
  int bit = int(8 * sizeof(Key<T>)) - 1;
  while (bit > 0 && !(Unsigned(low ^ high) >> (bit - 1) & 1)) --bit;  // the bits they share
  Key<T> found = Key<T>(Unsigned(low) >> bit << bit);
  while (bit > 0 && n > enough) {
    --bit;
    const Key<T> below = Key<T>((found | Key<T>(Unsigned(1) << bit)) - 1);
    const int64_t above = count_above<T>(keys.data(), n, below);
    const bool is_above = above >= k;
    if (is_above) found = Key<T>(below + 1);
    if (4 * (is_above ? above : n - above) > 3 * n) continue;  // too few to pay for moving the rest
    if (!is_above) k -= above;
    n = keep_side<T>(keys.data(), n, below, is_above);
  }
  return {found, bit, n, k};
}

// The k-th largest of some keys, and how many of those equal to it are among the k largest.
template <class T>
struct Ranked {
  Key<T> key;
  int64_t ties;
};

template <class T>
Ranked<T> kth_largest(std::vector<Key<T>>& keys, int64_t k, Key<T> low, Key<T> high) {
  const Narrowed<T> at = narrow<T>(keys, k, low, high, 0);
  return {at.prefix, at.k - count_above<T>(keys.data(), at.n, at.prefix)};
}
