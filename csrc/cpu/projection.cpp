// topk_mask, admm_project_ and weight_overlap on the CPU: one selection, three uses.
//
// The three share select.inl and are compiled together, so that its code exists once per
// instruction set and dtype.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "cpu/parallel.h"
#include "cpu/tensor_lists.h"
#include "cpu/threads.h"

namespace sparselth {

#define SPARSELTH_ISA_FILE "cpu/projection_isa.inl"
#include "common/foreach_isa.h"

namespace {

void check_dtypes(const std::vector<Tensor>& tensors, const char* op) {
  for (const Tensor& t : tensors)
    STD_TORCH_CHECK(t.scalar_type() == tensors[0].scalar_type(), op,
                    " takes tensors of one dtype");
}

std::vector<Tensor> topk_mask(const std::vector<Tensor>& scores, const Ints& k, bool pooled) {
  check_dtypes(scores, "topk_mask");
  std::vector<Tensor> masks;
  for (const Tensor& score : scores)
    masks.push_back(torch::stable::empty(shape_of(score), ScalarType::Bool, std::nullopt,
                                         score.device()));
  if (scores.empty()) return masks;
  const FlatList from(scores);
  std::vector<uint8_t*> to;
  for (const Tensor& mask : masks) to.push_back(data<uint8_t>(mask));
  with_float_type(scores[0].scalar_type(), "topk_mask", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(topk_masks<T>, from.pointers<const T>(), from.sizes(), k, pooled, to,
                       torch_threads());
  });
  return masks;
}

Tensor admm_project_(const std::vector<Tensor>& weights, const std::vector<Tensor>& z,
                     const std::vector<Tensor>& u, const Ints& k, bool pooled) {
  check_dtypes(weights, "admm_project_");
  const Ints shape = {int64_t(weights.size()), 2};
  Tensor residuals = torch::stable::full(shape, 0.0, ScalarType::Double);
  const FlatList from(weights);
  FlatList targets(z), duals(u);
  with_float_type(weights[0].scalar_type(), "admm_project_", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(admm_project<T>, from.pointers<const T>(), targets.pointers<T>(),
                       duals.pointers<T>(), from.sizes(), k, pooled, data<double>(residuals),
                       torch_threads());
  });
  targets.write_back();
  duals.write_back();
  return residuals;
}

Tensor weight_overlap(const std::vector<Tensor>& a, const std::vector<Tensor>& b, const Ints& k) {
  check_dtypes(a, "weight_overlap");
  const Ints shape = {int64_t(a.size())};
  Tensor counts = torch::stable::full(shape, 0.0, ScalarType::Long);
  const FlatList left(a), right(b);
  with_float_type(a[0].scalar_type(), "weight_overlap", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(overlap_counts<T>, left.pointers<const T>(), right.pointers<const T>(),
                       left.sizes(), k, data<int64_t>(counts), torch_threads());
  });
  return counts;
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("topk_mask", TORCH_BOX(&sparselth::topk_mask));
  m.impl("admm_project_", TORCH_BOX(&sparselth::admm_project_));
  m.impl("weight_overlap", TORCH_BOX(&sparselth::weight_overlap));
}
