// Batch norm on activations in lanes on the CPU: tensors in, the sums of lanes_batch_norm.inl.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "cpu/lane_tensors.h"
#include "cpu/parallel.h"
#include "cpu/threads.h"

namespace sparselth {

#define SPARSELTH_ISA_FILE "cpu/lanes_batch_norm.inl"
#include "common/foreach_isa.h"

namespace {

// Running statistics are written where they lie.
template <class T>
T* in_place(const std::optional<Tensor>& running, int64_t channels, const char* op) {
  if (!running) return nullptr;
  expect(running->scalar_type() == kScalarType<T> && running->is_contiguous(), op,
         "takes contiguous running statistics of ", toString(kScalarType<T>));
  check_extents(op, "a running statistic", *running, {channels});
  return data<T>(*running);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> lanes_batch_norm(
    const Tensor& input, int64_t batch, int64_t input_halo, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& running_mean,
    const std::optional<Tensor>& running_var, double momentum, double eps,
    const std::optional<Tensor>& moments) {
  const char* op = "lanes_batch_norm";
  std::optional<std::tuple<Tensor, Tensor, Tensor, Tensor>> result;
  with_lane_type(input.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    using C = Compute<T>;
    const LaneOperand<T> x(input, input_halo, op);
    x.check_batch(batch, op);
    const int64_t channels = x.view().channels;
    const PerChannel<C> w(weight, channels, op), b(bias, channels, op);
    if (moments) {
      expect(moments->scalar_type() == ScalarType::Double && moments->is_contiguous(), op,
             "takes contiguous moments of float64");
      check_extents(op, "moments", *moments, {channels, 2});
    }
    const auto fresh = [&] { return torch::stable::new_empty(input, {channels}, kScalarType<C>); };
    const Tensor mean = fresh(), invstd = fresh(), scale = fresh(), shift = fresh();
    SPARSELTH_CALL_ISA(
        batch_norm_forward<T>, x.view(), batch,
        {w.data(), b.data(), moments ? data<double>(*moments) : nullptr,
         in_place<C>(running_mean, channels, op), in_place<C>(running_var, channels, op), momentum,
         eps, data<C>(mean), data<C>(invstd), data<C>(scale), data<C>(shift)},
        torch_threads(moments ? channels : input.numel()));
    result = {mean, invstd, scale, shift};
  });
  return *result;
}

std::tuple<Tensor, Tensor, Tensor> lanes_batch_norm_backward(
    const Tensor& grad, int64_t grad_halo, const std::optional<Tensor>& gate, int64_t gate_halo,
    const std::optional<Tensor>& gate_scale, const std::optional<Tensor>& gate_shift, double upper,
    const Tensor& input, int64_t batch, int64_t input_halo, const Tensor& mean,
    const Tensor& invstd, const std::optional<Tensor>& weight, bool training, int64_t halo) {
  const char* op = "lanes_batch_norm_backward";
  check_halo(op, halo);
  std::optional<std::tuple<Tensor, Tensor, Tensor>> result;
  with_lane_type(grad.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    const LaneOperand<T> dy(grad, grad_halo, op), g(gate, gate_halo, dy, op);
    const LaneOperand<T> x(input, input_halo, dy, op);
    x.check_batch(batch, op);
    const LaneView<const T>& in = x.view();
    using C = Compute<T>;
    const PerChannel<C> m(mean, in.channels, op), s(invstd, in.channels, op);
    const PerChannel<C> w(weight, in.channels, op);
    const PerChannel<C> gs(gate_scale, in.channels, op), gh(gate_shift, in.channels, op);
    expect(bool(gate_scale) == bool(gate_shift) && !(gate && gate_scale), op,
           "takes a gate, or its scale and shift, not both");
    const Tensor dx = empty_planes(grad, in.height, in.width, halo);
    const Tensor dw = torch::stable::new_empty(grad, {in.channels}, kScalarType<C>);
    const Tensor db = torch::stable::new_empty(grad, {in.channels}, kScalarType<C>);
    SPARSELTH_CALL_ISA(batch_norm_backward<T>, dy.view(), g.view(), in, batch,
                       {m.data(), s.data(), w.data(), gs.data(), gh.data(), C(upper), training},
                       lane_view<T>(dx, halo, in.lanes, op), data<C>(dw), data<C>(db),
                       torch_threads(dx.numel() * (gate ? 4 : 3)));
    result = {dx, dw, db};
  });
  return *result;
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("lanes_batch_norm", TORCH_BOX(&sparselth::lanes_batch_norm));
  m.impl("lanes_batch_norm_backward", TORCH_BOX(&sparselth::lanes_batch_norm_backward));
}
