// masked_conv2d and its two gradients: tensors in, kernels of masked_conv2d.inl, tensors out.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/conv_geometry.h"
#include "common/isa.h"
#include "common/plan.h"
#include "common/workspace.h"
#include "cpu/parallel.h"
#include "cpu/tensors.h"
#include "cpu/threads.h"

namespace sparselth {

// Images of one tensor: (N, C, H, W) in memory as NCHW, or as NHWC if channels_last.
template <class T>
struct Images {
  T* data;
  bool channels_last;
};

#define SPARSELTH_ISA_FILE "cpu/masked_conv2d.inl"
#include "common/foreach_isa.h"

namespace {

ConvGeometry geometry(const Ints& x, const Ints& w, int64_t out_height, int64_t out_width,
                      const Ints& stride, const Ints& padding, const Ints& dilation,
                      int64_t groups) {
  return {x[0], x[1],      x[2],      x[3],       w[0],       out_height,  out_width,   w[2],
          w[3], stride[0], stride[1], padding[0], padding[1], dilation[0], dilation[1], groups};
}

int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding,
                    int64_t dilation) {
  return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

// A tensor the kernels can walk: float or double, NCHW or NHWC without gaps.
Tensor walkable(const Tensor& t) {
  const Tensor wide = widened(t);
  return wide.is_contiguous() || is_channels_last(wide) ? wide : torch::stable::contiguous(wide);
}

template <class T>
Images<T> images(const Tensor& t) {
  // With one pixel both layouts are the same memory; channels are then the longer run.
  const bool one_pixel = t.size(2) * t.size(3) == 1;
  return {data<std::remove_const_t<T>>(t), !t.is_contiguous() || one_pixel};
}

Threads threads_for(const ConvGeometry& g, const Plan& plan) {
  const int64_t pixels = g.batch * g.out_height * g.out_width;
  return torch_threads(plan.nnz * pixels + g.batch * g.c_in * g.height * g.width +
                       g.c_out * pixels);
}

Tensor masked_conv2d(const Tensor& input, const Tensor& weight, const Tensor& mask,
                     const std::optional<Tensor>& bias, const std::optional<Tensor>& plan,
                     const Ints& stride, const Ints& padding, const Ints& dilation,
                     int64_t groups) {
  const int64_t p = output_size(input.size(2), weight.size(2), stride[0], padding[0], dilation[0]);
  const int64_t q = output_size(input.size(3), weight.size(3), stride[1], padding[1], dilation[1]);
  const ConvGeometry g =
      geometry(shape_of(input), shape_of(weight), p, q, stride, padding, dilation, groups);
  const Tensor x = walkable(input), w = torch::stable::contiguous(widened(weight));
  const std::optional<Tensor> b =
      bias ? std::optional(torch::stable::contiguous(widened(*bias))) : std::nullopt;
  Tensor y =
      empty_images(x, {g.batch, g.c_out, p, q}, x.scalar_type(), prefers_channels_last(input));
  if (y.numel() == 0) return narrowed(y, input.scalar_type());
  const PlanHolder holder(plan, mask, g.taps(), groups);
  with_compute_type(x.scalar_type(), "masked_conv2d", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(conv_forward<T>, g, holder.plan(), images<const T>(x), data<T>(w),
                       b ? data<T>(*b) : nullptr, images<T>(y), threads_for(g, holder.plan()));
  });
  return narrowed(y, input.scalar_type());
}

Tensor masked_conv2d_grad_input(const Tensor& grad_output, const Tensor& weight, const Tensor& mask,
                                const std::optional<Tensor>& plan, const Ints& input_hw,
                                const Ints& stride, const Ints& padding, const Ints& dilation,
                                int64_t groups) {
  const Ints x_shape = {grad_output.size(0), weight.size(1) * groups, input_hw[0], input_hw[1]};
  const ConvGeometry g = geometry(x_shape, shape_of(weight), grad_output.size(2),
                                  grad_output.size(3), stride, padding, dilation, groups);
  const Tensor dy = walkable(grad_output), w = torch::stable::contiguous(widened(weight));
  Tensor dx = empty_images(dy, x_shape, dy.scalar_type(), prefers_channels_last(grad_output));
  if (dx.numel() == 0) return narrowed(dx, grad_output.scalar_type());
  const PlanHolder holder(plan, mask, g.taps(), groups);
  with_compute_type(dy.scalar_type(), "masked_conv2d_grad_input", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(conv_grad_input<T>, g, holder.plan(), images<const T>(dy), data<T>(w),
                       images<T>(dx), threads_for(g, holder.plan()));
  });
  return narrowed(dx, grad_output.scalar_type());
}

Tensor masked_conv2d_grad_weight(const Tensor& grad_output, const Tensor& input, const Tensor& mask,
                                 const std::optional<Tensor>& plan, const Ints& stride,
                                 const Ints& padding, const Ints& dilation, int64_t groups) {
  const ConvGeometry g = geometry(shape_of(input), shape_of(mask), grad_output.size(2),
                                  grad_output.size(3), stride, padding, dilation, groups);
  const Tensor dy = walkable(grad_output), x = walkable(input);
  Tensor dw = torch::stable::new_zeros(x, shape_of(mask));
  if (dw.numel() == 0 || dy.numel() == 0) return narrowed(dw, input.scalar_type());
  const PlanHolder holder(plan, mask, g.taps(), groups);
  with_compute_type(x.scalar_type(), "masked_conv2d_grad_weight", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(conv_grad_weight<T>, g, holder.plan(), images<const T>(dy),
                       images<const T>(x), data<T>(dw), threads_for(g, holder.plan()));
  });
  return narrowed(dw, input.scalar_type());
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("masked_conv2d", TORCH_BOX(&sparselth::masked_conv2d));
  m.impl("masked_conv2d_grad_input", TORCH_BOX(&sparselth::masked_conv2d_grad_input));
  m.impl("masked_conv2d_grad_weight", TORCH_BOX(&sparselth::masked_conv2d_grad_weight));
}
