// lanes_conv2d and its two gradients: tensors in, kernels of lanes_conv2d.inl, tensors out.

#include "cpu/lanes_conv2d.h"

#include <algorithm>
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
#include "cpu/parallel.h"
#include "cpu/strips.h"
#include "cpu/tensors.h"
#include "cpu/threads.h"
#include "cpu/to_lanes.h"

namespace sparselth {

#define SPARSELTH_ISA_FILE "cpu/lanes_conv2d.inl"
#include "common/foreach_isa.h"

namespace {

// Offsets into one bundle are 32 bits wide.
template <class T>
LaneView<T> addressable(const Tensor& t, int64_t halo) {
  const LaneView<T> b = lane_view<T>(t, halo, "masked_conv2d");
  expect(b.bundle_size() <= std::numeric_limits<uint32_t>::max(), "masked_conv2d",
         "one bundle of images has more than 2^32 values; use the dense convolution");
  return b;
}

}  // namespace

Tensor conv_forward(const ConvGeometry& g, const Tensor& x, int64_t x_halo, const Tensor& weight,
                    const std::optional<Tensor>& bias, const Plan& plan) {
  const char* op = "masked_conv2d";
  Tensor y = empty_lanes(x, x.size(0), g.c_out, g.out_height, g.out_width, 0, x.size(4));
  if (y.numel() == 0) return y;
  with_lane_type(x.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    using C = Compute<T>;
    const C* added = bias ? data<C>(*bias) : nullptr;
    const Threads threads = conv_threads(g, plan);
    if constexpr (kIsNarrow<T>) {
      SPARSELTH_CALL_ISA(conv_forward_in_strips<T>, g, plan, {lane_view<const T>(x, x_halo, op)},
                         data<C>(weight), added, lane_view<T>(y, 0, op), nullptr, threads);
    } else {
      const int64_t halo = std::max(x_halo, forward_halo(g));
      const Tensor wide = with_halo(x, x_halo, halo);
      SPARSELTH_CALL_ISA(conv_forward<T>, g, plan, addressable<T>(wide, halo), data<T>(weight),
                         added, lane_view<T>(y, 0, op), threads);
    }
  });
  return y;
}

Tensor conv_grad_input(const ConvGeometry& g, const Tensor& dy, int64_t dy_halo,
                       const Tensor& weight, const Plan& plan) {
  const char* op = "masked_conv2d_grad_input";
  Tensor dx = empty_lanes(dy, dy.size(0), g.c_in, g.height, g.width, 0, dy.size(4));
  if (dx.numel() == 0) return dx;
  with_lane_type(dy.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    using C = Compute<T>;
    const LaneView<T> to = lane_view<T>(dx, 0, op);
    const Threads threads = conv_threads(g, plan);
    if constexpr (kIsNarrow<T>) {
      const LaneView<const T> shape{nullptr,  to.bundles, to.channels, to.height,
                                    to.width, 0,          to.lanes};
      SPARSELTH_CALL_ISA(conv_backward_in_strips<T>, g, plan, {lane_view<const T>(dy, dy_halo, op)},
                         {shape}, data<C>(weight), to, nullptr, threads);
    } else {
      const int64_t halo = std::max(dy_halo, grad_input_halo(g));
      const Tensor wide = with_halo(dy, dy_halo, halo);
      SPARSELTH_CALL_ISA(conv_grad_input<T>, g, plan, addressable<T>(wide, halo), data<T>(weight),
                         to, threads);
    }
  });
  return dx;
}

Tensor conv_grad_weight(const ConvGeometry& g, const Tensor& dy, int64_t dy_halo, const Tensor& x,
                        int64_t x_halo, const Plan& plan) {
  const char* op = "masked_conv2d_grad_weight";
  const Ints shape = {g.c_out, g.c_in / g.groups, g.kernel_h, g.kernel_w};
  const ScalarType computed = widened_type(x.scalar_type());
  Tensor dw = empty_images(x, shape, computed, plan.channels_last);
  if (dw.numel() == 0) return dw;
  if (dy.numel() == 0) return torch::stable::zero_(dw);
  with_lane_type(x.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    using C = Compute<T>;
    const Threads threads = conv_threads(g, plan);
    if constexpr (kIsNarrow<T>) {
      const C* no_weight = nullptr;
      SPARSELTH_CALL_ISA(conv_backward_in_strips<T>, g, plan, {lane_view<const T>(dy, dy_halo, op)},
                         {lane_view<const T>(x, x_halo, op)}, no_weight, LaneView<T>{}, data<C>(dw),
                         threads);
    } else {
      const int64_t halo = std::max(x_halo, forward_halo(g));
      const Tensor wide = with_halo(x, x_halo, halo);
      SPARSELTH_CALL_ISA(conv_grad_weight<T>, g, plan, lane_view<T>(dy, dy_halo, op),
                         addressable<T>(wide, halo), data<T>(dw), threads);
    }
  });
  return dw;
}

