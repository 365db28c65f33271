// Vectors of one register width, included inside a namespace per instruction set.
//
// Vec<T> holds what values stored as T are computed in: loads widen, stores round.
//
// GCC's and Clang's vector types give arithmetic on every target, ARM included; what is added
// here is memory access, broadcast and the square transpose that moves a batch into lanes.

#define SPARSELTH_INLINE __attribute__((always_inline)) inline

template <class T>
inline constexpr int kLanes = SPARSELTH_VECTOR_BYTES / int(sizeof(Compute<T>));

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(SPARSELTH_VECTOR_BYTES)));
};
template <class T>
using Vec = typename VectorOf<Compute<T>>::type;

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

SPARSELTH_INLINE Vec<float> load(const Bf16* from) {
#if SPARSELTH_VECTOR_BYTES == 64
  // One permutation instead of a widening and a shift: word i of `from` to word 2 i + 1.
  const __m512i words =
      _mm512_set_epi32(15 << 16, 14 << 16, 13 << 16, 12 << 16, 11 << 16, 10 << 16, 9 << 16, 8 << 16,
                       7 << 16, 6 << 16, 5 << 16, 4 << 16, 3 << 16, 2 << 16, 1 << 16, 0);
  const __m512i halves = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)from));
  return (Vec<float>)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, words, halves);
#elif SPARSELTH_VECTOR_BYTES == 32
  return (Vec<float>)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from)),
                                       16);
#else
  typedef uint16_t Halves __attribute__((vector_size(2 * kLanes<float>)));
  Halves halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  return (Vec<float>)(__builtin_convertvector(halves, Vec<uint32_t>) << 16);
#endif
}

// The nearest bfloat16, ties to even, in the upper halves of the result; the lower ones hold
// anything. By hand: AVX512-BF16's instruction makes zeros of denormals, so that results would
// depend on the machine.
SPARSELTH_INLINE Vec<uint32_t> nearest_bf16(Vec<float> v) {
  const Vec<uint32_t> bits = (Vec<uint32_t>)v;
#if SPARSELTH_VECTOR_BYTES == 64
  const __m512i down = _mm512_set1_epi32(0x7fff), up = _mm512_set1_epi32(0x8000);
  const __mmask16 odd = _mm512_test_epi32_mask((__m512i)bits, _mm512_set1_epi32(0x10000));
  const Vec<uint32_t> half = (Vec<uint32_t>)_mm512_mask_blend_epi32(odd, down, up);
#else
  const Vec<uint32_t> half = 0x7fff + (bits >> 16 & 1);
#endif
  return v != v ? bits | 0x400000 : bits + half;  // a NaN stays one, whatever its lower bits are
}

SPARSELTH_INLINE void store(Bf16* to, Vec<float> v) {
  const Vec<uint32_t> bits = nearest_bf16(v), halves = bits >> 16;
#if SPARSELTH_VECTOR_BYTES == 64
  const __m512i words =
      _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0x001f001d, 0x001b0019, 0x00170015, 0x00130011,
                       0x000f000d, 0x000b0009, 0x00070005, 0x00030001);
  const __m512i upper = _mm512_permutexvar_epi16(words, (__m512i)bits);
  _mm256_storeu_si256((__m256i*)to, _mm512_castsi512_si256(upper));
#elif SPARSELTH_VECTOR_BYTES == 32
  _mm_storeu_si128((__m128i*)to, _mm_packus_epi32(_mm256_castsi256_si128((__m256i)halves),
                                                  _mm256_extracti128_si256((__m256i)halves, 1)));
#else
  typedef uint16_t Halves __attribute__((vector_size(2 * kLanes<float>)));
  const Halves out = __builtin_convertvector(halves, Halves);
  __builtin_memcpy(to, &out, sizeof out);
#endif
}

