// Images into lanes and back: a bundle of kLanes images becomes [place][lane], so that one vector
// holds one value of each image and every load of a kernel is aligned.
//
// An image is walked as `slow` x `fast`, fast contiguous in memory; tables say where each slow
// and each fast index goes inside the bundle. Cost: one read and one write of the images, through
// square transposes in registers. Images and bundle may be stored in different types that are
// computed in the same one.

struct Walk {
  int64_t image_stride, slow_stride;
  int64_t slow_begin, slow_end, fast_begin, fast_end;
  const int64_t* slow_at;  // place of a slow index in the bundle, in values
  const int64_t* fast_at;
};

// Calls vectors(slow, fast) for whole vectors of fast indices, the last one overlapping, or
// single(slow, fast) where a row is shorter than a vector.
template <class T, class Vectors, class Single>
SPARSELTH_INLINE void walk(const Walk& w, Vectors vectors, Single single) {
  for (int64_t s = w.slow_begin; s < w.slow_end; ++s) {
    if (w.fast_end - w.fast_begin < kLanes<T>) {
      for (int64_t f = w.fast_begin; f < w.fast_end; ++f) single(s, f);
      continue;
    }
    int64_t f = w.fast_begin;
    for (; f + kLanes<T> <= w.fast_end; f += kLanes<T>) vectors(s, f);
    if (f < w.fast_end) vectors(s, w.fast_end - kLanes<T>);
  }
}

// images: the bundle's first image. count: how many images there are; other lanes become zero.
template <class S, class T>
void pack(const S* images, int64_t count, const Walk& w, T* bundle) {
  constexpr int kN = kLanes<T>;
  walk<T>(
      w,
      [&](int64_t s, int64_t f) {
        const S* from = images + s * w.slow_stride + f;
        Vec<T> rows[kN];
#pragma GCC unroll 16
        for (int i = 0; i < kN; ++i)
          rows[i] = i < count ? load(from + i * w.image_stride) : Vec<T>{};
        transpose<T>(rows);
        T* to = bundle + w.slow_at[s];
#pragma GCC unroll 16
        for (int i = 0; i < kN; ++i) store(to + w.fast_at[f + i], rows[i]);
      },
      [&](int64_t s, int64_t f) {
        const S* from = images + s * w.slow_stride + f;
        T* to = bundle + w.slow_at[s] + w.fast_at[f];
        for (int i = 0; i < kN; ++i)
          to[i] = i < count ? rounded<T>(value_of(from[i * w.image_stride])) : T{};
      });
}

template <class T, class S>
void unpack(const T* bundle, const Walk& w, S* images, int64_t count) {
  constexpr int kN = kLanes<T>;
  walk<T>(
      w,
      [&](int64_t s, int64_t f) {
        const T* from = bundle + w.slow_at[s];
        Vec<T> rows[kN];
#pragma GCC unroll 16
        for (int i = 0; i < kN; ++i) rows[i] = load(from + w.fast_at[f + i]);
        transpose<T>(rows);
        S* to = images + s * w.slow_stride + f;
        for (int i = 0; i < kN && i < count; ++i) store(to + i * w.image_stride, rows[i]);
      },
      [&](int64_t s, int64_t f) {
        const T* from = bundle + w.slow_at[s] + w.fast_at[f];
        S* to = images + s * w.slow_stride + f;
        for (int i = 0; i < kN && i < count; ++i)
          to[i * w.image_stride] = rounded<S>(value_of(from[i]));
      });
}
