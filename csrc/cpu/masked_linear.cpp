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

// What the passes share: rows of samples, a weight's shape, and its mask.
void check_rows(const char* op, const char* name, const Tensor& t, int64_t channels) {
  expect(t.dim() == 2 && t.size(1) == channels, op, name, " must be (samples, ", channels,
         "), got ", Extents(t));
}

Tensor masked_linear(const Tensor& input, const Tensor& weight, const Tensor& mask,
                     const std::optional<Tensor>& bias, const std::optional<Tensor>& plan) {
  const char* op = "masked_linear";
  check_dims(op, "weight", weight, 2);
  check_rows(op, "input", input, weight.size(1));
  check_weight(op, weight, mask, input);
  check_per_channel(op, "bias", bias, weight.size(0), input);
  const PlanHolder holder(op, plan, mask, 1, 1, PlanHalf::by_output);
  const Tensor x = flat(input), w = flat(weight);
  const std::optional<Tensor> b = bias ? std::optional(flat(*bias)) : std::nullopt;
  Tensor y = torch::stable::new_empty(x, Ints{x.size(0), w.size(0)});
  if (y.numel() == 0) return narrowed(y, input.scalar_type());
  with_compute_type(x.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(linear_forward<T>, holder.plan(), x.size(0), data<T>(x), data<T>(w),
                       b ? data<T>(*b) : nullptr, data<T>(y),
                       threads_for(holder.plan(), x.size(0)));
  });
  return narrowed(y, input.scalar_type());
}

Tensor masked_linear_grad_input(const Tensor& grad_output, const Tensor& weight, const Tensor& mask,
                                const std::optional<Tensor>& plan) {
  const char* op = "masked_linear_grad_input";
  check_dims(op, "weight", weight, 2);
  check_rows(op, "grad_output", grad_output, weight.size(0));
  check_weight(op, weight, mask, grad_output);
  const PlanHolder holder(op, plan, mask, 1, 1, PlanHalf::by_input);
  const Tensor dy = flat(grad_output), w = flat(weight);
  Tensor dx = torch::stable::new_empty(dy, Ints{dy.size(0), w.size(1)});
  if (dx.numel() == 0) return narrowed(dx, grad_output.scalar_type());
  with_compute_type(dy.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(linear_grad_input<T>, holder.plan(), dy.size(0), data<T>(dy), data<T>(w),
                       data<T>(dx), threads_for(holder.plan(), dy.size(0)));
  });
  return narrowed(dx, grad_output.scalar_type());
}

Tensor masked_linear_grad_weight(const Tensor& grad_output, const Tensor& input, const Tensor& mask,
                                 const std::optional<Tensor>& plan) {
  const char* op = "masked_linear_grad_weight";
  check_dims(op, "mask", mask, 2);
  check_rows(op, "grad_output", grad_output, mask.size(0));
  check_rows(op, "input", input, mask.size(1));
  check_like(op, "input", input, grad_output);
  check_mask(op, mask, mask, grad_output);
  expect(input.size(0) == grad_output.size(0), op, "input has ", input.size(0),
         " samples, grad_output ", grad_output.size(0));
  const PlanHolder holder(op, plan, mask, 1, 1, PlanHalf::by_output);
  const Tensor dy = flat(grad_output), x = flat(input);
  if (dy.numel() == 0 || x.numel() == 0)
    return narrowed(torch::stable::new_zeros(x, shape_of(mask)), input.scalar_type());
  Tensor dw = torch::stable::new_empty(x, shape_of(mask));
  with_compute_type(x.scalar_type(), op, [&](auto type) {
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
