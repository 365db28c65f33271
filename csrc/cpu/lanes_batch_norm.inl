// Batch norm on activations in lanes, compiled per instruction set.
//
//   forward   the batch's mean and biased variance of each channel, over images and pixels, and
//             what follows from them; lanes_scale_add_relu applies it
//   backward  db = sum g,  dw = sum g n,  dx = invstd weight (g - db / count - n dw / count)
//             with g = 0 where gate <= 0 else dy, and n = (x - mean) invstd;
//             dx = invstd weight g where mean and invstd are not the batch's own
//             The gate of a ReLU right after this norm need not be read: it is scale x + shift.
//
// Cost: the forward reads x once. The backward reads its operands twice, once for the sums and once
// for dx; channel by channel, so that the second time they come from the cache.
//
// T: what activations are stored as. What is per channel, and all sums, are in what they are
// computed in.
//
// Sums stay accurate over millions of values: a strip of rows is summed in a few vectors, strips
// and planes are added in double, in an order that no number of threads changes.

#include "cpu/lane_planes.inl"
#include "cpu/moments.inl"

// Sums of two values over a plane. row(y) returns what adds pixel x: add(x, first, second).
template <class T, class Row>
SPARSELTH_INLINE Sums plane_sums(int64_t height, int64_t width, Row row) {
  constexpr int kChains = 4;  // independent, to hide the latency of an addition
  constexpr int64_t kStrip = 1024;
  const int64_t strip = std::max<int64_t>(1, kStrip / std::max<int64_t>(1, width));
  Sums sums;
  for (int64_t begin = 0; begin < height; begin += strip) {
    Vec<T> first[kChains]{}, second[kChains]{};
    for (int64_t y = begin; y < std::min(begin + strip, height); ++y) {
      const auto add = row(y);
      int64_t x = 0;
      for (; x + kChains <= width; x += kChains) {
#pragma GCC unroll 4
        for (int i = 0; i < kChains; ++i) add(x + i, first[i], second[i]);
      }
#pragma GCC unroll 3
      for (int i = 0; i < kChains - 1; ++i)
        if (x + i < width) add(x + i, first[i], second[i]);
    }
    sums.first += reduce<T>((first[0] + first[1]) + (first[2] + first[3]));
    sums.second += reduce<T>((second[0] + second[1]) + (second[2] + second[3]));
  }
  return sums;
}

// Adds distances to a pivot and their squares.
template <class T>
struct AddMoments {
  const T* from;
  Vec<T> pivot;
  Integers<T> real;

  SPARSELTH_INLINE void operator()(int64_t x, Vec<T>& sum, Vec<T>& squares) const {
    const Vec<T> distance = keep<T>(load(from + x * kLanes<T>) - pivot, real);
    sum += distance;
    squares += distance * distance;
  }
};

template <class T>
Moments plane_moments(const LaneView<const T>& x, int64_t plane, int64_t images) {
  const double count = double(images) * double(x.height) * double(x.width);
  if (count == 0) return {};
  using C = Compute<T>;
  const C pivot = reduce<T>(load(x.row(plane, 0))) / C(images);  // the mean of the first pixel
  const Vec<T> pivots = broadcast(pivot);
  const Integers<T> real = first_lanes<T>(images);
  const Sums sums = plane_sums<T>(
      x.height, x.width, [&](int64_t y) { return AddMoments<T>{x.row(plane, y), pivots, real}; });
  return moments_around(pivot, count, sums);
}

// Of one channel, over all bundles.
template <class T>
Moments channel_moments(const LaneView<const T>& x, int64_t batch, int64_t channel) {
  Moments total;
  for (int64_t bundle = 0; bundle < x.bundles; ++bundle)
    total = combined(
        total, plane_moments<T>(x, bundle * x.channels + channel, images_of<T>(batch, bundle)));
  return total;
}