std::tuple<Tensor, Tensor> conv_backward(const ConvGeometry& g, const Tensor& dy, int64_t dy_halo,
                                         const Tensor& x, int64_t x_halo, const Tensor& weight,
                                         const Plan& plan) {
  const char* op = "masked_conv2d_backward";
  if (dy.numel() == 0 || x.numel() == 0 || weight.numel() == 0)
    return {conv_grad_input(g, dy, dy_halo, weight, plan),
            conv_grad_weight(g, dy, dy_halo, x, x_halo, plan)};
  Tensor dx = empty_lanes(dy, dy.size(0), g.c_in, g.height, g.width, 0, dy.size(4));
  const Tensor dw =
      empty_images(x, shape_of(weight), widened_type(x.scalar_type()), plan.channels_last);
  with_lane_type(x.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    using C = Compute<T>;
    const LaneView<T> to = lane_view<T>(dx, 0, op);
    const Threads threads = conv_threads(g, plan);
    if constexpr (kIsNarrow<T>) {
      SPARSELTH_CALL_ISA(conv_backward_in_strips<T>, g, plan, {lane_view<const T>(dy, dy_halo, op)},
                         {lane_view<const T>(x, x_halo, op)}, data<C>(weight), to, data<C>(dw),
                         threads);
    } else {
      const int64_t dy_wide = std::max(dy_halo, grad_input_halo(g));
      const int64_t x_wide = std::max(x_halo, forward_halo(g));
      const Tensor wide_dy = with_halo(dy, dy_halo, dy_wide), wide_x = with_halo(x, x_halo, x_wide);
      SPARSELTH_CALL_ISA(conv_backward<T>, g, plan, addressable<T>(wide_dy, dy_wide),
                         addressable<T>(wide_x, x_wide), data<T>(weight), to, data<T>(dw), threads);
    }
  });
  return {dx, dw};
}

namespace {

Tensor lanes_conv2d(const Tensor& input, int64_t batch, int64_t halo, const Tensor& weight,
                    const Tensor& mask, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& plan, const Ints& stride, const Ints& padding,
                    const Ints& dilation, int64_t groups) {
  const char* op = "lanes_conv2d";
  const Ints x_shape = checked_images(op, input, batch, halo);
  const ConvGeometry g =
      checked_conv(op, x_shape, shape_of(weight), stride, padding, dilation, groups);
  check_lane_parameters(op, weight, mask, bias, g.c_out, input);
  const PlanHolder holder(op, plan, mask, g.taps(), groups, PlanHalf::by_output);
  const Plan p = holder.plan_for(weight);
  const std::optional<Tensor> b =
      bias ? std::optional(torch::stable::contiguous(*bias)) : std::nullopt;
  return conv_forward(g, torch::stable::contiguous(input), halo, as_read(weight, p), b, p);
}

Tensor lanes_conv2d_grad_input(const Tensor& grad_output, int64_t batch, int64_t halo,
                               const Tensor& weight, const Tensor& mask,
                               const std::optional<Tensor>& plan, const Ints& input_hw,
                               const Ints& stride, const Ints& padding, const Ints& dilation,
                               int64_t groups) {
  const char* op = "lanes_conv2d_grad_input";
  const Ints x_shape = input_shape(op, batch, weight, groups, input_hw);
  const ConvGeometry g =
      checked_conv(op, x_shape, shape_of(weight), stride, padding, dilation, groups);
  check_lane_parameters(op, weight, mask, std::nullopt, g.c_out, grad_output);
  check_lane_grad(op, grad_output, halo, g);
  const PlanHolder holder(op, plan, mask, g.taps(), groups, PlanHalf::by_input);
  const Plan p = holder.plan_for(weight);
  return conv_grad_input(g, torch::stable::contiguous(grad_output), halo, as_read(weight, p), p);
}

Tensor lanes_conv2d_grad_weight(const Tensor& grad_output, int64_t grad_halo, const Tensor& input,
                                int64_t batch, int64_t halo, const Tensor& mask,
                                const std::optional<Tensor>& plan, const Ints& stride,
                                const Ints& padding, const Ints& dilation, int64_t groups) {
  const char* op = "lanes_conv2d_grad_weight";
  const Ints x_shape = checked_images(op, input, batch, halo);
  const ConvGeometry g =
      checked_conv(op, x_shape, shape_of(mask), stride, padding, dilation, groups);
  check_like(op, "input", input, grad_output);
  check_mask(op, mask, mask, grad_output);
  check_lane_grad(op, grad_output, grad_halo, g);
  const PlanHolder holder(op, plan, mask, g.taps(), groups, PlanHalf::by_output);
  return conv_grad_weight(g, torch::stable::contiguous(grad_output), grad_halo,
                          torch::stable::contiguous(input), halo, holder.plan());
}

std::tuple<Tensor, Tensor> lanes_conv2d_backward(const Tensor& grad_output, int64_t grad_halo,
                                                 const Tensor& input, int64_t batch, int64_t halo,
                                                 const Tensor& weight, const Tensor& mask,
                                                 const std::optional<Tensor>& plan,
                                                 const Ints& stride, const Ints& padding,
                                                 const Ints& dilation, int64_t groups) {
  const char* op = "lanes_conv2d_backward";
  const Ints x_shape = checked_images(op, input, batch, halo);
  const ConvGeometry g =
      checked_conv(op, x_shape, shape_of(weight), stride, padding, dilation, groups);
  check_like(op, "input", input, grad_output);
  check_lane_parameters(op, weight, mask, std::nullopt, g.c_out, grad_output);
  check_lane_grad(op, grad_output, grad_halo, g);
  const PlanHolder holder(op, plan, mask, g.taps(), groups, PlanHalf::by_input);
  const Plan p = holder.plan_for(weight);
  return conv_backward(g, torch::stable::contiguous(grad_output), grad_halo,
                       torch::stable::contiguous(input), halo, as_read(weight, p), p);
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("lanes_conv2d", TORCH_BOX(&sparselth::lanes_conv2d));
  m.impl("lanes_conv2d_grad_input", TORCH_BOX(&sparselth::lanes_conv2d_grad_input));
  m.impl("lanes_conv2d_grad_weight", TORCH_BOX(&sparselth::lanes_conv2d_grad_weight));
  m.impl("lanes_conv2d_backward", TORCH_BOX(&sparselth::lanes_conv2d_backward));
}
