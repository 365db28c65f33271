// The passes of a masked convolution on tensors in lanes, shared with masked_conv2d.
#pragma once

#include <optional>
#include <tuple>

#include "common/conv_geometry.h"
#include "cpu/lane_tensors.h"

namespace sparselth {

// Tensors in lanes with any halo; results have none. weight, bias and the weight's gradient: dense,
// contiguous, of the type that activations are computed in.
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

}  // namespace sparselth
