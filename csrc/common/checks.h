// What an op is given, compared with its other arguments before anything is read.
//
// Every op is reachable as torch.ops.sparselth.*, past the Python functions that say in words what
// is wrong. So every launcher, CPU and CUDA, begins with the checks of this file: some comparisons
// of integers in each call, none of values. The kernels in Python have the same rules in
// sparselth/ops/contract/arguments.py.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "common/conv_geometry.h"
#include "common/pattern.h"

namespace sparselth {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;

inline Ints shape_of(const Tensor& t) { return Ints(t.sizes().begin(), t.sizes().end()); }

// --- errors -----------------------------------------------------------------------------------
// Not STD_TORCH_CHECK: from torch 2.14 on its messages begin with a function and a source line.

template <class... Parts>
[[noreturn, gnu::noinline, gnu::cold]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream text;
  text << "sparselth::" << op << ": ";
  ((text << parts), ...);
  throw std::runtime_error(text.str());
}

template <class... Parts>
void expect(bool holds, const char* op, const Parts&... parts) {
  if (!holds) [[unlikely]]
    fail(op, parts...);
}

// Extents, written as (2, 3). Borrowed: those of a list in braces last for one expression.
struct Extents {
  const int64_t* data;
  int64_t count;

  Extents(const Ints& ints) : data(ints.data()), count(int64_t(ints.size())) {}
  Extents(const Tensor& t) {
    const auto sizes = t.sizes();
    data = sizes.data(), count = int64_t(sizes.size());
  }
  Extents(std::initializer_list<int64_t> list) : data(list.begin()), count(int64_t(list.size())) {}

  bool operator==(const Extents& other) const {
    if (count != other.count) return false;
    for (int64_t i = 0; i < count; ++i)
      if (data[i] != other.data[i]) return false;
    return true;
  }

  friend std::ostream& operator<<(std::ostream& out, const Extents& e) {
    out << '(';
    for (int64_t i = 0; i < e.count; ++i) out << (i ? ", " : "") << e.data[i];
    return out << (e.count == 1 ? ",)" : ")");
  }
};

// --- one tensor -------------------------------------------------------------------------------

inline void check_extents(const char* op, const char* name, const Tensor& t,
                          const Extents& wanted) {
  expect(Extents(t) == wanted, op, name, " must have shape ", wanted, ", got ", Extents(t));
}

inline void check_dims(const char* op, const char* name, const Tensor& t, int64_t dims) {
  expect(t.dim() == dims, op, name, " must have ", dims, " dimensions, got shape ", Extents(t));
}

inline void check_device(const char* op, const char* name, const Tensor& t, const Tensor& like) {
  expect(t.device() == like.device(), op, name, " is on another device than the first tensor");
}

// The dtype and device that all tensors of values share.
inline void check_like(const char* op, const char* name, const Tensor& t, const Tensor& like) {
  expect(t.scalar_type() == like.scalar_type(), op, name, " is ", toString(t.scalar_type()),
         ", the first tensor ", toString(like.scalar_type()));
  check_device(op, name, t, like);
}

inline void check_mask(const char* op, const Tensor& mask, const Extents& shape,
                       const Tensor& like) {
  expect(mask.scalar_type() == ScalarType::Bool, op, "a mask must be bool, got ",
         toString(mask.scalar_type()));
  check_extents(op, "a mask", mask, shape);
  check_device(op, "a mask", mask, like);
}

// One value per channel, or none.
inline void check_per_channel(const char* op, const char* name, const std::optional<Tensor>& values,
                              int64_t channels, const Tensor& like) {
  if (!values) return;
  check_extents(op, name, *values, {channels});
  check_like(op, name, *values, like);
}

// --- convolutions -----------------------------------------------------------------------------

// No extent, padded or spread out, is above it: the kernels count in 32 bits.
constexpr int64_t kMostPixels = int64_t(1) << 30;

inline void check_pair(const char* op, const char* name, const Ints& pair, int64_t least) {
  const auto fits = [&](int64_t value) { return value >= least && value <= kMostPixels; };
  expect(pair.size() == 2 && fits(pair[0]) && fits(pair[1]), op, name, " must be two ints in [",
         least, ", 2^30], got ", Extents(pair));
}

// The sizes of a convolution of x (N, C_in, H, W) by w (C_out, C_in / groups, kH, kW), which fit
// each other.
inline ConvGeometry checked_conv(const char* op, const Ints& x, const Ints& w, const Ints& stride,
                                 const Ints& padding, const Ints& dilation, int64_t groups) {
  expect(w.size() == 4, op, "a weight must be (C_out, C_in / groups, kH, kW), got shape ",
         Extents(w));
  check_pair(op, "stride", stride, 1);
  check_pair(op, "padding", padding, 0);
  check_pair(op, "dilation", dilation, 1);
  for (const Ints* extents : {&x, &w, &stride, &padding, &dilation})
    for (const int64_t extent : *extents)
      expect(extent >= 0 && extent <= kMostPixels, op, "an extent of ", extent,
             " is outside [0, 2^30]");
  expect(groups >= 1 && w[0] % groups == 0 && groups <= kMostPixels && x[1] == w[1] * groups, op,
         "channels do not fit: the input has ", x[1], ", the weight ", Extents(w),
         " with groups=", groups);
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t kernel = w[2 + axis], padded = x[2 + axis] + 2 * padding[axis];
    const int64_t reach = dilation[axis] * (kernel - 1) + 1;
    expect(kernel >= 1 && reach <= padded && padded <= kMostPixels, op, "a kernel of ", kernel,
           " with dilation ", dilation[axis], " does not fit into ", x[2 + axis],
           " pixels padded by ", padding[axis]);
  }
  return conv_geometry(x, w, stride, padding, dilation, groups);
}

