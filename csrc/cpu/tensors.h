// Small helpers between stable tensors and the kernels' plain data.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <vector>

#include "common/checks.h"
#include "common/layout.h"
#include "common/plan.h"

namespace sparselth {

inline bool is_reduced(ScalarType dtype) {
  return dtype == ScalarType::Half || dtype == ScalarType::BFloat16;
}

// Kernels compute in float or double; 16-bit tensors are widened first.
inline ScalarType widened_type(ScalarType dtype) {
  return is_reduced(dtype) ? ScalarType::Float : dtype;
}

inline Tensor widened(const Tensor& t) {
  return is_reduced(t.scalar_type()) ? torch::stable::to(t, ScalarType::Float) : t;
}

inline Tensor narrowed(const Tensor& t, ScalarType dtype) {
  return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
}

inline Tensor empty_images(const Tensor& like, const Ints& shape, ScalarType dtype,
                           bool channels_last) {
  return torch::stable::empty(shape, dtype, std::nullopt, like.device(), std::nullopt,
                              channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                                            : torch::headeronly::MemoryFormat::Contiguous);
}

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

// Which rows of a plan a pass reads.
enum class PlanHalf { by_output, by_input };

// The plan tensor, checked, or one built here and kept alive.
class PlanHolder {
 public:
  PlanHolder(const char* op, const std::optional<Tensor>& given, const Tensor& mask, int64_t taps,
             int64_t groups, PlanHalf half) {
    if (given.has_value()) {
      expect(given->scalar_type() == ScalarType::Int, op, "a plan must be int32, got ",
             toString(given->scalar_type()));
      check_device(op, "the plan", *given, mask);
      tensor_ = torch::stable::contiguous(*given);
      check_plan(data<int32_t>(*tensor_), tensor_->numel(), mask.size(0), mask.size(1), taps,
                 groups, half == PlanHalf::by_input);
    } else {
      const Tensor dense = torch::stable::contiguous(mask);
      built_ = build_plan(data<uint8_t>(dense), mask.size(0), mask.size(1), taps, groups);
    }
  }
  Plan plan() const { return Plan(tensor_ ? data<int32_t>(*tensor_) : built_.data()); }
  // For kernels that read `weight`, and write its gradient, as `as_read` leaves it.
  Plan plan_for(const Tensor& weight) const {
    Plan made = plan();
    made.channels_last = made.groups == 1 && prefers_channels_last(weight);
    return made;
  }

 private:
  std::optional<Tensor> tensor_;
  std::vector<int32_t> built_;
};

// A weight as kernels read it by `plan`: copied only where it lies in neither of the two layouts.
inline Tensor as_read(const Tensor& weight, const Plan& plan) {
  return plan.channels_last ? weight : torch::stable::contiguous(weight);
}

// Calls f(T{}) with the compute type of `dtype`: float or double.
template <class F>
void with_compute_type(ScalarType dtype, const char* op, const F& f) {
  if (dtype == ScalarType::Float) return f(float{});
  if (dtype == ScalarType::Double) return f(double{});
  fail(op, "takes float16, bfloat16, float32 or float64, got ", toString(dtype));
}

}  // namespace sparselth
