// Max pooling of activations in lanes, compiled per instruction set.
//
//   forward   y[p,q]  = max of the window at p, q of x, or of relu?(scale x + shift), which is
//                       computed as it is read; its place in the window, row-major, as uint8
//   backward  dx[h,w] = sum of dy[p,q] over the windows whose maximum is at h, w
//
// As in torch, the first maximum of a window wins, NaN beats every number, and padding never wins.
// The backward gathers: each pixel looks at the windows that cover it, so that dx is written once,
// in memory order. T: what activations are stored as. Cost: x and dy are read from memory once, y,
// dx and a byte per y likewise written; a window costs one load and two comparisons per tap, and
// the scale, shift and ReLU of it: again in each window that it lies in.

#include "cpu/lane_planes.inl"
#include "cpu/scale_add_rule.inl"

struct Range {
  int64_t begin, end;
};

// What a window compares: a value as it lies,
template <class T>
struct AsItLies {
  SPARSELTH_INLINE Vec<T> operator()(Vec<T> x) const { return x; }
};

// or what is computed of it, rounded as if it had been stored: that makes ties of values nearby,
// and a negative scale another maximum, so neither can wait until the maximum is found.
template <class T, bool kRelu>
struct Computed {
  ScaleAddRule<Compute<T>, false, kRelu> rule;

  SPARSELTH_INLINE Vec<T> operator()(Vec<T> x) const { return as_stored<T>(rule(&x)); }
};

// One row of windows over one plane, whose first row is `top`.
template <class T, class Read>
struct WindowRow {
  const T* x;  // the plane's first pixel inside the halo
  int64_t row_size, top, kernel_w;
  T* y;
  uint8_t* position;
  Read read;
  Integers<T> real;  // lanes beyond the batch, where a shift need not be zero, stay so

  // Window q, whose first column is `left`. rows, columns: those of the window inside the image.
  SPARSELTH_INLINE void maximum(int64_t q, int64_t left, Range rows, Range columns) const {
    using Index = std::conditional_t<sizeof(Compute<T>) == 4, int32_t, int64_t>;
    Vec<T> best = broadcast(-std::numeric_limits<Compute<T>>::infinity());
    Integers<T> at = Integers<T>{} + Index(rows.begin * kernel_w + columns.begin);
#pragma GCC unroll 3
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const T* from = x + (top + i) * row_size;
#pragma GCC unroll 3
      for (int64_t j = columns.begin; j < columns.end; ++j) {
        const Vec<T> v = read(load(from + (left + j) * kLanes<T>));
        const Integers<T> wins = (v > best) | (v != v);
        best = wins ? v : best;
        at = wins ? Integers<T>{} + Index(i * kernel_w + j) : at;
      }
    }
    store(y + q * kLanes<T>, keep<T>(best, real));
    store_bytes<T>(position + q * kLanes<T>, at);
  }
};

// Taps [begin, end) of a window that starts at `first` which lie inside [0, size).
inline Range taps_inside(int64_t first, int64_t kernel, int64_t size) {
  return {std::max<int64_t>(0, -first), std::min(kernel, size - first)};
}

// Windows [begin, end) of `count` that lie wholly inside [0, size).
inline Range windows_inside(int64_t count, int64_t kernel, int64_t stride, int64_t pad,
                            int64_t size) {
  const int64_t begin = std::min(count, (pad + stride - 1) / stride);
  const int64_t end = size + pad < kernel ? 0 : (size + pad - kernel) / stride + 1;
  return {begin, std::clamp(end, begin, count)};
}

// kKernel: the compile-time size of a square kernel, whose windows are unrolled; 0: any.
// read_of(channel) makes what is compared of a value.
template <class T, int kKernel, class ReadOf>
void max_pool_planes(const LaneView<const T>& x, int64_t batch, const PoolWindow& w,
                     const LaneView<T>& y, const LaneView<uint8_t>& position,
                     const Threads& threads, const ReadOf& read_of) {
  const int64_t kernel_h = kKernel ? kKernel : w.kernel_h;
  const int64_t kernel_w = kKernel ? kKernel : w.kernel_w;
  const Range inner = windows_inside(y.width, kernel_w, w.stride_w, w.pad_w, x.width);
  for_planes(y.planes(), threads, [&](int64_t plane) {
    const auto read = read_of(plane % x.channels);
    const Integers<T> real = first_lanes<T>(images_of<T>(batch, plane / x.channels));
    write_plane(y, plane, [&](int64_t p, T* to) {
      const int64_t top = p * w.stride_h - w.pad_h;
      const WindowRow<T, std::remove_const_t<decltype(read)>> row{
          x.row(plane, 0), x.row_size(), top, kernel_w, to, position.row(plane, p), read, real};
      const Range rows = taps_inside(top, kernel_h, x.height);
      const auto clipped = [&](int64_t begin, int64_t end) {
        for (int64_t q = begin; q < end; ++q) {
          const int64_t left = q * w.stride_w - w.pad_w;
          row.maximum(q, left, rows, taps_inside(left, kernel_w, x.width));
        }
      };
      if (kKernel && rows.end - rows.begin < kKernel) return clipped(0, y.width);
      clipped(0, inner.begin);
      for (int64_t q = inner.begin; q < inner.end; ++q)
        row.maximum(q, q * w.stride_w - w.pad_w, kKernel ? Range{0, kKernel} : rows, {0, kernel_w});
      clipped(inner.end, y.width);
    });
  });
}