inline void check_weight(const char* op, const Tensor& weight, const Tensor& mask,
                         const Tensor& like) {
  check_like(op, "weight", weight, like);
  check_mask(op, mask, weight, like);
}

// The shape of an output and of its gradient.
inline void check_output(const char* op, const Tensor& grad_output, const ConvGeometry& g) {
  check_extents(op, "grad_output", grad_output, {g.batch, g.c_out, g.out_height, g.out_width});
}

inline ConvGeometry checked_forward(const char* op, const Tensor& input, const Tensor& weight,
                                    const Tensor& mask, const std::optional<Tensor>& bias,
                                    const Ints& stride, const Ints& padding, const Ints& dilation,
                                    int64_t groups) {
  check_dims(op, "input", input, 4);
  const ConvGeometry g =
      checked_conv(op, shape_of(input), shape_of(weight), stride, padding, dilation, groups);
  check_weight(op, weight, mask, input);
  check_per_channel(op, "bias", bias, g.c_out, input);
  return g;
}

// The input's shape, of which a gradient only knows the extents.
inline Ints input_shape(const char* op, int64_t batch, const Tensor& weight, int64_t groups,
                        const Ints& input_hw) {
  check_dims(op, "weight", weight, 4);
  check_pair(op, "input_hw", input_hw, 0);
  expect(groups >= 1 && weight.size(0) % groups == 0, op, "groups=", groups,
         " does not divide a weight of shape ", Extents(weight));
  return {batch, weight.size(1) * groups, input_hw[0], input_hw[1]};
}

inline ConvGeometry checked_grad_input(const char* op, const Tensor& grad_output,
                                       const Tensor& weight, const Tensor& mask,
                                       const Ints& input_hw, const Ints& stride,
                                       const Ints& padding, const Ints& dilation, int64_t groups) {
  check_dims(op, "grad_output", grad_output, 4);
  const Ints x = input_shape(op, grad_output.size(0), weight, groups, input_hw);
  const ConvGeometry g = checked_conv(op, x, shape_of(weight), stride, padding, dilation, groups);
  check_weight(op, weight, mask, grad_output);
  check_output(op, grad_output, g);
  return g;
}

inline ConvGeometry checked_grad_weight(const char* op, const Tensor& grad_output,
                                        const Tensor& input, const Tensor& mask, const Ints& stride,
                                        const Ints& padding, const Ints& dilation, int64_t groups) {
  check_dims(op, "input", input, 4);
  const ConvGeometry g =
      checked_conv(op, shape_of(input), shape_of(mask), stride, padding, dilation, groups);
  check_like(op, "input", input, grad_output);
  check_mask(op, mask, mask, grad_output);
  check_output(op, grad_output, g);
  return g;
}

// --- lists of tensors -------------------------------------------------------------------------

// At least one tensor, all of one dtype and device.
inline void check_kind(const char* op, const char* name, const std::vector<Tensor>& list) {
  expect(!list.empty(), op, name, " is an empty list");
  for (const Tensor& t : list) check_like(op, name, t, list[0]);
}

