// Batch norm on blocked activations on the CPU: tensors in, the sums of blocked_batch_norm.inl.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "cpu/blocked_tensors.h"
#include "cpu/parallel.h"
#include "cpu/threads.h"

namespace sparselth {

#define SPARSELTH_ISA_FILE "cpu/blocked_batch_norm.inl"
#include "common/foreach_isa.h"

namespace {

std::tuple<Tensor, Tensor> blocked_moments(const Tensor& blocked, int64_t batch,
                                           int64_t blocked_halo) {
  const char* op = "blocked_moments";
  std::optional<std::tuple<Tensor, Tensor>> result;
  with_blocked_type(blocked.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    const BlockedOperand<T> x(blocked, blocked_halo, op);
    x.check_batch(batch, op);
    const Tensor mean = torch::stable::new_empty(blocked, {x.view().channels});
    const Tensor variance = torch::stable::new_empty(blocked, {x.view().channels});
    SPARSELTH_CALL_ISA(batch_moments<T>, x.view(), batch, data<T>(mean), data<T>(variance),
                       torch_threads(blocked.numel()));
    result = {mean, variance};
  });
  return *result;
}

std::tuple<Tensor, Tensor, Tensor> blocked_batch_norm_backward(
    const Tensor& grad, int64_t grad_halo, const std::optional<Tensor>& gate, int64_t gate_halo,
    const Tensor& blocked, int64_t batch, int64_t blocked_halo, const Tensor& mean,
    const Tensor& invstd, const std::optional<Tensor>& weight, bool training, int64_t halo) {
  const char* op = "blocked_batch_norm_backward";
  std::optional<std::tuple<Tensor, Tensor, Tensor>> result;
  with_blocked_type(grad.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    const BlockedOperand<T> dy(grad, grad_halo, op), g(gate, gate_halo, dy, op);
    const BlockedOperand<T> x(blocked, blocked_halo, dy, op);
    x.check_batch(batch, op);
    const Blocked<const T>& in = x.view();
    const PerChannel<T> m(mean, in.channels, op), s(invstd, in.channels, op);
    const PerChannel<T> w(weight, in.channels, op);
    const Tensor dx = empty_planes(grad, in.height, in.width, halo);
    const Tensor dw = torch::stable::new_empty(grad, {in.channels});
    const Tensor db = torch::stable::new_empty(grad, {in.channels});
    SPARSELTH_CALL_ISA(batch_norm_backward<T>, dy.view(), g.view(), in, batch,
                       {m.data(), s.data(), w.data(), training},
                       blocked_view<T>(dx, halo, in.lanes, op), data<T>(dw), data<T>(db),
                       torch_threads(dx.numel() * (gate ? 4 : 3)));
    result = {dx, dw, db};
  });
  return *result;
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("blocked_moments", TORCH_BOX(&sparselth::blocked_moments));
  m.impl("blocked_batch_norm_backward", TORCH_BOX(&sparselth::blocked_batch_norm_backward));
}
