// Statistics of the results of a convolution, summed as its tiles are stored.

// Moments of the results of each strip, by channel, summed as they are stored. The pivot of a
// channel is the mean of the first position of the strip. Strips and bundles are combined in an
// order that no number of threads changes.
template <class T>
class StripMoments {
 public:
  // wanted: or nothing is done.
  StripMoments(bool wanted, int64_t bundles, int64_t strips, int64_t channels)
      : strips_(strips), channels_(channels), found_(wanted ? bundles * strips * channels : 0) {}

  explicit operator bool() const { return !found_.empty(); }
  // Values of scratch.
  int64_t scratch() const { return *this ? 3 * channels_ * kLanes<T> : 0; }

  // What stores a tile and adds it to a strip's sums, in scratch. The first tile has first = true.
  template <class O>
  struct Store {
    StoreTile<T, O> tile;
    T* sums;
    Integers<T> real;
    T images;
    bool first;
    int skip_rows, skip_cols;

    bool is_done(const TilePlace<T>&) const { return false; }

    template <int kR, int kC>
    SPARSELTH_INLINE void operator()(int64_t o, const Vec<T> (&sum)[kR][kC]) const {
      tile(o, sum);
      T* mine = sums + o * 3 * kLanes<T>;
      if (first) {
        store(mine, broadcast(reduce<T>(keep<T>(sum[0][0], real)) / images));
        store(mine + kLanes<T>, Vec<T>{}), store(mine + 2 * kLanes<T>, Vec<T>{});
      }
      const Vec<T> pivot = load(mine);
      // Two chains, to hide the latency of an addition.
      Vec<T> total[2] = {load(mine + kLanes<T>), Vec<T>{}};
      Vec<T> squares[2] = {load(mine + 2 * kLanes<T>), Vec<T>{}};
      const bool whole = skip_rows == 0 && skip_cols == 0;
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < kC; ++c) {
          if (!whole && (r < skip_rows || c < skip_cols)) continue;
          const Vec<T> distance = keep<T>(sum[r][c] - pivot, real);
          total[(r + c) & 1] += distance;
          squares[(r + c) & 1] += distance * distance;
        }
      store(mine + kLanes<T>, total[0] + total[1]);
      store(mine + 2 * kLanes<T>, squares[0] + squares[1]);
    }
  };

  // Takes the sums of the channels [first, last) of a strip of `count` values each.
  void take(int64_t bundle, int64_t strip, int64_t first, int64_t last, const T* sums,
            double count) {
    Moments* to = found_.data() + (bundle * strips_ + strip) * channels_;
    for (int64_t o = first; o < last; ++o) {
      const T* mine = sums + o * 3 * kLanes<T>;
      to[o] = moments_around(
          mine[0], count,
          {reduce<T>(load(mine + kLanes<T>)), reduce<T>(load(mine + 2 * kLanes<T>))});
    }
  }

  // moments: (channels, 2), mean and squares.
  void write(double* moments) const {
    for (int64_t o = 0; o < channels_; ++o) {
      Moments total;
      for (size_t at = size_t(o); at < found_.size(); at += size_t(channels_))
        total = combined(total, found_[at]);
      moments[2 * o] = total.mean, moments[2 * o + 1] = total.squares;
    }
  }

 private:
  int64_t strips_, channels_;
  std::vector<Moments> found_;
};
