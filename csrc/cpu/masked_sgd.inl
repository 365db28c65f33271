// One SGD step on the kept weights, compiled per instruction set.
//
//   g = grad + weight_decay * w;   v <- momentum * v + (1 - dampening) * g
//   w <- w - lr * (nesterov ? g + momentum * v : v);   w = v = 0 where the mask is False
//
// Cost: one pass over weight, gradient, momentum and mask: 21 bytes per float32 weight. 16-bit
// tensors go through float32 a buffer at a time.

struct SgdSettings {
  double lr, momentum, dampening, weight_decay;
  bool nesterov;
};

// `V` is a vector or one value, `M` its mask.
template <class T, bool kMomentum, bool kNesterov>
struct SgdRule {
  T lr, momentum, undamped, weight_decay;

  explicit SgdRule(const SgdSettings& s)
      : lr(T(s.lr)),
        momentum(T(s.momentum)),
        undamped(T(1 - s.dampening)),
        weight_decay(T(s.weight_decay)) {}

  template <class V, class M>
  SPARSELTH_INLINE void step(V& w, V& v, V grad, M mask) const {
    const V g = grad + weight_decay * w;
    V direction = g;
    if constexpr (kMomentum) {
      v = momentum * v + undamped * g;
      direction = kNesterov ? V(g + momentum * v) : v;
      v = mask ? v : V{};
    }
    w = mask ? V(w - lr * direction) : V{};
  }
};

template <class T, bool kMomentum, bool kNesterov>
void sgd_range(T* w, const T* grad, T* v, const uint8_t* mask, int64_t count,
               const SgdSettings& settings) {
  const SgdRule<T, kMomentum, kNesterov> rule(settings);
  constexpr int kN = kLanes<T>;
  int64_t i = 0;
  for (; i + kN <= count; i += kN) {
    Vec<T> weight = load(w + i), buffer = kMomentum ? load(v + i) : Vec<T>{};
    rule.step(weight, buffer, load(grad + i), load_mask<T>(mask + i));
    store(w + i, weight);
    if constexpr (kMomentum) store(v + i, buffer);
  }
  for (T none{}; i < count; ++i) rule.step(w[i], kMomentum ? v[i] : none, grad[i], mask[i] != 0);
}

template <class T>
void sgd_range(T* w, const T* grad, T* v, const uint8_t* mask, int64_t count,
               const SgdSettings& s) {
  if constexpr (sizeof(T) == 2) {
    constexpr int64_t kBuffer = 512;
    float wide_w[kBuffer], wide_grad[kBuffer], wide_v[kBuffer];
    for (int64_t begin = 0; begin < count; begin += kBuffer) {
      const int64_t n = std::min(kBuffer, count - begin);
      std::copy(w + begin, w + begin + n, wide_w);
      std::copy(grad + begin, grad + begin + n, wide_grad);
      if (s.momentum != 0) std::copy(v + begin, v + begin + n, wide_v);
      sgd_range<float>(wide_w, wide_grad, wide_v, mask + begin, n, s);
      std::transform(wide_w, wide_w + n, w + begin, [](float x) { return T(x); });
      if (s.momentum != 0)
        std::transform(wide_v, wide_v + n, v + begin, [](float x) { return T(x); });
    }
  } else if (s.momentum == 0) {
    sgd_range<T, false, false>(w, grad, v, mask, count, s);
  } else if (s.nesterov) {
    sgd_range<T, true, true>(w, grad, v, mask, count, s);
  } else {
    sgd_range<T, true, false>(w, grad, v, mask, count, s);
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
    T* momentum = momenta.empty() ? nullptr : momenta[l] + begin;
    sgd_range<T>(w[l] + begin, grads[l] + begin, momentum, masks[l] + begin, end - begin, s);
  });
}
