// Convolutions of activations that are stored in 16 bits and computed in float, for
// lanes_conv2d.inl.
//
// A strip is some rows of all channels of one bundle. It is widened into a thread's own scratch, in
// the second-level cache, with its padding around it; the inner loops then read whole vectors of
// floats, each many times. Results are rounded once, as they are stored. So activations cross
// memory in half the bytes, and have no halo there. Cost: besides the multiply-adds, one conversion
// for each value and for the rows that neighboring strips share. Strips are the unit of work:
// bundles times strips bound the threads that are used.

// How a pass divides its rows: strips of `rows`, the last one with what is left.
struct Strips {
  int64_t count, rows;

  int64_t begin(int64_t strip) const { return strip * rows; }
  int64_t end(int64_t strip, int64_t total) const {
    return strip + 1 == count ? total : (strip + 1) * rows;
  }
  int64_t longest(int64_t total) const { return std::max(rows, total - (count - 1) * rows); }
};

// total: rows to divide. first_bytes: of scratch for a strip of one row.  row_bytes: for each
// further one. Strips have a multiple of kMostTileRows rows, so that every tile fits.
inline Strips divide_rows(int64_t total, int64_t bundles, int64_t first_bytes, int64_t row_bytes,
                          const Threads& threads) {
  constexpr int64_t kMostTileRows = 4;
  row_bytes = std::max<int64_t>(1, row_bytes);  // of no channels
  const int64_t room = l2_bytes() / 2;
  const int64_t fit = std::max<int64_t>(kMostTileRows, 1 + (room - first_bytes) / row_bytes);
  int64_t count = (total + fit - 1) / fit;
  count = std::max(count, (threads.count + bundles - 1) / bundles);
  const int64_t rows =
      std::max<int64_t>(kMostTileRows, total / count / kMostTileRows * kMostTileRows);
  return {std::max<int64_t>(1, total / rows), rows};
}

// Scratch for so many rows of an activation, widened, with halos beside them but none above.
template <class S>
LaneView<Compute<S>> strip_view(const LaneView<const S>& x, int64_t rows, int64_t halo) {
  const LaneView<Compute<S>> view{nullptr, 1, x.channels, rows - 2 * halo, x.width, halo, x.lanes};
  // Offsets into it are 32 bits wide.
  expect(view.bundle_size() <= std::numeric_limits<uint32_t>::max(), "masked_conv2d",
         "four rows of a bundle of images have more than 2^32 values; use the dense convolution");
  return view;
}

// Widens rows [first, first + rows) of a bundle; those outside the image are zero.
template <class S>
void widen_rows(const LaneView<const S>& x, int64_t bundle, int64_t first, int64_t rows,
                const LaneView<Compute<S>>& strip) {
  using T = Compute<S>;
  const int64_t columns = strip.width + 2 * strip.halo;
  for (int64_t channel = 0; channel < x.channels; ++channel) {
    T* to = strip.data + channel * strip.plane_size();
    for (int64_t y = first; y < first + rows; ++y) {
      if (y < 0 || y >= x.height) {
        to = clear(to, columns);
        continue;
      }
      to = clear(to, strip.halo);
      const S* from = x.row(bundle * x.channels + channel, y);
      for (int64_t i = 0; i < x.width; ++i, from += kLanes<S>, to += kLanes<S>)
        store(to, load(from));
      to = clear(to, strip.halo);
    }
  }
}

// A thread's scratch: views of one allocation, which stays for the next pass.
template <class T>
T* strip_scratch(int64_t values) {
  static thread_local Workspace memory;
  return memory.get<T>(size_t(values));
}

// Room for the sums of a correlation whose rows come in several groups, else none.
template <class T>
int64_t waiting_sums(const Correlation<T>& c, int64_t channels) {
  for (const Phase<T>& phase : c.phases)
    if (phase.weights.groups > 1) return channels * kMaxTile * kLanes<T>;
  return 0;
}

