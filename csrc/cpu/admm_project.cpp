// admm_project_ on the CPU: tensors in, the kernel of admm_project.inl.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "common/pattern.h"
#include "cpu/parallel.h"
#include "cpu/tensor_lists.h"
#include "cpu/threads.h"

namespace sparselth {

#define SPARSELTH_ISA_FILE "cpu/admm_project.inl"
#include "common/foreach_isa.h"

namespace {

Tensor admm_project_(const std::vector<Tensor>& weights, const std::vector<Tensor>& z,
                     const std::vector<Tensor>& u, const Ints& k, bool global_, const Ints& pattern,
                     bool allow_nonfinite) {
  const char* op = "admm_project_";
  check_kind(op, "weights", weights);
  check_list(op, "z", z, weights);
  check_list(op, "u", u, weights);
  const Pattern kept(pattern);
  check_counts(op, k, kept, global_, weights);
  const Ints shape = {int64_t(weights.size()), 2};
  Tensor residuals = torch::stable::full(shape, 0.0, ScalarType::Double);
  const FlatList from(weights);
  FlatList targets(z), duals(u);
  with_float_type(weights[0].scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(
        admm_project<T>,
        {from.pointers<const T>(), targets.pointers<T>(), duals.pointers<T>(), axes_of_all(weights),
         from.sizes(), k, global_, allow_nonfinite, kept, data<double>(residuals)},
        torch_threads(from.total()));
  });
  targets.write_back();
  duals.write_back();
  return residuals;
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("admm_project_", TORCH_BOX(&sparselth::admm_project_));
}