// Per channel. What may be absent is nullptr: weight is ones then, bias zeros. T: what activations
// are computed in.
template <class T>
struct BatchNormForward {
  const T *weight, *bias;
  const double* moments;  // (channels, 2): mean and squares, where they are known
  T *running_mean, *running_var;
  double momentum, eps;
  T *mean, *invstd, *scale, *shift;
};

template <class T>
void batch_norm_forward(const LaneView<const T>& x, int64_t batch,
                        const BatchNormForward<Compute<T>>& norm, const Threads& threads) {
  using C = Compute<T>;
  const double count = double(batch) * double(x.height) * double(x.width);
  for_planes(x.channels, threads, [&](int64_t c) {
    const Moments m = norm.moments ? Moments{count, norm.moments[2 * c], norm.moments[2 * c + 1]}
                                   : channel_moments<T>(x, batch, c);
    // Of no values, both are 0 / 0.
    const double mean = m.count == 0 ? std::nan("") : m.mean, variance = m.squares / m.count;
    const double invstd = 1 / std::sqrt(variance + norm.eps);
    const double scale = norm.weight ? norm.weight[c] * invstd : invstd;
    norm.mean[c] = C(mean);
    norm.invstd[c] = C(invstd);
    norm.scale[c] = C(scale);
    norm.shift[c] = C((norm.bias ? norm.bias[c] : 0) - mean * scale);
    const auto average = [&](C* running, double value) {
      if (running) running[c] = C((1 - norm.momentum) * running[c] + norm.momentum * value);
    };
    average(norm.running_mean, mean);
    average(norm.running_var, variance * m.count / (m.count - 1));
  });
}

// Where the gate of a ReLU after the norm comes from.
enum class Gate { none, given, of_x };

// scale x + shift, as lanes_scale_add_relu computes it.
template <class T>
struct GateOfX {
  Vec<T> scale, shift;

  SPARSELTH_INLINE Vec<T> operator()(Vec<T> x) const { return x * scale + shift; }
};

// Adds g and g (x - mean).
template <class T, Gate kGate>
struct AddGradients {
  const T *grad, *x, *gate;
  Vec<T> mean, upper;
  GateOfX<Compute<T>> of_x;

  SPARSELTH_INLINE void operator()(int64_t pixel, Vec<T>& sum, Vec<T>& products) const {
    const int64_t at = pixel * kLanes<T>;
    const Vec<T> value = load(x + at);
    Vec<T> g = load(grad + at);
    if constexpr (kGate == Gate::given) g = gated<T>(g, load(gate + at), upper);
    if constexpr (kGate == Gate::of_x) g = gated<T>(g, of_x(value), upper);
    sum += g;
    products += g * (value - mean);
  }
};

// dx of one channel. kTraining: through the batch's own mean and invstd.
template <class T, Gate kGate, bool kTraining>
struct BatchNormBackwardRule {
  Vec<T> scale, mean, slope, shift, upper;
  GateOfX<T> of_x;

  // in: the gradient, then the gate if it is given, then x if it is read.
  SPARSELTH_INLINE Vec<T> operator()(const Vec<T>* in) const {
    constexpr int kX = kGate == Gate::given ? 2 : 1;
    Vec<T> g = in[0];
    if constexpr (kGate == Gate::given) g = gated<T>(g, in[1], upper);
    if constexpr (kGate == Gate::of_x) g = gated<T>(g, of_x(in[kX]), upper);
    if constexpr (!kTraining) return g * scale;
    return g * scale + ((in[kX] - mean) * slope + shift);
  }
};

// Per channel, in what activations are computed in. weight: nullptr is ones; gate_scale and
// gate_shift: nullptr unless the gate is of x. upper: the gate's limit, or NaN.
template <class T>
struct BatchNorm {
  const T *mean, *invstd, *weight, *gate_scale, *gate_shift;
  T upper;
  bool training;

