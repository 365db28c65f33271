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

// How many entries a mask keeps. A selection that should find more would search for ever.
int64_t kept_by(const uint8_t* mask, int64_t count) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i) kept += mask[i] != 0;
  return kept;
}

Tensor weight_overlap(const std::vector<Tensor>& a, const std::vector<Tensor>& b,
                      const std::vector<Tensor>& masks, const Ints& k) {
  const char* op = "weight_overlap";
  check_kind(op, "a", a);
  check_list(op, "b", b, a);
  check_masks(op, masks, a);
  check_overlap_counts(op, k, a);
  const int64_t asked = int64_t(k.size() / a.size());
  const Ints shape = {int64_t(a.size()), asked};
  Tensor counts = torch::stable::full(shape, 0.0, ScalarType::Long);
  const FlatList left(a), right(b), inside(masks);
  for (size_t l = 0; l < masks.size(); ++l) {
    const int64_t most = kept_by(inside.pointers<const uint8_t>()[l], a[l].numel());
    for (int64_t q = 0; q < asked; ++q)
      expect(k[l * asked + q] <= most, op, "k of tensor ", l, " is ", k[l * asked + q],
             ", but its mask keeps ", most, " entries");
  }
  with_float_type(a[0].scalar_type(), op, [&](auto type) {
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
