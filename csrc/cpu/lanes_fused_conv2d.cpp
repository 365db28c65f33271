// lanes_fused_conv2d and its backward: tensors in, strips of lane_strips.inl, tensors out.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/cache.h"
#include "common/conv_taps.h"
#include "common/isa.h"
#include "common/plan.h"
#include "common/workspace.h"
#include "cpu/lanes_conv2d.h"
#include "cpu/parallel.h"
#include "cpu/strips.h"
#include "cpu/tensors.h"
#include "cpu/threads.h"

namespace sparselth {

#define SPARSELTH_ISA_FILE "cpu/lanes_conv2d.inl"
#include "common/foreach_isa.h"

namespace {

std::tuple<Tensor, Tensor, Tensor> lanes_fused_conv2d(
    const Tensor& a, int64_t batch, int64_t a_halo, const std::optional<Tensor>& a_scale,
    const std::optional<Tensor>& a_shift, const std::optional<Tensor>& b, int64_t b_halo,
    const std::optional<Tensor>& b_scale, const std::optional<Tensor>& b_shift, bool relu,
    double upper, bool keep, const Tensor& weight, const Tensor& mask,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& plan, const Ints& stride,
    const Ints& padding, const Ints& dilation, int64_t groups, bool moments) {
  const char* op = "lanes_fused_conv2d";
  const Ints x_shape = checked_images(op, a, batch, a_halo);
  const ConvGeometry g =
      checked_conv(op, x_shape, shape_of(weight), stride, padding, dilation, groups);
  check_lane_parameters(op, weight, mask, bias, g.c_out, a);
  expect(g.c_out > 0 && a.numel() > 0, op, "takes images and weights that are not empty");
  const PlanHolder holder(op, plan, mask, g.taps(), groups, PlanHalf::by_output);
  const Plan p = holder.plan_for(weight);
  const Tensor w = as_read(weight, p);
  const std::optional<Tensor> added =
      bias ? std::optional(torch::stable::contiguous(*bias)) : std::nullopt;
  const Tensor y = empty_lanes(a, a.size(0), g.c_out, g.out_height, g.out_width, 0, a.size(4));
  const Tensor x =
      keep ? empty_planes(a, g.height, g.width, 0) : torch::stable::new_empty(a, {0, 0, 0, 0, 0});
  const Ints sizes = moments ? Ints{g.c_out, 2} : Ints{0, 2};
  const Tensor found = torch::stable::new_empty(a, sizes, ScalarType::Double);
  with_lane_type(a.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    using C = Compute<T>;
    const LaneOperand<T> left(a, a_halo, op), right(b, b_halo, left, op);
    const PerChannel<C> as(a_scale, g.c_in, op), ah(a_shift, g.c_in, op);
    const PerChannel<C> bs(b_scale, g.c_in, op), bh(b_shift, g.c_in, op);
    SPARSELTH_CALL_ISA(conv_forward_in_strips<T>, g, p,
                       {left.view(),
                        right.view(),
                        batch,
                        {as.data(), ah.data(), bs.data(), bh.data(), C(upper)},
                        relu,
                        keep ? lane_view<T>(x, 0, op) : LaneView<T>{}},
                       data<C>(w), added ? data<C>(*added) : nullptr, lane_view<T>(y, 0, op),
                       moments ? data<double>(found) : nullptr, conv_threads(g, p));
  });
  return {y, x, found};
}

std::tuple<Tensor, Tensor> lanes_fused_conv2d_backward(
    const Tensor& grad_output, int64_t grad_halo, const Tensor& a, int64_t batch, int64_t a_halo,
    const std::optional<Tensor>& a_scale, const std::optional<Tensor>& a_shift, bool relu,
    double upper, const Tensor& weight, const Tensor& mask, const std::optional<Tensor>& plan,
    const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups) {
  const char* op = "lanes_fused_conv2d_backward";
  const Ints x_shape = checked_images(op, a, batch, a_halo);
  const ConvGeometry g =
      checked_conv(op, x_shape, shape_of(weight), stride, padding, dilation, groups);
  check_like(op, "a", a, grad_output);
  check_lane_parameters(op, weight, mask, std::nullopt, g.c_out, grad_output);
  check_lane_grad(op, grad_output, grad_halo, g);
  expect(g.c_out > 0 && a.numel() > 0, op, "takes images and weights that are not empty");
  const PlanHolder holder(op, plan, mask, g.taps(), groups, PlanHalf::by_input);
  const Plan p = holder.plan_for(weight);
  const Tensor w = as_read(weight, p);
  const Tensor dx = empty_planes(a, g.height, g.width, 0);
  const Tensor dw =
      empty_images(a, shape_of(weight), widened_type(a.scalar_type()), p.channels_last);
  with_lane_type(a.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    using C = Compute<T>;
    const LaneOperand<T> grad(grad_output, grad_halo, op), left(a, a_halo, op);
    const PerChannel<C> as(a_scale, g.c_in, op), ah(a_shift, g.c_in, op);
    SPARSELTH_CALL_ISA(
        conv_backward_in_strips<T>, g, p, {grad.view(), {}, batch},
        {left.view(), {}, batch, {as.data(), ah.data(), nullptr, nullptr, C(upper)}, relu},
        data<C>(w), lane_view<T>(dx, 0, op), data<C>(dw), conv_threads(g, p));
  });
  return {dx, dw};
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("lanes_fused_conv2d", TORCH_BOX(&sparselth::lanes_fused_conv2d));
  m.impl("lanes_fused_conv2d_backward", TORCH_BOX(&sparselth::lanes_fused_conv2d_backward));
}
