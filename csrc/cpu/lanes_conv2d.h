// The passes of a masked convolution on tensors in lanes, shared with masked_conv2d, and what their
// ops have in common.
#pragma once

#include <optional>
#include <tuple>

#include "common/conv_geometry.h"
#include "common/plan.h"
#include "cpu/lane_tensors.h"
#include "cpu/parallel.h"

namespace sparselth {

// Tensors in lanes with any halo; results have none. weight, bias and the weight's gradient: dense,
// of the type that activations are computed in; contiguous, or the weights as the plan says.
Tensor conv_forward(const ConvGeometry& g, const Tensor& x, int64_t x_halo, const Tensor& weight,
                    const std::optional<Tensor>& bias, const Plan& plan);
Tensor conv_grad_input(const ConvGeometry& g, const Tensor& dy, int64_t dy_halo,
                       const Tensor& weight, const Plan& plan);
Tensor conv_grad_weight(const ConvGeometry& g, const Tensor& dy, int64_t dy_halo, const Tensor& x,
                        int64_t x_halo, const Plan& plan);
// The gradients of input and weight.
std::tuple<Tensor, Tensor> conv_backward(const ConvGeometry& g, const Tensor& dy, int64_t dy_halo,
                                         const Tensor& x, int64_t x_halo, const Tensor& weight,
                                         const Plan& plan);

inline Threads conv_threads(const ConvGeometry& g, const Plan& plan) {
  const int64_t pixels = g.batch * g.out_height * g.out_width;
  return torch_threads(plan.nnz * pixels + g.c_out * pixels);
}

// What a gradient of the output must be: bundles of so many images of the output's size.
inline void check_lane_grad(const char* op, const Tensor& grad, int64_t grad_halo,
                            const ConvGeometry& g) {
  const Ints shape = checked_images(op, grad, g.batch, grad_halo);
  const Ints wanted = {g.batch, g.c_out, g.out_height, g.out_width};
  expect(shape == wanted, op, "grad_output must hold images ", Extents(wanted), ", got ",
         Extents(shape));
}

// A weight, and a bias if there is one, are of what activations are computed in.
inline void check_lane_parameters(const char* op, const Tensor& weight, const Tensor& mask,
                                  const std::optional<Tensor>& bias, int64_t c_out,
                                  const Tensor& lanes) {
  const ScalarType computed = widened_type(lanes.scalar_type());
  const auto check = [&](const char* name, const Tensor& t) {
    expect(t.scalar_type() == computed, op, name, " must be ", toString(computed),
           " for activations of ", toString(lanes.scalar_type()), ", got ",
           toString(t.scalar_type()));
    check_device(op, name, t, lanes);
  };
  check("weight", weight);
  check_mask(op, mask, weight, lanes);
  if (!bias) return;
  check("bias", *bias);
  check_extents(op, "bias", *bias, {c_out});
}

}  // namespace sparselth