SPARSELTH_INLINE Vec<float> load(const Fp16* from) {
#if SPARSELTH_VECTOR_BYTES == 64
  return (Vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#elif SPARSELTH_VECTOR_BYTES == 32
  return (Vec<float>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#else
  Vec<float> v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = value_of(from[i]);
  return v;
#endif
}

SPARSELTH_INLINE void store(Fp16* to, Vec<float> v) {
#if SPARSELTH_VECTOR_BYTES == 64
  _mm256_storeu_si256((__m256i*)to, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif SPARSELTH_VECTOR_BYTES == 32
  _mm_storeu_si128((__m128i*)to, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes<float>; ++i) to[i] = rounded<Fp16>(v[i]);
#endif
}

// A value as it is read again after it was stored as S.
template <class S>
SPARSELTH_INLINE Vec<S> as_stored(Vec<S> value) {
  if constexpr (std::is_same_v<S, Bf16>) {
    return (Vec<S>)(nearest_bf16(value) & 0xffff0000);
  } else if constexpr (kIsNarrow<S>) {
    S stored[kLanes<S>];
    store(stored, value);
    return load(stored);
  } else {
    return value;
  }
}

template <class T>
SPARSELTH_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};  // not zero plus it, which is computed, as that turns -0 into 0
}

// Square roots of floats or doubles, rounded correctly.
template <class T>
SPARSELTH_INLINE Vec<T> square_roots(Vec<T> v) {
  constexpr bool kFloat = sizeof(T) == 4;
#if SPARSELTH_VECTOR_BYTES == 64
  if constexpr (kFloat)
    return (Vec<T>)_mm512_sqrt_ps((__m512)v);
  else
    return (Vec<T>)_mm512_sqrt_pd((__m512d)v);
#elif SPARSELTH_VECTOR_BYTES == 32
  if constexpr (kFloat)
    return (Vec<T>)_mm256_sqrt_ps((__m256)v);
  else
    return (Vec<T>)_mm256_sqrt_pd((__m256d)v);
#else
  for (int i = 0; i < kLanes<T>; ++i)
    v[i] = kFloat ? T(__builtin_sqrtf(float(v[i]))) : T(__builtin_sqrt(double(v[i])));
  return v;
#endif
}

// Whether any bit is set in a mask of a comparison.
template <class T>
SPARSELTH_INLINE bool any(Vec<T> mask) {
#if SPARSELTH_VECTOR_BYTES == 64
  return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
#elif SPARSELTH_VECTOR_BYTES == 32
  return _mm256_testz_si256((__m256i)mask, (__m256i)mask) == 0;
#else
  uint64_t words[sizeof mask / 8], all = 0;
  __builtin_memcpy(words, &mask, sizeof mask);
#pragma GCC unroll 8
  for (uint64_t word : words) all |= word;
  return all != 0;
#endif
}

// Writes the lanes of `values` where the mask of a comparison is set to `to` and on; returns how
// many. Up to kLanes<T> values from `to` on may be overwritten. T: an integer.
template <class T>
SPARSELTH_INLINE int compress(T* to, Vec<T> values, Vec<T> mask) {
#if SPARSELTH_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    const __mmask16 set = _mm512_movepi32_mask((__m512i)mask);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(set, (__m512i)values));
    return __builtin_popcount(set);
  }
  if constexpr (sizeof(T) == 8) {
    const __mmask8 set = _mm512_movepi64_mask((__m512i)mask);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(set, (__m512i)values));
    return __builtin_popcount(set);
  }
#endif
  if (!any<T>(mask)) return 0;
  int count = 0;
  for (int i = 0; i < kLanes<T>; ++i) {  // branch-free: written always, kept if it is set
    to[count] = values[i];
    count += mask[i] != 0;
  }
  return count;
}

// Conversions between lanes of different width. GCC 12 takes __builtin_convertvector apart into
// scalars here, hence the intrinsics.

typedef float HalfFloats __attribute__((vector_size(SPARSELTH_VECTOR_BYTES / 2)));

SPARSELTH_INLINE Vec<double> widen(HalfFloats v) {
#if SPARSELTH_VECTOR_BYTES == 64
  return (Vec<double>)_mm512_cvtps_pd((__m256)v);
#elif SPARSELTH_VECTOR_BYTES == 32
  return (Vec<double>)_mm256_cvtps_pd((__m128)v);
#else
  return __builtin_convertvector(v, Vec<double>);
#endif
}

template <class T>
// As wide as what T is computed in.
using Integers = Vec<std::conditional_t<sizeof(Compute<T>) == 4, int32_t, int64_t>>;

// As many bytes as T has lanes.
template <class T>
SPARSELTH_INLINE Integers<T> load_bytes(const uint8_t* from) {
  typedef uint8_t Bytes __attribute__((vector_size(kLanes<T>)));
  Bytes bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
#if SPARSELTH_VECTOR_BYTES == 64
  if constexpr (sizeof(Compute<T>) == 4)
    return (Integers<T>)_mm512_cvtepu8_epi32((__m128i)bytes);
  else
    return (Integers<T>)_mm512_cvtepu8_epi64(_mm_cvtsi64_si128((long long)bytes));
#else
  return __builtin_convertvector(bytes, Integers<T>);
#endif
}

// The same, from integers below 256.
template <class T>
SPARSELTH_INLINE void store_bytes(uint8_t* to, Integers<T> values) {
#if SPARSELTH_VECTOR_BYTES == 64
  if constexpr (sizeof(Compute<T>) == 4)
    _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8((__m512i)values));
  else
    _mm_storel_epi64((__m128i*)to, _mm512_cvtepi64_epi8((__m512i)values));
