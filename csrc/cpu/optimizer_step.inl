// What the optimizers' steps share: one pass over many tensors, whatever the rule.
//
// A rule updates a weight and its state tensors from the gradient, to which rho (w - z + u), ADMM's
// pull, has been added; where the mask is False it leaves zeros. z with u and masks may be absent.
// 16-bit tensors go through float32 a buffer at a time. All tensors make one list of tasks: small
// layers share a parallel region with large ones.

// A range of one tensor. mask, both z and u, and states that the rule does not use may be null.
template <class T, int kStates>
struct StepRange {
  T* w;
  const T* grad;
  T* states[kStates];
  const uint8_t* mask;
  const T *z, *u;
  int64_t count;
};

// Lists that may be empty: states that the rule does not use, masks, and z with u.
template <class T, int kStates>
struct StepLists {
  std::vector<T*> w;
  std::vector<const T*> grads;
  std::vector<T*> states[kStates];
  std::vector<const uint8_t*> masks;
  std::vector<const T*> z, u;
  std::vector<int64_t> sizes;

  StepRange<T, kStates> range(size_t l, int64_t begin, int64_t end) const {
    const auto of = [&](const auto& list) { return list.empty() ? nullptr : list[l] + begin; };
    StepRange<T, kStates> r{of(w), of(grads), {}, of(masks), of(z), of(u), end - begin};
    for (int s = 0; s < kStates; ++s) r.states[s] = of(states[s]);
    return r;
  }
};

// What a rule computes in.
template <class T>
using StepNumber = std::conditional_t<sizeof(T) == 2, float, T>;

// Rule: `kUsed`, of the states; `rho`; and step(w, states, grad, mask), on a vector or one value.
template <class T, int kStates, class Rule>
void step_range(const StepRange<T, kStates>& r, const Rule& rule) {
  if constexpr (sizeof(T) == 2) {
    constexpr int64_t kBuffer = 512;
    float buffers[4 + kStates][kBuffer];
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
      StepRange<float, kStates> wide{
          widened(0, r.w), widened(1, r.grad), {}, r.mask == nullptr ? nullptr : r.mask + begin,
          widened(2, r.z), widened(3, r.u),    n};
      for (int s = 0; s < kStates; ++s) wide.states[s] = widened(4 + s, r.states[s]);
      step_range(wide, rule);
      narrowed(wide.w, r.w);
      for (int s = 0; s < kStates; ++s) narrowed(wide.states[s], r.states[s]);
    }
  } else {
    constexpr int kN = kLanes<T>;
    int64_t i = 0;
    for (; i + kN <= r.count; i += kN) {
      Vec<T> weight = load(r.w + i), grad = load(r.grad + i), states[kStates]{};
      for (int s = 0; s < Rule::kUsed; ++s) states[s] = load(r.states[s] + i);
      if (r.z != nullptr) grad += rule.rho * (weight - load(r.z + i) + load(r.u + i));
      if (r.mask != nullptr) {
        rule.step(weight, states, grad, load_mask<T>(r.mask + i));
      } else {
        rule.step(weight, states, grad, Vec<T>{} == Vec<T>{});
      }
      store(r.w + i, weight);
      for (int s = 0; s < Rule::kUsed; ++s) store(r.states[s] + i, states[s]);
    }
    for (; i < r.count; ++i) {
      T grad = r.grad[i], states[kStates]{};
      for (int s = 0; s < Rule::kUsed; ++s) states[s] = r.states[s][i];
      if (r.z != nullptr) grad += rule.rho * (r.w[i] - r.z[i] + r.u[i]);
      rule.step(r.w[i], states, grad, r.mask == nullptr || r.mask[i] != 0);
      for (int s = 0; s < Rule::kUsed; ++s) r.states[s][i] = states[s];
    }
  }
}

// rule_of(l): the rule of the l-th tensor.
template <class T, int kStates, class RuleOf>
void step_all(const StepLists<T, kStates>& lists, const Threads& threads, const RuleOf& rule_of) {
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
    const Task& task = tasks[i];
    step_range(lists.range(task.tensor, task.begin, task.end), rule_of(task.tensor));
  });
}
