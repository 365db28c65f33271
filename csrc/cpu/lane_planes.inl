// What the kernels on activations in lanes share, compiled per instruction set.
//
// A plane is one (bundle, channel): rows of width x kLanes contiguous values, one vector per pixel.
// Threads take contiguous runs of planes. A result is written in memory order, its halo included,
// so that no second pass has to clear it.

// All ones in the lanes of the first `images` images.
template <class T>
SPARSELTH_INLINE Integers<T> first_lanes(int64_t images) {
  Integers<T> mask;
  for (int i = 0; i < kLanes<T>; ++i) mask[i] = i < images ? -1 : 0;
  return mask;
}

// How many images the bundle of a plane holds.
template <class T>
SPARSELTH_INLINE int64_t images_of(int64_t batch, int64_t bundle) {
  return std::min<int64_t>(batch - bundle * kLanes<T>, kLanes<T>);
}

// The value where the mask is all ones, else zero, whatever the value: NaN and infinity too.
template <class T>
SPARSELTH_INLINE Vec<T> keep(Vec<T> value, Integers<T> mask) {
  return (Vec<T>)((Integers<T>)value & mask);
}

// The operand's gradient through a ReLU whose result was `gate`; through one that cuts at `upper`
// too, unless that is NaN.
template <class T>
SPARSELTH_INLINE Vec<T> gated(Vec<T> grad, Vec<T> gate, Vec<T> upper) {
  // A NaN gate is neither and passes, as in torch.
  const Vec<T> above = gate <= 0 ? Vec<T>{} : grad;
  return gate >= upper ? Vec<T>{} : above;
}

// Zeroes pixels [to, to + count).
template <class T>
SPARSELTH_INLINE T* clear(T* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i, to += kLanes<T>) store(to, Vec<T>{});
  return to;
}

// Calls f(plane), or f(channel), each thread for a run of neighbors.
template <class F>
void for_planes(int64_t planes, const Threads& threads, const F& f) {
  const int64_t runs = std::min(planes, threads.count);
  threads.run(runs, [&](int64_t r) {
    for (int64_t p = r * planes / runs; p < (r + 1) * planes / runs; ++p) f(p);
  });
}

// Writes one plane: row(y, to) fills the pixels inside the halo.
template <class T, class Row>
SPARSELTH_INLINE void write_plane(const LaneView<T>& out, int64_t plane, Row row) {
  const int64_t columns = out.width + 2 * out.halo, border = out.halo * columns + out.halo;
  T* to = clear(out.data + plane * out.plane_size(), border);
  if (out.height == 0) clear(to, out.halo * columns - out.halo);  // no row comes to clear the rest
  for (int64_t y = 0; y < out.height; ++y) {
    row(y, to);
    to += out.width * kLanes<T>;
    // The right halo of a row and the left one of the next are neighbors.
    to = clear(to, y + 1 < out.height ? 2 * out.halo : border);
  }
}

// One plane of out = rule(in[0], in[1], ...), pixel by pixel; lanes beyond the batch become zero
// whatever the rule says.
template <class T, int kInputs, class Rule>
void pointwise_plane(const LaneView<const T> (&in)[kInputs], int64_t batch, const LaneView<T>& out,
                     int64_t plane, const Rule& rule) {
  const Integers<T> real = first_lanes<T>(images_of<T>(batch, plane / out.channels));
  write_plane(out, plane, [&](int64_t y, T* to) {
    const T* from[kInputs];
    for (int i = 0; i < kInputs; ++i) from[i] = in[i].row(plane, y);
    for (int64_t at = 0; at < out.width * kLanes<T>; at += kLanes<T>) {
      Vec<T> values[kInputs];
#pragma GCC unroll 3
      for (int i = 0; i < kInputs; ++i) values[i] = load(from[i] + at);
      store(to + at, keep<T>(rule(values), real));
    }
  });
}

// All planes. rule_of(channel) makes a rule that holds the channel's constants.
template <class T, int kInputs, class RuleOf>
void pointwise(const LaneView<const T> (&in)[kInputs], int64_t batch, const LaneView<T>& out,
               const Threads& threads, const RuleOf& rule_of) {
  for_planes(out.planes(), threads, [&](int64_t plane) {
    pointwise_plane<T, kInputs>(in, batch, out, plane, rule_of(plane % out.channels));
  });
}

// Calls f.operator()<first, second>().
template <class F>
void with_flags(bool first, bool second, const F& f) {
  if (first)
    second ? f.template operator()<true, true>() : f.template operator()<true, false>();
  else
    second ? f.template operator()<false, true>() : f.template operator()<false, false>();
}
