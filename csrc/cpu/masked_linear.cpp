// masked_linear and its two gradients: tensors in, kernels of masked_linear.inl, tensors out.

#include <algorithm>
#include <cstdint>
#include <functional>
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

Tensor flat(const Tensor& t) { return torch::stable::contiguous(widened(t)); }

Threads threads_for(const Plan& plan, int64_t batch) {
  return torch_threads(batch * (plan.nnz + plan.c_in() + plan.c_out));
}

Tensor masked_linear(const Tensor& input, const Tensor& weight, const Tensor& mask,
                     const std::optional<Tensor>& bias, const std::optional<Tensor>& plan) {
  const Tensor x = flat(input), w = flat(weight);
  const std::optional<Tensor> b = bias ? std::optional(flat(*bias)) : std::nullopt;
  Tensor y = torch::stable::new_empty(x, Ints{x.size(0), w.size(0)});
  if (y.numel() == 0) return narrowed(y, input.scalar_type());
  const PlanHolder holder(plan, mask, 1, 1);
  with_compute_type(x.scalar_type(), "masked_linear", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(linear_forward<T>, holder.plan(), x.size(0), data<T>(x), data<T>(w),
                       b ? data<T>(*b) : nullptr, data<T>(y),
                       threads_for(holder.plan(), x.size(0)));
  });
  return narrowed(y, input.scalar_type());
}

Tensor masked_linear_grad_input(const Tensor& grad_output, const Tensor& weight, const Tensor& mask,
                                const std::optional<Tensor>& plan) {
  const Tensor dy = flat(grad_output), w = flat(weight);
  Tensor dx = torch::stable::new_empty(dy, Ints{dy.size(0), w.size(1)});
  if (dx.numel() == 0) return narrowed(dx, grad_output.scalar_type());
  const PlanHolder holder(plan, mask, 1, 1);
  with_compute_type(dy.scalar_type(), "masked_linear_grad_input", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(linear_grad_input<T>, holder.plan(), dy.size(0), data<T>(dy), data<T>(w),
                       data<T>(dx), threads_for(holder.plan(), dy.size(0)));
  });
  return narrowed(dx, grad_output.scalar_type());
}

Tensor masked_linear_grad_weight(const Tensor& grad_output, const Tensor& input, const Tensor& mask,
                                 const std::optional<Tensor>& plan) {
  const Tensor dy = flat(grad_output), x = flat(input);
  if (dy.numel() == 0 || x.numel() == 0)
    return narrowed(torch::stable::new_zeros(x, shape_of(mask)), input.scalar_type());
  Tensor dw = torch::stable::new_empty(x, shape_of(mask));
  const PlanHolder holder(plan, mask, 1, 1);
  with_compute_type(x.scalar_type(), "masked_linear_grad_weight", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(linear_grad_weight<T>, holder.plan(), x.size(0), data<T>(dy), data<T>(x),
                       data<T>(dw), threads_for(holder.plan(), x.size(0)));
  });
  return narrowed(dw, input.scalar_type());
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("masked_linear", TORCH_BOX(&sparselth::masked_linear));
  m.impl("masked_linear_grad_input", TORCH_BOX(&sparselth::masked_linear_grad_input));
  m.impl("masked_linear_grad_weight", TORCH_BOX(&sparselth::masked_linear_grad_weight));
}