#else
  typedef uint8_t Bytes __attribute__((vector_size(kLanes<T>)));
  const Bytes bytes = __builtin_convertvector(values, Bytes);
  __builtin_memcpy(to, &bytes, sizeof bytes);
#endif
}

// All ones where the mask's byte is 1: selects as `m ? a : b`.
template <class T>
SPARSELTH_INLINE Integers<T> load_mask(const uint8_t* from) {
  return -load_bytes<T>(from);
}

// Bytes that are 1 where the mask of a comparison is set. T: an integer.
template <class T>
SPARSELTH_INLINE void store_mask(uint8_t* to, Vec<T> mask) {
#if SPARSELTH_VECTOR_BYTES == 64
  const __m512i bits = (__m512i)mask;
  if constexpr (sizeof(T) == 4) {
    _mm_storeu_si128((__m128i*)to, _mm_maskz_set1_epi8(_mm512_movepi32_mask(bits), 1));
  } else if constexpr (sizeof(T) == 8) {
    _mm_storel_epi64((__m128i*)to, _mm_maskz_set1_epi8(_mm512_movepi64_mask(bits), 1));
  } else {
    _mm256_storeu_si256((__m256i*)to, _mm256_maskz_set1_epi8(_mm512_movepi16_mask(bits), 1));
  }
#else
  typedef uint8_t Bytes __attribute__((vector_size(kLanes<T>)));
  const Bytes bytes = __builtin_convertvector(mask, Bytes) & 1;
  __builtin_memcpy(to, &bytes, sizeof bytes);
#endif
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
SPARSELTH_INLINE Compute<T> reduce(Vec<T> v) {
  Compute<T> lanes[kLanes<T>];
  store(lanes, v);
#pragma GCC unroll 4
  for (int width = kLanes<T> / 2; width > 0; width /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

// Within groups of four lanes: (a0 + a2, b0 + b2, a1 + a3, b1 + b3).
template <class T, int... kIndex>
SPARSELTH_INLINE Vec<T> add_halves_of_ones(Vec<T> a, Vec<T> b,
                                           std::integer_sequence<int, kIndex...>) {
  return __builtin_shufflevector(a, b,
                                 (kIndex / 4 * 4 + kIndex % 4 / 2 + kIndex % 2 * kLanes<T>)...) +
         __builtin_shufflevector(a, b,
                                 (kIndex / 4 * 4 + kIndex % 4 / 2 + 2 + kIndex % 2 * kLanes<T>)...);
}

// Within groups of four lanes: (a0 + a2, a1 + a3, b0 + b2, b1 + b3).
template <class T, int... kIndex>
SPARSELTH_INLINE Vec<T> add_halves_of_pairs(Vec<T> a, Vec<T> b,
                                            std::integer_sequence<int, kIndex...>) {
  return __builtin_shufflevector(a, b,
                                 (kIndex / 4 * 4 + kIndex % 2 + kIndex % 4 / 2 * kLanes<T>)...) +
         __builtin_shufflevector(a, b,
                                 (kIndex / 4 * 4 + kIndex % 2 + 2 + kIndex % 4 / 2 * kLanes<T>)...);
}

// Four sums over lanes at once, added to four consecutive values.
template <class T>
SPARSELTH_INLINE void add_reduced4(T* to, Vec<T> a, Vec<T> b, Vec<T> c, Vec<T> d) {
  if constexpr (kLanes<T> < 4) {
    to[0] += reduce<T>(a), to[1] += reduce<T>(b), to[2] += reduce<T>(c), to[3] += reduce<T>(d);
  } else {
    constexpr auto kIndices = std::make_integer_sequence<int, kLanes<T>>();
    // After two rounds every group of four lanes holds one partial sum of a, b, c and d.
    const Vec<T> groups = add_halves_of_pairs<T>(add_halves_of_ones<T>(a, b, kIndices),
                                                 add_halves_of_ones<T>(c, d, kIndices), kIndices);
    typedef T Four __attribute__((vector_size(4 * sizeof(T))));
    Four parts[kLanes<T> / 4], sum;
    __builtin_memcpy(parts, &groups, sizeof groups);
    __builtin_memcpy(&sum, to, sizeof sum);
#pragma GCC unroll 4
    for (int width = kLanes<T> / 8; width > 0; width /= 2)
#pragma GCC unroll 2
      for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
    sum += parts[0];
    __builtin_memcpy(to, &sum, sizeof sum);
  }
}
