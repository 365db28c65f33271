// topk_mask on the CPU: tensors in, the kernel of topk_mask.inl.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "common/pattern.h"
#include "cpu/parallel.h"
#include "cpu/tensor_lists.h"
#include "cpu/threads.h"

namespace sparselth {

#define SPARSELTH_ISA_FILE "cpu/topk_mask.inl"
#include "common/foreach_isa.h"

namespace {

std::tuple<std::vector<Tensor>, Tensor> topk_mask(const std::vector<Tensor>& scores, const Ints& k,
                                                  bool global_, const Ints& pattern) {
  const char* op = "topk_mask";
  check_kind(op, "scores", scores);
  const Pattern kept(pattern);
  check_counts(op, k, kept, global_, scores);
  std::vector<Tensor> masks;
  for (const Tensor& score : scores)
    masks.push_back(
        torch::stable::empty(shape_of(score), ScalarType::Bool, std::nullopt, score.device()));
  Tensor nonfinite = torch::stable::empty({int64_t(scores.size())}, ScalarType::Long);
  const FlatList from(scores);
  std::vector<uint8_t*> to;
  for (const Tensor& mask : masks) to.push_back(data<uint8_t>(mask));
  with_float_type(scores[0].scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(topk_masks<T>,
                       {from.pointers<const T>(), axes_of_all(scores), from.sizes(), k, global_,
                        kept, to, data<int64_t>(nonfinite)},
                       torch_threads(from.total()));
  });
  return {masks, nonfinite};
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("topk_mask", TORCH_BOX(&sparselth::topk_mask));
}