// Calls f(bundle, strip, run) for all strips, in runs of neighbors, one for a thread.
template <class F>
void for_each_strip(int64_t bundles, const Strips& strips, int64_t runs, const Threads& threads,
                    const F& f) {
  const int64_t total = bundles * strips.count;
  threads.run(runs, [&](int64_t run) {
    for (int64_t i = run * total / runs; i < (run + 1) * total / runs; ++i)
      f(i / strips.count, i % strips.count, run);
  });
}

template <class S>
void conv_forward_in_strips(const ConvGeometry& g, const Plan& plan, const LaneView<const S>& x,
                            const Compute<S>* weight, const Compute<S>* bias, const LaneView<S>& y,
                            const Threads& threads) {
  using T = Compute<S>;
  const int64_t halo = forward_halo(g), reach = rows_reached(g);
  const int64_t row_bytes = x.channels * strip_view(x, 0, halo).row_size() * int64_t(sizeof(T));
  const Strips strips =
      divide_rows(g.out_height, x.bundles, reach * row_bytes, g.stride_h * row_bytes, threads);
  const auto rows_read = [&](int64_t rows) { return (rows - 1) * g.stride_h + reach; };
  const LaneView<T> view = strip_view(x, rows_read(strips.longest(g.out_height)), halo);
  const Correlation<T> c = forward_correlation<T>(g, plan, view, weight, threads);
  const int64_t sums = waiting_sums(c, g.c_out);
  const int64_t runs = std::min(threads.count, x.bundles * strips.count);
  for_each_strip(x.bundles, strips, runs, threads, [&](int64_t bundle, int64_t s, int64_t) {
    LaneView<T> strip = view;
    strip.data = strip_scratch<T>(view.bundle_size() + sums);
    const int64_t begin = strips.begin(s), end = strips.end(s, g.out_height);
    widen_rows(x, bundle, begin * g.stride_h + c.low_h, rows_read(end - begin), strip);
    correlate_rows<T, S>(c, c.phases[0], strip.data + (halo + c.low_w) * x.lanes, strip.row_size(),
                         bias, y, bundle, begin, end, 0, g.c_out, strip.data + view.bundle_size());
  });
  if (bias && g.batch % y.lanes != 0) clear_absent_lanes(y, g.batch);
}

// Which rows a strip of the gradients writes and reads.
struct GradientStrips {
  struct Rows {
    int64_t begin, end;
    int64_t size() const { return end - begin; }
  };

  bool input, weight;  // which gradients are wanted
  ConvGeometry g;
  Reach taps;                          // of dx in dy
  int64_t fewest_rows, most_rows = 0;  // of the phases of dx
  Strips strips{1, 0};

  GradientStrips(const ConvGeometry& geometry, bool wants_input, bool wants_weight)
      : input(wants_input), weight(wants_weight), g(geometry) {
    const auto phases = axis_phases(g.height, g.kernel_h, g.stride_h, g.pad_h, g.dilation_h);
    taps = tap_reach(phases);
    fewest_rows = g.height;
    for (const AxisPhase& phase : phases) {
      fewest_rows = std::min(fewest_rows, phase.count);
      most_rows = std::max(most_rows, phase.count);
    }
  }

  // dy_bytes, x_bytes: of a row of scratch.
  void divide(int64_t bundles, int64_t dy_bytes, int64_t x_bytes, const Threads& threads) {
    const int64_t around_dy = input ? taps.high - taps.low : 1;
    strips = divide_rows(input ? std::min(g.out_height, fewest_rows) : g.out_height, bundles,
                         around_dy * dy_bytes + weight * rows_reached(g) * x_bytes,
                         dy_bytes + weight * g.stride_h * x_bytes, threads);
  }

  // Of dy, those whose products with x are summed.
  Rows products(int64_t s) const { return {strips.begin(s), strips.end(s, g.out_height)}; }

  Rows of_x(int64_t s) const {
    const int64_t first = products(s).begin * g.stride_h - g.pad_h;
    return {first, first + (products(s).size() - 1) * g.stride_h + rows_reached(g)};
  }