// One tensor for each of `first`, of its shape, dtype and device.
inline void check_list(const char* op, const char* name, const std::vector<Tensor>& list,
                       const std::vector<Tensor>& first) {
  expect(list.size() == first.size(), op, "lists differ in length: ", name, " has ", list.size(),
         " tensors, the first list ", first.size());
  if (list.empty()) return;
  const ScalarType dtype = first[0].scalar_type();
  const auto device = first[0].device();
  for (size_t i = 0; i < list.size(); ++i) {  // optimizers hand on hundreds
    check_extents(op, name, list[i], first[i]);
    expect(list[i].scalar_type() == dtype && list[i].device() == device, op, name, "[", i,
           "] is of another dtype or on another device than the first tensor");
  }
}

// The same, or an empty list.
inline void check_optional_list(const char* op, const char* name, const std::vector<Tensor>& list,
                                const std::vector<Tensor>& first) {
  if (!list.empty()) check_list(op, name, list, first);
}

// One mask for each tensor of `first`, or none at all.
inline void check_masks(const char* op, const std::vector<Tensor>& masks,
                        const std::vector<Tensor>& first) {
  if (masks.empty()) return;
  expect(masks.size() == first.size(), op, "lists differ in length: ", masks.size(), " masks for ",
         first.size(), " tensors");
  for (size_t i = 0; i < masks.size(); ++i) check_mask(op, masks[i], first[i], first[0]);
}

// What the optimizers' steps share; states are checked by the caller.
inline void check_step(const char* op, const std::vector<Tensor>& weights,
                       const std::vector<Tensor>& grads, const std::vector<Tensor>& masks,
                       const std::vector<Tensor>& z, const std::vector<Tensor>& u) {
  if (!weights.empty()) check_kind(op, "weights", weights);
  check_list(op, "grads", grads, weights);
  check_masks(op, masks, weights);
  check_optional_list(op, "z", z, weights);
  check_optional_list(op, "u", u, weights);
  expect(z.size() == u.size(), op, "z and u go together: got ", z.size(), " and ", u.size());
}

// steps: a float32 scalar for each weight; or none, and `step` counts from 1.
inline void check_step_counts(const char* op, const std::vector<Tensor>& steps, int64_t step,
                              const std::vector<Tensor>& weights) {
  expect(steps.empty() ? step >= 1 || weights.empty() : steps.size() == weights.size(), op,
         "takes a step counted from 1, or one for each weight, got ", step, " and ", steps.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    expect(steps[i].dim() == 0 && steps[i].scalar_type() == ScalarType::Float, op,
           "steps must be float32 scalars, got ", toString(steps[i].scalar_type()), " of shape ",
           Extents(steps[i]));
    check_device(op, "a step", steps[i], weights[0]);
  }
}

inline std::vector<Axes> axes_of_all(const std::vector<Tensor>& tensors) {
  std::vector<Axes> all;
  for (const Tensor& t : tensors) all.push_back(axes_of(t.sizes()));
  return all;
}

// k: one count per selection, of no more groups than there are; N:M, which fixes what stays, has
// none.
inline void check_counts(const char* op, const Ints& k, const Pattern& pattern, bool global_,
                         const std::vector<Tensor>& tensors) {
  const size_t selections = pattern.kind == Pattern::kNOfM ? 0 : global_ ? 1 : tensors.size();
  expect(k.size() == selections, op, "k has ", k.size(), " counts for ", selections, " selections");
  if (selections == 0) return;
  int64_t all_groups = 0;
  for (size_t l = 0; l < tensors.size(); ++l) {
    const int64_t groups = Grouping(pattern, axes_of(tensors[l].sizes())).groups();
    all_groups += groups;
    if (global_) continue;
    expect(k[l] >= 0 && k[l] <= groups, op, "k[", l, "] = ", k[l], " is outside [0, ", groups, "]");
  }
  if (global_)
    expect(k[0] >= 0 && k[0] <= all_groups, op, "k[0] = ", k[0], " is outside [0, ", all_groups,
           "]");
}

// As many counts for each tensor, none above its size.
inline void check_overlap_counts(const char* op, const Ints& k, const std::vector<Tensor>& a) {
  expect(!k.empty() && k.size() % a.size() == 0, op, "takes as many counts for each tensor, got ",
         k.size(), " for ", a.size());
  const size_t asked = k.size() / a.size();
  for (size_t i = 0; i < k.size(); ++i) {
    const int64_t size = a[i / asked].numel();
    expect(k[i] >= 0 && k[i] <= size, op, "k[", i, "] = ", k[i], " is outside [0, ", size, "]");
  }
}

}  // namespace sparselth
