// What convolutions in strips read: activations as they lie, or computed into scratch.

// An activation as a convolution reads it: relu(a * a_scale + a_shift + b * b_scale + b_shift).
template <class S>
struct Operand {
  LaneView<const S> a, b;
  int64_t batch = 0;
  ScalesAndShifts<Compute<S>> scales{};
  bool relu = false;
  LaneView<S> kept;  // where it is stored as well, if anywhere

  bool plain() const { return !(scales.a_scale || scales.a_shift || b.data || relu); }
};

// Some rows of an image.
struct Rows {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
  bool has(int64_t row) const { return begin <= row && row < end; }
};

// Fetches what the next strip reads into the second-level cache while this one is computed, a share
// at each tile: loading and computing alternate, and a core does not look far enough ahead to
// overlap them by itself.
class StripsAhead {
 public:
  // tiles: after so many everything is fetched.
  explicit StripsAhead(int64_t tiles) : tiles_(tiles) {}

  template <class S>
  void add(const LaneView<S>& x, int64_t bundle, const Rows& rows) {
    const int64_t begin = std::max<int64_t>(0, rows.begin), end = std::min(rows.end, x.height);
    if (begin >= end || count_ == kMost) return;
    const int64_t row_bytes = x.row_size() * int64_t(sizeof(S));
    streams_[count_++] = {(const char*)x.row(bundle * x.channels, begin),
                          x.plane_size() * int64_t(sizeof(S)), x.channels,
                          ((end - begin) * row_bytes + kLine - 1) / kLine};
  }

  // To be called for each tile.
  void advance() {
    if (tile_ >= tiles_) return;
    for (int i = 0; i < count_; ++i) {
      const Stream& s = streams_[i];
      const int64_t all = s.lines * s.planes;
      int64_t line = tile_ * all / tiles_;
      const int64_t last = (tile_ + 1) * all / tiles_;
      while (line < last) {
        const int64_t plane = line / s.lines;
        const int64_t end = std::min(last, (plane + 1) * s.lines);
        const char* from = s.first + plane * (s.plane_bytes - s.lines * kLine);
        for (; line < end; ++line) __builtin_prefetch(from + line * kLine, 0, 2);
      }
    }
    ++tile_;
  }

 private:
  static constexpr int64_t kLine = 64;
  static constexpr int kMost = 4;  // two operands of two terms
  struct Stream {
    const char* first;
    int64_t plane_bytes, planes, lines;
  };

  Stream streams_[kMost];
  int count_ = 0;
  int64_t tile_ = 0, tiles_;
};

// How a pass reads strips of an operand: where it lies, if that will do, else through scratch.
template <class S>
class StripReader {
 public:
  using T = Compute<S>;

  // rows: the most that are read at once.  halo: that reading needs.
  StripReader(const Operand<S>& x, int64_t rows, int64_t halo)
      : x_(x), in_place_(is_in_place(x, halo)) {
    const LaneView<const S>& a = x.a;
    view_ = {nullptr, 1, a.channels, rows - 2 * halo, a.width, halo, a.lanes};
    if constexpr (!kIsNarrow<S>)
      if (in_place_)
        view_ = {const_cast<T*>(a.data), a.bundles, a.channels, a.height, a.width, a.halo, a.lanes};
    // Offsets into it are 32 bits wide.
    expect(view_.bundle_size() <= std::numeric_limits<uint32_t>::max(), "masked_conv2d",
           "what is read at once of a bundle of images has more than 2^32 values; use the dense "
           "convolution");
  }

  // Adds what rows of a bundle are computed from.
  void announce(StripsAhead& ahead, int64_t bundle, const Rows& read) const {
    ahead.add(x_.a, bundle, read);
    if (x_.b.data) ahead.add(x_.b, bundle, read);
  }

  // What offsets and steps refer to.
  const LaneView<T>& view() const { return view_; }
  int64_t scratch() const { return in_place_ ? 0 : view_.bundle_size(); }
  // Of scratch, per row.
  static int64_t row_bytes(const Operand<S>& x, int64_t halo) {
    return is_in_place(x, halo)
               ? 0
               : x.a.channels * (x.a.width + 2 * halo) * x.a.lanes * int64_t(sizeof(T));
  }

  // Makes rows of a bundle ready; those outside the image are zero. own: of which the values are
  // stored, where the operand is kept. Returns where column 0 of the first row lies.
  const T* rows(int64_t bundle, const Rows& read, const Rows& own, T* scratch) const {
    if (in_place_) return view_.at(bundle, read.begin, 0);
    const auto rule_of = [](int64_t) { return [](const Vec<T>* in) { return in[0]; }; };
    if (x_.plain()) {
      compute<1>({x_.a}, bundle, read, own, scratch, rule_of);
    } else {
      with_flags(x_.b.data != nullptr, x_.relu, [&]<bool kAdd, bool kRelu>() {
        const auto rule_of = [&](int64_t c) { return ScaleAddRule<T, kAdd, kRelu>(x_.scales, c); };
        if constexpr (kAdd) {
          compute<2>({x_.a, x_.b}, bundle, read, own, scratch, rule_of);
        } else {
          compute<1>({x_.a}, bundle, read, own, scratch, rule_of);
        }
      });
    }
    return scratch + view_.halo * view_.lanes;
  }

 private:
  static bool is_in_place(const Operand<S>& x, int64_t halo) {
    return !kIsNarrow<S> && x.plain() && !x.kept.data && x.a.halo >= halo;
  }

  template <int kInputs, class RuleOf>
  void compute(const LaneView<const S> (&in)[kInputs], int64_t bundle, const Rows& read,
               const Rows& own, T* scratch, const RuleOf& rule_of) const {
    const Integers<T> real =
        first_lanes<T>(x_.plain() ? kLanes<T> : images_of<T>(x_.batch, bundle));
    const int64_t border = view_.halo * view_.lanes, width = x_.a.width * view_.lanes;
    const Rows kept = x_.kept.data ? own : read;
    for (int64_t channel = 0; channel < x_.a.channels; ++channel) {
      const auto rule = rule_of(channel);
      const int64_t plane = bundle * x_.a.channels + channel;
      for (int64_t y = std::min(read.begin, kept.begin); y < std::max(read.end, kept.end); ++y) {
        T* to = scratch + channel * view_.plane_size() + (y - read.begin) * view_.row_size();
        const bool reads = read.has(y);
        if (y < 0 || y >= x_.a.height) {
          if (reads) clear(to, view_.row_size() / view_.lanes);
          continue;
        }
        const S* from[kInputs];
        for (int i = 0; i < kInputs; ++i) from[i] = in[i].row(plane, y);
        const auto value = [&](int64_t at) {
          Vec<T> values[kInputs];
#pragma GCC unroll 2
          for (int i = 0; i < kInputs; ++i) values[i] = load(from[i] + at);
          return keep<T>(rule(values), real);
        };
        if (reads) clear(to, view_.halo), clear(to + border + width, view_.halo);
        to += border;
        if (!x_.kept.data) {
          for (int64_t at = 0; at < width; at += kLanes<T>) store(to + at, value(at));
          continue;
        }
        S* stored = kept.has(y) ? x_.kept.row(plane, y) : nullptr;
        for (int64_t at = 0; at < width; at += kLanes<T>) {
          const Vec<T> v = as_stored<S>(value(at));  // as the backward will see it
          if (stored) store(stored + at, v);
          if (reads) store(to + at, v);
        }
      }
    }
  }

  const Operand<S>& x_;
  bool in_place_;
  LaneView<T> view_;
};
