// weight_overlap on the CPU: tensors in, the kernel of weight_overlap.inl.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "cpu/parallel.h"
#include "cpu/tensor_lists.h"
#include "cpu/threads.h"

namespace sparselth {

#define SPARSELTH_ISA_FILE "cpu/weight_overlap.inl"
#include "common/foreach_isa.h"

namespace {

Tensor weight_overlap(const std::vector<Tensor>& a, const std::vector<Tensor>& b,
                      const std::vector<Tensor>& masks, const Ints& k) {
  check_dtypes(a, "weight_overlap");
  STD_TORCH_CHECK(!a.empty() && k.size() % a.size() == 0,
                  "weight_overlap takes as many counts for each tensor");
  const int64_t asked = int64_t(k.size() / a.size());
  const Ints shape = {int64_t(a.size()), asked};
  Tensor counts = torch::stable::full(shape, 0.0, ScalarType::Long);
  const FlatList left(a), right(b), inside(masks);
  with_float_type(a[0].scalar_type(), "weight_overlap", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(overlap_counts<T>, left.pointers<const T>(), right.pointers<const T>(),
                       inside.pointers<const uint8_t>(), left.sizes(), k, asked,
                       data<int64_t>(counts), torch_threads(left.total()));
  });
  return counts;
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("weight_overlap", TORCH_BOX(&sparselth::weight_overlap));
}
