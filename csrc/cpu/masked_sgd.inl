// One SGD step on the kept weights, compiled per instruction set.
//
//   g = grad + weight_decay * w;   v <- momentum * v + (1 - dampening) * g
//   w <- w - lr * (nesterov ? g + momentum * v : v);   w = v = 0 where the mask is False
//
// Cost: one pass over weight, gradient, momentum and mask. The loop is plain so that the compiler
// vectorises it, mask included, at the width of the instruction set.

struct SgdSettings {
  double lr, momentum, dampening, weight_decay;
  bool nesterov;
};

template <class T>
struct Widened {
  using type = float;
};
template <>
struct Widened<double> {
  using type = double;
};

template <class T, bool kMomentum, bool kNesterov>
void sgd_range(T* __restrict w, const T* __restrict grad, T* __restrict v,
               const uint8_t* __restrict mask, int64_t begin, int64_t end, const SgdSettings& s) {
  using C = typename Widened<T>::type;
  const C lr = C(s.lr), momentum = C(s.momentum), undamped = C(1 - s.dampening);
  const C weight_decay = C(s.weight_decay);
  for (int64_t i = begin; i < end; ++i) {
    const C weight = C(w[i]);
    const C g = C(grad[i]) + weight_decay * weight;
    C step = g;
    if constexpr (kMomentum) {
      const C buffer = momentum * C(v[i]) + undamped * g;
      v[i] = mask[i] ? T(buffer) : T(0);
      step = kNesterov ? g + momentum * buffer : buffer;
    }
    w[i] = mask[i] ? T(weight - lr * step) : T(0);
  }
}

template <class T>
void masked_sgd(const std::vector<T*>& w, const std::vector<const T*>& grads,
                const std::vector<T*>& momenta, const std::vector<const uint8_t*>& masks,
                const std::vector<int64_t>& sizes, const SgdSettings& s, const Threads& threads) {
  // One task list over all tensors: small layers share a parallel region with large ones.
  constexpr int64_t kRange = 1 << 14;
  struct Task {
    size_t tensor;
    int64_t begin, end;
  };
  std::vector<Task> tasks;
  for (size_t l = 0; l < sizes.size(); ++l)
    for (int64_t begin = 0; begin < sizes[l]; begin += kRange)
      tasks.push_back({l, begin, std::min(begin + kRange, sizes[l])});
  threads.run(int64_t(tasks.size()), [&](int64_t i) {
    const auto [l, begin, end] = tasks[i];
    if (s.momentum == 0)
      sgd_range<T, false, false>(w[l], grads[l], nullptr, masks[l], begin, end, s);
    else if (s.nesterov)
      sgd_range<T, true, true>(w[l], grads[l], momenta[l], masks[l], begin, end, s);
    else
      sgd_range<T, true, false>(w[l], grads[l], momenta[l], masks[l], begin, end, s);
  });
}