  GateOfX<T> gate_of_x(int64_t channel) const {
    if (!gate_scale) return {Vec<T>{}, Vec<T>{}};
    return {broadcast(gate_scale[channel]), broadcast(gate_shift[channel])};
  }
};

template <class T, Gate kGate>
Sums channel_sums(const LaneView<const T>& grad, const LaneView<const T>& gate,
                  const LaneView<const T>& x, const BatchNorm<Compute<T>>& norm, int64_t channel) {
  const Vec<T> mean = broadcast(norm.mean[channel]);
  const GateOfX<Compute<T>> of_x = norm.gate_of_x(channel);
  Sums total;
  for (int64_t plane = channel; plane < x.planes(); plane += x.channels) {
    const Sums sums = plane_sums<T>(x.height, x.width, [&](int64_t y) {
      return AddGradients<T, kGate>{grad.row(plane, y),
                                    x.row(plane, y),
                                    kGate == Gate::given ? gate.row(plane, y) : nullptr,
                                    mean,
                                    broadcast(norm.upper),
                                    of_x};
    });
    total.first += sums.first;
    total.second += sums.second;
  }
  return total;
}

// in: grad, then the gate if it is given, then x where it is read.
template <class T, Gate kGate, bool kTraining, int kInputs>
void batch_norm_backward_channel(const LaneView<const T> (&in)[kInputs], int64_t batch,
                                 const BatchNorm<Compute<T>>& norm, const Sums& sums,
                                 int64_t channel, const LaneView<T>& dx) {
  using C = Compute<T>;
  const double count = double(batch) * double(dx.height) * double(dx.width);
  const double invstd = norm.invstd[channel];
  const double scale = norm.weight ? norm.weight[channel] * invstd : invstd;
  const BatchNormBackwardRule<C, kGate, kTraining> rule{
      broadcast(C(scale)),
      broadcast(norm.mean[channel]),
      broadcast(C(-scale * invstd * invstd * sums.second / count)),
      broadcast(C(-scale * sums.first / count)),
      broadcast(norm.upper),
      norm.gate_of_x(channel)};
  for (int64_t plane = channel; plane < dx.planes(); plane += dx.channels)
    pointwise_plane<T, kInputs>(in, batch, dx, plane, rule);
}

template <class T>
void batch_norm_backward(const LaneView<const T>& grad, const LaneView<const T>& gate,
                         const LaneView<const T>& x, int64_t batch,
                         const BatchNorm<Compute<T>>& norm, const LaneView<T>& dx,
                         Compute<T>* grad_weight, Compute<T>* grad_bias, const Threads& threads) {
  const auto run = [&]<Gate kGate, bool kTraining>() {
    for_planes(x.channels, threads, [&](int64_t c) {
      const Sums sums = channel_sums<T, kGate>(grad, gate, x, norm, c);
      grad_bias[c] = Compute<T>(sums.first);
      grad_weight[c] = Compute<T>(sums.second * norm.invstd[c]);
      constexpr bool kReadsX = kTraining || kGate == Gate::of_x;
      const auto write = [&]<int kInputs>(const LaneView<const T>(&in)[kInputs]) {
        batch_norm_backward_channel<T, kGate, kTraining>(in, batch, norm, sums, c, dx);
      };
      if constexpr (kGate == Gate::given && kReadsX) {
        write({grad, gate, x});
      } else if constexpr (kGate == Gate::given) {
        write({grad, gate});
      } else if constexpr (kReadsX) {
        write({grad, x});
      } else {
        write({grad});
      }
    });
  };
  with_flags(norm.training, norm.gate_scale != nullptr, [&]<bool kTraining, bool kOfX>() {
    if constexpr (kOfX) {
      run.template operator()<Gate::of_x, kTraining>();
    } else if (gate.data) {
      run.template operator()<Gate::given, kTraining>();
    } else {
      run.template operator()<Gate::none, kTraining>();
    }
  });
}
