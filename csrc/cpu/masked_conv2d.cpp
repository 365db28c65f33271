// masked_conv2d and its two gradients on ordinary images: the passes on lanes between conversions.

#include <cstdint>
#include <optional>

#include "common/conv_taps.h"
#include "cpu/lanes_conv2d.h"
#include "cpu/tensors.h"
#include "cpu/to_lanes.h"

namespace sparselth {
namespace {

Tensor dense(const Tensor& t) { return torch::stable::contiguous(widened(t)); }

Tensor in_lanes(const Tensor& images, int64_t halo) {
  return to_lanes(images, running_lanes(widened_type(images.scalar_type())), halo);
}

// The images of a result in lanes, in the dtype and the layout of `like`.
Tensor as_images(const Tensor& input, int64_t batch, const Tensor& like) {
  const Ints shape = {batch, input.size(1), input.size(2), input.size(3)};
  Tensor images = empty_images(input, shape, input.scalar_type(), prefers_channels_last(like));
  from_lanes_into(input, 0, images);
  return narrowed(images, like.scalar_type());
}

Tensor masked_conv2d(const Tensor& input, const Tensor& weight, const Tensor& mask,
                     const std::optional<Tensor>& bias, const std::optional<Tensor>& plan,
                     const Ints& stride, const Ints& padding, const Ints& dilation,
                     int64_t groups) {
  const char* op = "masked_conv2d";
  const ConvGeometry g =
      checked_forward(op, input, weight, mask, bias, stride, padding, dilation, groups);
  const PlanHolder holder(op, plan, mask, g.taps(), groups, PlanHalf::by_output);
  const int64_t halo = forward_halo(g);
  const Tensor w = widened(weight);
  const Plan p = holder.plan_for(w);
  const Tensor y = conv_forward(g, in_lanes(input, halo), halo, as_read(w, p),
                                bias ? std::optional(dense(*bias)) : std::nullopt, p);
  return as_images(y, g.batch, input);
}

Tensor masked_conv2d_grad_input(const Tensor& grad_output, const Tensor& weight, const Tensor& mask,
                                const std::optional<Tensor>& plan, const Ints& input_hw,
                                const Ints& stride, const Ints& padding, const Ints& dilation,
                                int64_t groups) {
  const char* op = "masked_conv2d_grad_input";
  const ConvGeometry g = checked_grad_input(op, grad_output, weight, mask, input_hw, stride,
                                            padding, dilation, groups);
  const PlanHolder holder(op, plan, mask, g.taps(), groups, PlanHalf::by_input);
  const int64_t halo = grad_input_halo(g);
  const Tensor w = widened(weight);
  const Plan p = holder.plan_for(w);
  const Tensor dx = conv_grad_input(g, in_lanes(grad_output, halo), halo, as_read(w, p), p);
  return as_images(dx, g.batch, grad_output);
}

Tensor masked_conv2d_grad_weight(const Tensor& grad_output, const Tensor& input, const Tensor& mask,
                                 const std::optional<Tensor>& plan, const Ints& stride,
                                 const Ints& padding, const Ints& dilation, int64_t groups) {
  const char* op = "masked_conv2d_grad_weight";
  const ConvGeometry g =
      checked_grad_weight(op, grad_output, input, mask, stride, padding, dilation, groups);
  const PlanHolder holder(op, plan, mask, g.taps(), groups, PlanHalf::by_output);
  const int64_t halo = forward_halo(g);
  const Tensor dw =
      conv_grad_weight(g, in_lanes(grad_output, 0), 0, in_lanes(input, halo), halo, holder.plan());
  return narrowed(dw, input.scalar_type());
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("masked_conv2d", TORCH_BOX(&sparselth::masked_conv2d));
  m.impl("masked_conv2d_grad_input", TORCH_BOX(&sparselth::masked_conv2d_grad_input));
  m.impl("masked_conv2d_grad_weight", TORCH_BOX(&sparselth::masked_conv2d_grad_weight));
}
