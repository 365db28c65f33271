// One SGD step on the kept weights, compiled per instruction set.
//
//   g = grad + weight_decay * w + rho * (w - z + u);   v <- momentum * v + (1 - dampening) * g
//   w <- w - lr * (nesterov ? g + momentum * v : v);   w = v = 0 where the mask is False
//
// z and u are ADMM's, or absent; without masks everything is kept. Cost: one pass over weight,
// gradient, momentum and mask: 21 bytes per float32 weight, 29 with z and u. 16-bit tensors go
// through float32 a buffer at a time.

struct SgdSettings {
  double lr, momentum, dampening, weight_decay;
  bool nesterov;
  double rho;
};

// A range of one tensor. mask, v, and both z and u may be null.
template <class T>
struct SgdRange {
  T* w;
  const T* grad;
  T* v;
  const uint8_t* mask;
  const T *z, *u;
  int64_t count;
};

// `V` is a vector or one value, `M` its mask.
template <class T, bool kMomentum, bool kNesterov>
struct SgdRule {
  T lr, momentum, undamped, weight_decay, rho;

  explicit SgdRule(const SgdSettings& s)
      : lr(T(s.lr)),
        momentum(T(s.momentum)),
        undamped(T(1 - s.dampening)),
        weight_decay(T(s.weight_decay)),
        rho(T(s.rho)) {}

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

  void run(const SgdRange<T>& r) const {
    constexpr int kN = kLanes<T>;
    int64_t i = 0;
    for (; i + kN <= r.count; i += kN) {
      Vec<T> weight = load(r.w + i), grad = load(r.grad + i);
      Vec<T> buffer = kMomentum ? load(r.v + i) : Vec<T>{};
      if (r.z != nullptr) grad += rho * (weight - load(r.z + i) + load(r.u + i));
      if (r.mask != nullptr) {
        step(weight, buffer, grad, load_mask<T>(r.mask + i));
      } else {
        step(weight, buffer, grad, Vec<T>{} == Vec<T>{});
      }
      store(r.w + i, weight);
      if constexpr (kMomentum) store(r.v + i, buffer);
    }
    for (T none{}; i < r.count; ++i) {
      T grad = r.grad[i];
      if (r.z != nullptr) grad += rho * (r.w[i] - r.z[i] + r.u[i]);
      step(r.w[i], kMomentum ? r.v[i] : none, grad, r.mask == nullptr || r.mask[i] != 0);
    }
  }
};

template <class T>
void sgd_range(const SgdRange<T>& r, const SgdSettings& s) {
  if constexpr (sizeof(T) == 2) {
    constexpr int64_t kBuffer = 512;
    float buffers[5][kBuffer];  // w, grad, v, z, u
    for (int64_t begin = 0; begin < r.count; begin += kBuffer) {
      const int64_t n = std::min(kBuffer, r.count - begin);
      const auto widened = [&](int which, const T* from) -> float* {
        if (from == nullptr) return nullptr;
        std::copy(from + begin, from + begin + n, buffers[which]);
        return buffers[which];
      };
      const auto narrowed = [&](const float* from, T* to) {
        if (to != nullptr) std::transform(from, from + n, to + begin, [](float x) { return T(x); });
      };
      const SgdRange<float> wide{widened(0, r.w),
                                 widened(1, r.grad),
                                 widened(2, r.v),
                                 r.mask == nullptr ? nullptr : r.mask + begin,
                                 widened(3, r.z),
                                 widened(4, r.u),
                                 n};
      sgd_range<float>(wide, s);
      narrowed(wide.w, r.w);
      narrowed(wide.v, r.v);
    }
  } else if (s.momentum == 0) {
    SgdRule<T, false, false>(s).run(r);
  } else if (s.nesterov) {
    SgdRule<T, true, true>(s).run(r);
  } else {
    SgdRule<T, true, false>(s).run(r);
  }
}

// Lists that may be empty: momenta, masks, and z with u.
template <class T>
struct SgdLists {
  std::vector<T*> w;
  std::vector<const T*> grads;
  std::vector<T*> momenta;
  std::vector<const uint8_t*> masks;
  std::vector<const T*> z, u;
  std::vector<int64_t> sizes;

  SgdRange<T> range(size_t l, int64_t begin, int64_t end) const {
    const auto of = [&](const auto& list) { return list.empty() ? nullptr : list[l] + begin; };
    return {of(w), of(grads), of(momenta), of(masks), of(z), of(u), end - begin};
  }
};

template <class T>
void masked_sgd(const SgdLists<T>& lists, const SgdSettings& s, const Threads& threads) {
  // One task list over all tensors: small layers share a parallel region with large ones.
  constexpr int64_t kRange = 1 << 14;
  struct Task {
    size_t tensor;
    int64_t begin, end;
  };
  std::vector<Task> tasks;
  for (size_t l = 0; l < lists.sizes.size(); ++l)
    for (int64_t begin = 0; begin < lists.sizes[l]; begin += kRange)
      tasks.push_back({l, begin, std::min(begin + kRange, lists.sizes[l])});
  threads.run(int64_t(tasks.size()), [&](int64_t i) {
    sgd_range<T>(lists.range(tasks[i].tensor, tasks[i].begin, tasks[i].end), s);
  });
}