template <class T>
void max_pool(const LaneView<const T>& x, int64_t batch, const ScalesAndShifts<Compute<T>>& scales,
              bool relu, const PoolWindow& w, const LaneView<T>& y,
              const LaneView<uint8_t>& position, const Threads& threads) {
  const auto pool = [&](const auto& read_of) {
    if (w.kernel_h == 2 && w.kernel_w == 2) {
      max_pool_planes<T, 2>(x, batch, w, y, position, threads, read_of);
    } else if (w.kernel_h == 3 && w.kernel_w == 3) {
      max_pool_planes<T, 3>(x, batch, w, y, position, threads, read_of);
    } else {
      max_pool_planes<T, 0>(x, batch, w, y, position, threads, read_of);
    }
  };
  if (relu) {
    pool([&](int64_t channel) { return Computed<T, true>{{scales, channel}}; });
  } else if (scales.a_scale || scales.a_shift) {
    pool([&](int64_t channel) { return Computed<T, false>{{scales, channel}}; });
  } else {
    pool([](int64_t) { return AsItLies<T>{}; });
  }
}

// Of each pixel along one axis, the windows that cover it.
inline std::vector<Range> windows_over(int64_t size, int64_t count, int64_t kernel, int64_t stride,
                                       int64_t pad) {
  std::vector<Range> ranges;
  for (int64_t at = pad; at < size + pad; ++at) {
    const int64_t begin = at < kernel ? 0 : (at - kernel) / stride + 1;
    ranges.push_back({begin, std::min(at / stride + 1, count)});
  }
  return ranges;
}

// dy where the maximum was `tap` of its window, else zero.
template <class T>
SPARSELTH_INLINE Vec<T> grad_of_tap(Vec<T> dy, Integers<T> position, int64_t tap) {
  using Index = std::conditional_t<sizeof(Compute<T>) == 4, int32_t, int64_t>;
  return keep<T>(dy, position == Index(tap));
}

template <class T>
void max_pool_backward_any(const LaneView<const T>& dy, const LaneView<const uint8_t>& position,
                           const PoolWindow& w, const LaneView<T>& dx, const Threads& threads) {
  const auto rows = windows_over(dx.height, dy.height, w.kernel_h, w.stride_h, w.pad_h);
  const auto columns = windows_over(dx.width, dy.width, w.kernel_w, w.stride_w, w.pad_w);
  for_planes(dx.planes(), threads, [&](int64_t plane) {
    write_plane(dx, plane, [&](int64_t y, T* to) {
      const T* from = dy.row(plane, 0);
      const uint8_t* places = position.row(plane, 0);
      const Range above = rows[y];
      for (int64_t x = 0; x < dx.width; ++x) {
        Vec<T> sum{};
        for (int64_t p = above.begin; p < above.end; ++p) {
          const int64_t i = y + w.pad_h - p * w.stride_h;
          for (int64_t q = columns[x].begin; q < columns[x].end; ++q) {
            const int64_t j = x + w.pad_w - q * w.stride_w;
            sum += grad_of_tap<T>(load(from + p * dy.row_size() + q * kLanes<T>),
                                  load_bytes<T>(places + p * position.row_size() + q * kLanes<T>),
                                  i * w.kernel_w + j);
          }
        }
        store(to + x * kLanes<T>, sum);
      }
    });
  });
}

// Windows side by side: each pixel lies in one, and dy is read a vector at a time.
template <class T>
void max_pool_backward_tiles(const LaneView<const T>& dy, const LaneView<const uint8_t>& position,
                             const PoolWindow& w, const LaneView<T>& dx, const Threads& threads) {
  for_planes(dx.planes(), threads, [&](int64_t plane) {
    write_plane(dx, plane, [&](int64_t y, T* to) {
      const int64_t p = y / w.kernel_h, first_tap = y % w.kernel_h * w.kernel_w;
      const int64_t windows = p < dy.height ? dy.width : 0;
      const T* from = dy.row(plane, p);
      const uint8_t* places = position.row(plane, p);
      for (int64_t q = 0; q < windows; ++q) {
        const Vec<T> grad = load(from + q * kLanes<T>);
        const Integers<T> place = load_bytes<T>(places + q * kLanes<T>);
        for (int64_t j = 0; j < w.kernel_w; ++j, to += kLanes<T>)
          store(to, grad_of_tap<T>(grad, place, first_tap + j));
      }
      clear(to, dx.width - windows * w.kernel_w);
    });
  });
}

template <class T>
void max_pool_backward(const LaneView<const T>& dy, const LaneView<const uint8_t>& position,
                       const PoolWindow& w, const LaneView<T>& dx, const Threads& threads) {
  if (w.stride_h == w.kernel_h && w.stride_w == w.kernel_w && w.pad_h == 0 && w.pad_w == 0)
    max_pool_backward_tiles<T>(dy, position, w, dx, threads);
  else
    max_pool_backward_any<T>(dy, position, w, dx, threads);
}
