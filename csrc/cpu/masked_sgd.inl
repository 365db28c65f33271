// One SGD step on the kept weights, compiled per instruction set.
//
//   g = grad + weight_decay * w + rho * (w - z + u);   v <- momentum * v + (1 - dampening) * g
//   w <- w - lr * (nesterov ? g + momentum * v : v);   w = v = 0 where the mask is False
//
// z and u are ADMM's, or absent; without masks everything is kept. Cost: one pass over weight,
// gradient, momentum and mask: 21 bytes per float32 weight, 29 with z and u.

#include "cpu/optimizer_step.inl"

struct SgdSettings {
  double lr, momentum, dampening, weight_decay;
  bool nesterov;
  double rho;
};

// `V` is a vector or one value, `M` its mask.
template <class T, bool kMomentum, bool kNesterov>
struct SgdRule {
  static constexpr int kUsed = kMomentum ? 1 : 0;
  T lr, momentum, undamped, weight_decay, rho;

  explicit SgdRule(const SgdSettings& s)
      : lr(T(s.lr)),
        momentum(T(s.momentum)),
        undamped(T(1 - s.dampening)),
        weight_decay(T(s.weight_decay)),
        rho(T(s.rho)) {}

  template <class V, class M>
  SPARSELTH_INLINE void step(V& w, V (&states)[1], V grad, M mask) const {
    const V g = grad + weight_decay * w;
    V direction = g;
    if constexpr (kMomentum) {
      const V v = momentum * states[0] + undamped * g;
      direction = kNesterov ? V(g + momentum * v) : v;
      states[0] = mask ? v : V{};
    }
    w = mask ? V(w - lr * direction) : V{};
  }
};

template <class T>
void masked_sgd(const StepLists<T, 1>& lists, const SgdSettings& s, const Threads& threads) {
  using C = StepNumber<T>;
  const auto run = [&](const auto& rule) {
    step_all(lists, threads, [&](size_t) -> const auto& { return rule; });
  };
  if (s.momentum == 0) {
    run(SgdRule<C, false, false>(s));
  } else if (s.nesterov) {
    run(SgdRule<C, true, true>(s));
  } else {
    run(SgdRule<C, true, false>(s));
  }
}
