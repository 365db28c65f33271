// Vectors of one register width, included inside a namespace per instruction set.
//
// GCC's and Clang's vector types give arithmetic on every target, ARM included; what is added
// here is memory access, broadcast and the square transpose that moves a batch into lanes.

#define SPARSELTH_INLINE __attribute__((always_inline)) inline

template <class T>
inline constexpr int kLanes = SPARSELTH_VECTOR_BYTES / int(sizeof(T));

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(SPARSELTH_VECTOR_BYTES)));
};
template <class T>
using Vec = typename VectorOf<T>::type;

template <class T>
SPARSELTH_INLINE Vec<T> load(const T* from) {  // any alignment
  Vec<T> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class T>
SPARSELTH_INLINE void store(T* to, Vec<T> v) {  // any alignment
  __builtin_memcpy(to, &v, sizeof v);
}

template <class T>
SPARSELTH_INLINE Vec<T> broadcast(T value) {
  return Vec<T>{} + value;
}

// Integers as wide as T, all ones where the mask's byte is 1: selects as `m ? a : b`.
template <class T>
SPARSELTH_INLINE auto load_mask(const uint8_t* from) {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes<T>)));
  using Integer = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Bytes bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  return -__builtin_convertvector(bytes, Vec<Integer>);
}

// (a0, b0, a1, b1, ...) of the lower or the upper halves.
template <class T, bool kUpper, int... kIndex>
SPARSELTH_INLINE Vec<T> interleave(Vec<T> a, Vec<T> b, std::integer_sequence<int, kIndex...>) {
  constexpr int kHalf = kUpper ? kLanes<T> / 2 : 0;
  return __builtin_shufflevector(a, b, (kHalf + kIndex / 2 + (kIndex % 2) * kLanes<T>)...);
}

// Transposes kLanes x kLanes values in registers: log2(lanes) rounds of perfect shuffles.
template <class T>
SPARSELTH_INLINE void transpose(Vec<T> (&rows)[kLanes<T>]) {
  constexpr int kN = kLanes<T>;
  constexpr auto kIndices = std::make_integer_sequence<int, kN>();
#pragma GCC unroll 4
  for (int round = 1; round < kN; round *= 2) {
    Vec<T> next[kN];
#pragma GCC unroll 16
    for (int i = 0; i < kN / 2; ++i) {
      next[2 * i] = interleave<T, false>(rows[i], rows[i + kN / 2], kIndices);
      next[2 * i + 1] = interleave<T, true>(rows[i], rows[i + kN / 2], kIndices);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kN; ++i) rows[i] = next[i];
  }
}

// The sum of all lanes.
template <class T>
SPARSELTH_INLINE T reduce(Vec<T> v) {
  T lanes[kLanes<T>];
  store(lanes, v);
#pragma GCC unroll 4
  for (int width = kLanes<T> / 2; width > 0; width /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

template <class T, int... kIndex>
SPARSELTH_INLINE Vec<T> pair_sums(Vec<T> a, Vec<T> b, std::integer_sequence<int, kIndex...>) {
  // Sum of even and odd lanes of (a, b) concatenated: half as many partial sums of each.
  return __builtin_shufflevector(a, b, (2 * kIndex)...) +
         __builtin_shufflevector(a, b, (2 * kIndex + 1)...);
}

// Four sums over lanes at once, added to four consecutive values.
template <class T>
SPARSELTH_INLINE void add_reduced4(T* to, Vec<T> a, Vec<T> b, Vec<T> c, Vec<T> d) {
  if constexpr (kLanes<T> < 4) {
    to[0] += reduce<T>(a), to[1] += reduce<T>(b), to[2] += reduce<T>(c), to[3] += reduce<T>(d);
  } else {
    constexpr auto kIndices = std::make_integer_sequence<int, kLanes<T>>();
    Vec<T> sums =
        pair_sums<T>(pair_sums<T>(a, b, kIndices), pair_sums<T>(c, d, kIndices), kIndices);
    T lanes[kLanes<T>];
    store(lanes, sums);  // lanes/4 partial sums of a, then of b, c, d
    constexpr int kEach = kLanes<T> / 4;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      T sum = lanes[i * kEach];
#pragma GCC unroll 4
      for (int j = 1; j < kEach; ++j) sum += lanes[i * kEach + j];
      to[i] += sum;
    }
  }
}
