// relu?(a_scale a + a_shift + b_scale b + b_shift), per channel: a batch norm, the shortcut's,
// their sum and its ReLU. A ReLU may cut at an upper limit as well (ReLU6); NaN is none.

// Per channel; nullptr is a scale of one, a shift of zero.
template <class T>
struct ScalesAndShifts {
  const T *a_scale, *a_shift, *b_scale, *b_shift;
  T upper;
};

template <class T, bool kAdd, bool kRelu>
struct ScaleAddRule {
  Vec<T> a_scale, b_scale, shift, upper;

  ScaleAddRule(const ScalesAndShifts<T>& s, int64_t c)
      : a_scale(broadcast(s.a_scale ? s.a_scale[c] : T(1))),
        b_scale(broadcast(s.b_scale ? s.b_scale[c] : T(1))),
        shift(broadcast((s.a_shift ? s.a_shift[c] : T(0)) +
                        (kAdd && s.b_shift ? s.b_shift[c] : T(0)))),
        upper(broadcast(s.upper)) {}

  SPARSELTH_INLINE Vec<T> operator()(const Vec<T>* in) const {
    Vec<T> y = in[0] * a_scale + shift;
    if constexpr (kAdd) y += in[1] * b_scale;
    if constexpr (kRelu) {
      y = y < 0 ? Vec<T>{} : y;  // NaN is not below zero and stays, as in torch
      y = y > upper ? upper : y;
    }
    return y;
  }
};
