// masked_linear and its two gradients: tensors in, kernels of masked_linear.inl, tensors out.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/cache.h"
#include "common/isa.h"
#include "common/plan.h"
#include "common/workspace.h"
#include "cpu/parallel.h"
#include "cpu/tensors.h"
#include "cpu/threads.h"

namespace sparselth {

#define SPARSELTH_ISA_FILE "cpu/masked_linear.inl"
#include "common/foreach_isa.h"

namespace {

Threads threads_for(const Plan& plan, int64_t batch) {
  return torch_threads(batch * (plan.nnz + plan.c_in() + plan.c_out));
}

// Calls f(S{}, W{}) with what activations and the weight, or its gradient, are stored as.
template <class F>
void with_stored_types(const Tensor& activations, const Tensor& weight, const char* op,
                       const F& f) {
  const ScalarType stored = activations.scalar_type();
  const bool same = weight.scalar_type() == stored;
  if (stored == ScalarType::BFloat16) return same ? f(Bf16{}, Bf16{}) : f(Bf16{}, float{});
  if (stored == ScalarType::Half) return same ? f(Fp16{}, Fp16{}) : f(Fp16{}, float{});
  with_compute_type(stored, op, [&](auto type) { f(type, type); });
}

// What the passes share: rows of samples, a weight's shape and type, and its mask.
void check_rows(const char* op, const char* name, const Tensor& t, int64_t channels) {
  expect(t.dim() == 2 && t.size(1) == channels, op, name, " must be (samples, ", channels,
         "), got ", Extents(t));
}

// A weight or bias is of the activations' type, or of what those are computed in.
void check_parameter(const char* op, const char* name, const Tensor& t, const Tensor& activations) {
  const ScalarType stored = activations.scalar_type(), computed = widened_type(stored);
  if (stored == computed) return check_like(op, name, t, activations);
  expect(t.scalar_type() == stored || t.scalar_type() == computed, op, name, " must be ",
         toString(stored), " or ", toString(computed), " for activations of ", toString(stored),
         ", got ", toString(t.scalar_type()));
  check_device(op, name, t, activations);
}

void check_parameters(const char* op, const Tensor& weight, const Tensor& mask,
                      const std::optional<Tensor>& bias, const Tensor& activations) {
  check_parameter(op, "weight", weight, activations);
  check_mask(op, mask, weight, activations);
  if (!bias) return;
  check_extents(op, "bias", *bias, {weight.size(0)});
  check_parameter(op, "bias", *bias, activations);
}

Tensor masked_linear(const Tensor& input, const Tensor& weight, const Tensor& mask,
                     const std::optional<Tensor>& bias, const std::optional<Tensor>& plan) {
  const char* op = "masked_linear";
  check_dims(op, "weight", weight, 2);
  check_rows(op, "input", input, weight.size(1));
  check_parameters(op, weight, mask, bias, input);
  const PlanHolder holder(op, plan, mask, 1, 1, PlanHalf::by_output);
  const Tensor x = torch::stable::contiguous(input), w = torch::stable::contiguous(weight);
  const std::optional<Tensor> b =
      bias ? std::optional(torch::stable::contiguous(widened(*bias))) : std::nullopt;
  Tensor y = torch::stable::new_empty(x, Ints{x.size(0), w.size(0)});
  if (y.numel() == 0) return y;
  with_stored_types(x, w, op, [&]<class S, class W>(S, W) {
    const Compute<S>* added = b ? data<Compute<S>>(*b) : nullptr;
    SPARSELTH_CALL_ISA(linear_forward, holder.plan(), x.size(0), data<S>(x), data<W>(w), added,
                       data<S>(y), threads_for(holder.plan(), x.size(0)));
  });
  return y;
}

Tensor masked_linear_grad_input(const Tensor& grad_output, const Tensor& weight, const Tensor& mask,
                                const std::optional<Tensor>& plan) {
  const char* op = "masked_linear_grad_input";
  check_dims(op, "weight", weight, 2);
  check_rows(op, "grad_output", grad_output, weight.size(0));
  check_parameters(op, weight, mask, std::nullopt, grad_output);
  const PlanHolder holder(op, plan, mask, 1, 1, PlanHalf::by_input);
  const Tensor dy = torch::stable::contiguous(grad_output), w = torch::stable::contiguous(weight);
  Tensor dx = torch::stable::new_empty(dy, Ints{dy.size(0), w.size(1)});
  if (dx.numel() == 0) return dx;
  with_stored_types(dy, w, op, [&]<class S, class W>(S, W) {
    SPARSELTH_CALL_ISA(linear_grad_input, holder.plan(), dy.size(0), data<S>(dy), data<W>(w),
                       data<S>(dx), threads_for(holder.plan(), dy.size(0)));
  });
  return dx;
}

Tensor masked_linear_grad_weight(const Tensor& grad_output, const Tensor& input, const Tensor& mask,
                                 const std::optional<Tensor>& plan, bool wide) {
  const char* op = "masked_linear_grad_weight";
  check_dims(op, "mask", mask, 2);
  check_rows(op, "grad_output", grad_output, mask.size(0));
  check_rows(op, "input", input, mask.size(1));
  check_like(op, "input", input, grad_output);
  check_mask(op, mask, mask, grad_output);
  expect(input.size(0) == grad_output.size(0), op, "input has ", input.size(0),
         " samples, grad_output ", grad_output.size(0));
  const PlanHolder holder(op, plan, mask, 1, 1, PlanHalf::by_output);
  const Tensor dy = torch::stable::contiguous(grad_output), x = torch::stable::contiguous(input);
  const ScalarType stored = x.scalar_type(), wanted = wide ? widened_type(stored) : stored;
  if (dy.numel() == 0 || x.numel() == 0) return torch::stable::new_zeros(x, shape_of(mask), wanted);
  Tensor dw = torch::stable::new_empty(x, shape_of(mask), wanted);
  with_stored_types(x, dw, op, [&]<class S, class W>(S, W) {
    SPARSELTH_CALL_ISA(linear_grad_weight, holder.plan(), x.size(0), data<S>(dy), data<S>(x),
                       data<W>(dw), threads_for(holder.plan(), x.size(0)));
  });
  return dw;
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("masked_linear", TORCH_BOX(&sparselth::masked_linear));
  m.impl("masked_linear_grad_input", TORCH_BOX(&sparselth::masked_linear_grad_input));
  m.impl("masked_linear_grad_weight", TORCH_BOX(&sparselth::masked_linear_grad_weight));
}
