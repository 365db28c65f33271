// Convolutions through strips, for lanes_conv2d.inl and lanes_fused_conv2d.cpp.
//
// A strip is some rows of all channels of one bundle. What a pass reads of them is computed into a
// thread's own scratch, in the second-level cache, with its padding around it; the inner loops then
// read whole vectors of it, each many times. So activations that are stored in 16 bits are widened
// there, norms and ReLUs before a convolution are applied there, and neither has a halo in memory
// nor crosses it again. Results are rounded once, as they are stored. Cost: besides the
// multiply-adds, one pass over what is read, and over the rows that neighboring strips share.
// Strips are the unit of work; where there are few, output channels are divided as well.

#include "cpu/lane_operands.inl"
#include "cpu/strip_moments.inl"

// Tiles of a phase's rows [begin, end).
template <class T>
int64_t tiles_of(const Phase<T>& phase, int64_t begin, int64_t end) {
  const auto runs = [](int64_t size, int64_t tile) { return (size + tile - 1) / tile; };
  return runs(end - begin, phase.tile.rows) * runs(phase.cols, phase.tile.cols);
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

// moments: of the results, (c_out, 2), or nullptr.
template <class S>
void conv_forward_in_strips(const ConvGeometry& g, const Plan& plan, const Operand<S>& x,
                            const Compute<S>* weight, const Compute<S>* bias, const LaneView<S>& y,
                            double* moments, const Threads& threads) {
  using T = Compute<S>;
  const int64_t halo = forward_halo(g), reach = rows_reached(g), bundles = x.a.bundles;
  const int64_t row_bytes = StripReader<S>::row_bytes(x, halo);
  const Strips strips =
      divide_rows(g.out_height, bundles, reach * row_bytes, g.stride_h * row_bytes, threads.count);
  const auto rows_of = [&](int64_t strip) {
    const int64_t begin = strips.begin(strip) * g.stride_h - g.pad_h;
    const int64_t rows = strips.end(strip, g.out_height) - strips.begin(strip);
    return Rows{begin, begin + (rows - 1) * g.stride_h + reach};
  };
  // Of the input's rows, those up to the next strip's.
  const auto own_rows = [&](int64_t strip) {
    return Rows{strip == 0 ? 0 : rows_of(strip).begin,
                strip + 1 == strips.count ? g.height : rows_of(strip + 1).begin};
  };
  const StripReader<S> reader(x, (strips.longest(g.out_height) - 1) * g.stride_h + reach, halo);
  const LaneView<T>& view = reader.view();
  const Correlation<T> c = forward_correlation<T>(g, plan, view, weight, threads);
  const int64_t waiting = kIsNarrow<S> ? waiting_sums(c, g.c_out) : 0;
  const StripTasks tasks(bundles, strips, g.c_out, threads.count);
  StripMoments<T> found(moments != nullptr, bundles, strips.count, g.c_out);
  tasks.run(threads, [&](const StripAt& at, int64_t part, int64_t) {
    const int64_t bundle = at.bundle, s = at.strip;
    T* scratch = strip_scratch<T>(reader.scratch() + waiting + found.scratch());
    T* const sums = scratch + reader.scratch() + waiting;
    const int64_t begin = strips.begin(s), end = strips.end(s, g.out_height);
    const int64_t first = part * g.c_out / tasks.parts, last = (part + 1) * g.c_out / tasks.parts;
    const Rows read = rows_of(s), own = part == 0 ? own_rows(s) : Rows{read.begin, read.begin};
    const T* from = reader.rows(bundle, read, own, scratch) + c.low_w * view.lanes;
    StripsAhead ahead(tiles_of(c.phases[0], begin, end));
    if (at.has_next) reader.announce(ahead, at.next_bundle, rows_of(at.next_strip));
    const auto run = [&](const auto& finish) {
      correlate_rows<T, S>(c, c.phases[0], from, view.row_size(), bias, y, bundle, begin, end,
                           first, last, scratch + reader.scratch(), finish);
    };
    if (!found)
      return run([&](const TilePlace<S>& to, int, int) {
        ahead.advance();
        return StoreTile<T, S>{to};
      });
    const int64_t images = images_of<T>(g.batch, bundle);
    bool is_first = true;
    run([&](const TilePlace<S>& to, int skip_rows, int skip_cols) {
      ahead.advance();
      return typename StripMoments<T>::template Store<S>{
          {to},      sums,     first_lanes<T>(images), T(images), std::exchange(is_first, false),
          skip_rows, skip_cols};
    });
    found.take(bundle, s, first, last, sums, double(images * (end - begin) * g.out_width));
  });
  if (found) found.write(moments);
  if (bias && g.batch % y.lanes != 0) clear_absent_lanes(y, g.batch);
}

// Which rows a strip of the gradients writes and reads.
struct GradientStrips {
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
                         dy_bytes + weight * g.stride_h * x_bytes, threads.count);
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
// strip of dy is read once for both. weight: read for dx.  x: its shape for dx, all for dw.
template <class S>
void conv_backward_in_strips(const ConvGeometry& g, const Plan& plan, const Operand<S>& dy,
                             const Operand<S>& x, const Compute<S>* weight, const LaneView<S>& dx,
                             Compute<S>* dw, const Threads& threads) {
  using T = Compute<S>;
  GradientStrips rows(g, dx.data != nullptr, dw != nullptr);
  const int64_t dy_halo = rows.input ? grad_input_halo(g) : 0, x_halo = forward_halo(g);
  const int64_t bundles = dy.a.bundles;
  rows.divide(bundles, StripReader<S>::row_bytes(dy, dy_halo), StripReader<S>::row_bytes(x, x_halo),
              threads);
  const Strips& strips = rows.strips;
  const StripReader<S> grads(dy, rows.most(&GradientStrips::of_dy), dy_halo);
  const StripReader<S> inputs(x, rows.weight ? rows.most(&GradientStrips::of_x) : 0, x_halo);
  const LaneView<T>&grad = grads.view(), &in = inputs.view();

  Correlation<T> input{};
  Phase<T> products{};
  if (rows.input) input = grad_input_correlation<T>(g, plan, grad, weight, threads);
  if (rows.weight) products = grad_weight_phase<T>(g, plan, in, threads);
  const int64_t waiting = kIsNarrow<S> ? waiting_sums(input, g.c_in) : 0;
  const int64_t most_parts = std::min(rows.input ? g.c_in : g.c_out, g.c_out);
  const StripTasks tasks(bundles, strips, most_parts, threads.count);
  WeightSums<T> sums(rows.weight ? tasks.runs : 0, plan.nnz);

  tasks.run(threads, [&](const StripAt& at, int64_t part, int64_t run) {
    const int64_t bundle = at.bundle, s = at.strip;
    const auto share = [&](int64_t channels, int64_t of) { return of * channels / tasks.parts; };
    T* scratch = strip_scratch<T>(grads.scratch() + inputs.scratch() + waiting);
    T* const x_scratch = scratch + grads.scratch();
    const Rows read = rows.of_dy(s), own = rows.products(s);
    const T* from = grads.rows(bundle, read, read, scratch);
    int64_t tiles = rows.weight ? tiles_of(products, own.begin, own.end) : 0;
    for (const Phase<T>& phase : input.phases)
      tiles += tiles_of(phase, strips.begin(s), strips.end(s, phase.rows));
    StripsAhead ahead(tiles);
    if (at.has_next) {
      grads.announce(ahead, at.next_bundle, rows.of_dy(at.next_strip));
      if (rows.weight) inputs.announce(ahead, at.next_bundle, rows.of_x(at.next_strip));
    }
    if (rows.weight) {
      const T* values = inputs.rows(bundle, rows.of_x(s), rows.of_x(s), x_scratch);
      grad_weight_rows<T>(g, products, values - g.pad_w * in.lanes, in.row_size(),
                          from + (own.begin - read.begin) * grad.row_size(), grad.plane_size(),
                          grad.row_size(), own.begin, own.end, share(g.c_out, part),
                          share(g.c_out, part + 1), sums.of_run(run), [&] { ahead.advance(); });
    }
    for (const Phase<T>& phase : input.phases) {
      const int64_t begin = strips.begin(s);
      correlate_rows<T, S>(
          input, phase,
          from + (begin + input.low_h - read.begin) * grad.row_size() + input.low_w * grad.lanes,
          grad.row_size(), nullptr, dx, bundle, begin, strips.end(s, phase.rows),
          share(g.c_in, part), share(g.c_in, part + 1), x_scratch + inputs.scratch(),
          [&](const TilePlace<S>& to, int, int) {
            ahead.advance();
            return StoreTile<T, S>{to};
          });
    }
  });
  if (rows.weight) sums.write(g, plan, products.weights, dw, threads);
}
