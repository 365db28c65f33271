// Pointwise maps of activations in lanes on the CPU: tensors in, the rules of
// lanes_pointwise.inl.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <type_traits>
#include <utility>

#include "common/isa.h"
#include "cpu/lane_tensors.h"
#include "cpu/parallel.h"
#include "cpu/threads.h"

namespace sparselth {

#define SPARSELTH_ISA_FILE "cpu/lanes_pointwise.inl"
#include "common/foreach_isa.h"

namespace {

Tensor lanes_scale_add_relu(const Tensor& a, int64_t batch, int64_t a_halo,
                            const std::optional<Tensor>& a_scale,
                            const std::optional<Tensor>& a_shift, const std::optional<Tensor>& b,
                            int64_t b_halo, const std::optional<Tensor>& b_scale,
                            const std::optional<Tensor>& b_shift, bool relu, double upper,
                            int64_t halo) {
  const char* op = "lanes_scale_add_relu";
  check_halo(op, halo);
  std::optional<Tensor> result;
  with_lane_type(a.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    const LaneOperand<T> left(a, a_halo, op), right(b, b_halo, left, op);
    left.check_batch(batch, op);
    const LaneView<const T>& in = left.view();
    using C = Compute<T>;
    const PerChannel<C> as(a_scale, in.channels, op), ah(a_shift, in.channels, op);
    const PerChannel<C> bs(b_scale, in.channels, op), bh(b_shift, in.channels, op);
    result = empty_planes(a, in.height, in.width, halo);
    SPARSELTH_CALL_ISA(scale_add_relu<T>, in, right.view(), batch,
                       {as.data(), ah.data(), bs.data(), bh.data(), C(upper)}, relu,
                       lane_view<T>(*result, halo, in.lanes, op),
                       torch_threads(result->numel() * (b ? 3 : 2)));
  });
  return *result;
}

Tensor lanes_relu_backward_add(const Tensor& grad, int64_t grad_halo,
                               const std::optional<Tensor>& gate, int64_t gate_halo, double upper,
                               const std::optional<Tensor>& other, int64_t other_halo,
                               int64_t halo) {
  const char* op = "lanes_relu_backward_add";
  check_halo(op, halo);
  std::optional<Tensor> result;
  with_lane_type(grad.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    const LaneOperand<T> dy(grad, grad_halo, op);
    const LaneOperand<T> g(gate, gate_halo, dy, op), o(other, other_halo, dy, op);
    const LaneView<const T>& in = dy.view();
    result = empty_planes(grad, in.height, in.width, halo);
    SPARSELTH_CALL_ISA(relu_backward_add<T>, in, g.view(), o.view(), Compute<T>(upper),
                       lane_view<T>(*result, halo, in.lanes, op),
                       torch_threads(result->numel() * (2 + gate.has_value() + other.has_value())));
  });
  return *result;
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("lanes_scale_add_relu", TORCH_BOX(&sparselth::lanes_scale_add_relu));
  m.impl("lanes_relu_backward_add", TORCH_BOX(&sparselth::lanes_relu_backward_add));
}