  Rows of_dy(int64_t s) const {
    const Rows own = products(s);
    if (!input) return own;
    const Rows read{strips.begin(s) + taps.low, strips.end(s, most_rows) - 1 + taps.high};
    if (!weight) return read;
    return {std::min(own.begin, read.begin), std::max(own.end, read.end)};
  }

  // The most rows of any strip. rows: of_x or of_dy.
  int64_t most(Rows (GradientStrips::*rows)(int64_t) const) const {
    int64_t found = 0;
    for (int64_t s = 0; s < strips.count; ++s) found = std::max(found, (this->*rows)(s).size());
    return found;
  }
};

// The gradients of input and weight, each of which may be left out: dx.data or dw is nullptr. A
// strip of dy is widened once for both. weight: read for dx.  x: its shape for dx, all for dw.
template <class S>
void conv_backward_in_strips(const ConvGeometry& g, const Plan& plan, const LaneView<const S>& dy,
                             const LaneView<const S>& x, const Compute<S>* weight,
                             const LaneView<S>& dx, Compute<S>* dw, const Threads& threads) {
  using T = Compute<S>;
  GradientStrips rows(g, dx.data != nullptr, dw != nullptr);
  const int64_t dy_halo = rows.input ? grad_input_halo(g) : 0, x_halo = forward_halo(g);
  const auto row_bytes = [](const LaneView<const S>& of, int64_t halo) {
    return of.channels * strip_view(of, 0, halo).row_size() * int64_t(sizeof(T));
  };
  rows.divide(dy.bundles, row_bytes(dy, dy_halo), row_bytes(x, x_halo), threads);
  const Strips& strips = rows.strips;
  const LaneView<T> dy_view = strip_view(dy, rows.most(&GradientStrips::of_dy), dy_halo);
  const LaneView<T> x_view =
      strip_view(x, rows.weight ? rows.most(&GradientStrips::of_x) : 0, x_halo);

  Correlation<T> input{};
  Phase<T> products{};
  if (rows.input) input = grad_input_correlation<T>(g, plan, dy_view, weight, threads);
  if (rows.weight) products = grad_weight_phase<T>(g, plan, x_view, threads);
  const int64_t runs = std::min(threads.count, dy.bundles * strips.count);
  WeightSums<T> sums(rows.weight ? runs : 0, plan.nnz);
  const int64_t waiting = waiting_sums(input, g.c_in);

  for_each_strip(dy.bundles, strips, runs, threads, [&](int64_t bundle, int64_t s, int64_t run) {
    LaneView<T> grad = dy_view, in = x_view;
    grad.data = strip_scratch<T>(grad.bundle_size() + in.bundle_size() + waiting);
    in.data = grad.data + grad.bundle_size();
    const auto read = rows.of_dy(s), own = rows.products(s);
    widen_rows(dy, bundle, read.begin, read.size(), grad);
    if (rows.weight) {
      const auto of_x = rows.of_x(s);
      widen_rows(x, bundle, of_x.begin, of_x.size(), in);
      grad_weight_rows<T>(
          g, products, in.data + (x_halo - g.pad_w) * x.lanes, in.row_size(),
          grad.data + (own.begin - read.begin) * grad.row_size() + dy_halo * dy.lanes,
          grad.plane_size(), grad.row_size(), own.begin, own.end, 0, g.c_out, sums.of_run(run));
    }
    for (const Phase<T>& phase : input.phases) {
      const int64_t begin = strips.begin(s);
      const T* from = grad.data + (begin + input.low_h - read.begin) * grad.row_size() +
                      (dy_halo + input.low_w) * dy.lanes;
      correlate_rows<T, S>(input, phase, from, grad.row_size(), nullptr, dx, bundle, begin,
                           strips.end(s, phase.rows), 0, g.c_in, in.data + in.bundle_size());
    }
  });
  if (rows.weight) sums.write(g, plan, products.weights, dw, threads);
}
