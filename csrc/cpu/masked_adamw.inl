// One AdamW step on the kept weights, compiled per instruction set.
//
//   g = grad + rho * (w - z + u);   m <- beta1 * m + (1 - beta1) * g
//                                   v <- beta2 * v + (1 - beta2) * g^2
//   w <- (1 - lr * weight_decay) * w
//        - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//   w = m = v = 0 where the mask is False
//
// Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2. t counts the steps from 1. z and u are
// ADMM's, or absent; without masks everything is kept. Cost: one pass over weight, gradient, both
// moments and mask: 29 bytes per float32 weight, 37 with z and u.

#include "cpu/optimizer_step.inl"

struct AdamwSettings {
  double lr, beta1, beta2, eps, weight_decay, rho;
};

// `V` is a vector or one value, `M` its mask.
template <class T>
struct AdamwRule {
  static constexpr int kUsed = 2;
  T decay, step_size, root, beta1, rest1, beta2, rest2, eps, rho;

  AdamwRule(const AdamwSettings& s, double t)
      : decay(T(1 - s.lr * s.weight_decay)),
        step_size(T(s.lr / (1 - std::pow(s.beta1, t)))),
        root(T(1 / std::sqrt(1 - std::pow(s.beta2, t)))),
        beta1(T(s.beta1)),
        rest1(T(1 - s.beta1)),
        beta2(T(s.beta2)),
        rest2(T(1 - s.beta2)),
        eps(T(s.eps)),
        rho(T(s.rho)) {}

  static SPARSELTH_INLINE T square_root(T x) { return std::sqrt(x); }
  static SPARSELTH_INLINE Vec<T> square_root(Vec<T> x) { return square_roots<T>(x); }

  template <class V, class M>
  SPARSELTH_INLINE void step(V& w, V (&states)[2], V g, M mask) const {
    const V m = beta1 * states[0] + rest1 * g;
    const V v = beta2 * states[1] + rest2 * (g * g);
    const V moved = decay * w - step_size * m / (square_root(v) * root + eps);
    states[0] = mask ? m : V{};
    states[1] = mask ? v : V{};
    w = mask ? moved : V{};
  }
};

// counts: which step it is of each tensor.
template <class T>
void masked_adamw(const StepLists<T, 2>& lists, const std::vector<double>& counts,
                  const AdamwSettings& s, const Threads& threads) {
  std::vector<AdamwRule<StepNumber<T>>> rules;
  for (double count : counts) rules.emplace_back(s, count);
  step_all(lists, threads, [&](size_t l) -> const auto& { return rules[l]; });
}
