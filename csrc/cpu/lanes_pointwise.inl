// Pointwise maps of activations in lanes, compiled per instruction set.
//
//   scale_add_relu     y  = relu?(a_scale a + a_shift + b_scale b + b_shift), per channel
//   relu_backward_add  dx = (0 where gate <= 0 or gate >= upper else dy) + other
//
// A ReLU may cut at an upper limit as well (ReLU6); NaN is none.
//
// A batch norm, the shortcut's batch norm, their sum and its ReLU are one such pass. Cost: each
// operand is read once and the result written once; nothing else touches memory.
//
// T: what activations are stored as; rules are in what they are computed in.

#include "cpu/lane_planes.inl"
#include "cpu/scale_add_rule.inl"

template <class T, bool kGate, bool kOther>
struct ReluBackwardRule {
  Vec<T> upper;

  SPARSELTH_INLINE Vec<T> operator()(const Vec<T>* in) const {
    Vec<T> grad = in[0];
    if constexpr (kGate) grad = gated<T>(grad, in[1], upper);
    if constexpr (kOther) grad += in[kGate ? 2 : 1];
    return grad;
  }
};

template <class T>
void scale_add_relu(const LaneView<const T>& a, const LaneView<const T>& b, int64_t batch,
                    const ScalesAndShifts<Compute<T>>& scales, bool relu, const LaneView<T>& out,
                    const Threads& threads) {
  with_flags(b.data != nullptr, relu, [&]<bool kAdd, bool kRelu>() {
    const auto rule_of = [&](int64_t c) {
      return ScaleAddRule<Compute<T>, kAdd, kRelu>(scales, c);
    };
    if constexpr (kAdd) {
      pointwise<T, 2>({a, b}, batch, out, threads, rule_of);
    } else {
      pointwise<T, 1>({a}, batch, out, threads, rule_of);
    }
  });
}

template <class T>
void relu_backward_add(const LaneView<const T>& grad, const LaneView<const T>& gate,
                       const LaneView<const T>& other, Compute<T> upper, const LaneView<T>& out,
                       const Threads& threads) {
  // Every lane counts as an image: zeros beyond the batch stay zeros.
  const int64_t lanes = grad.bundles * kLanes<T>;
  with_flags(gate.data != nullptr, other.data != nullptr, [&]<bool kGate, bool kOther>() {
    const auto rule_of = [&](int64_t) {
      return ReluBackwardRule<Compute<T>, kGate, kOther>{broadcast(upper)};
    };
    if constexpr (kGate && kOther) {
      pointwise<T, 3>({grad, gate, other}, lanes, out, threads, rule_of);
    } else if constexpr (kGate || kOther) {
      pointwise<T, 2>({grad, kGate ? gate : other}, lanes, out, threads, rule_of);
    } else {
      pointwise<T, 1>({grad}, lanes, out, threads, rule_of);
    }
  });
}
