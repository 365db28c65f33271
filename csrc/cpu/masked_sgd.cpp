// masked_sgd_ on the CPU: tensors in, the loops of masked_sgd.inl.

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "cpu/parallel.h"
#include "cpu/tensor_lists.h"
#include "cpu/threads.h"

namespace sparselth {

#define SPARSELTH_ISA_FILE "cpu/masked_sgd.inl"
#include "common/foreach_isa.h"

namespace {

void masked_sgd_(const std::vector<Tensor>& weights, const std::vector<Tensor>& grads,
                 const std::vector<Tensor>& momenta, const std::vector<Tensor>& masks,
                 const std::vector<Tensor>& z, const std::vector<Tensor>& u, double lr,
                 double momentum, double dampening, double weight_decay, bool nesterov,
                 double rho) {
  const char* op = "masked_sgd_";
  check_step(op, weights, grads, masks, z, u);
  check_optional_list(op, "momenta", momenta, weights);
  expect(momentum == 0 || momenta.size() == weights.size(), op,
         "a momentum other than 0 needs momenta");
  if (weights.empty()) return;
  const auto as_stored = channels_last_in_all({&weights, &grads, &momenta, &masks, &z, &u});
  FlatList w(weights, as_stored), v(momenta, as_stored);
  const FlatList g(grads, as_stored), m(masks, as_stored);
  const FlatList targets(z, as_stored), duals(u, as_stored);
  with_float_type(weights[0].scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(masked_sgd<T>,
                       {w.pointers<T>(),
                        g.pointers<const T>(),
                        {v.pointers<T>()},
                        m.pointers<const uint8_t>(),
                        targets.pointers<const T>(),
                        duals.pointers<const T>(),
                        w.sizes()},
                       {lr, momentum, dampening, weight_decay, nesterov, rho},
                       torch_threads(w.total()));
  });
  w.write_back();
  v.write_back();
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("masked_sgd_", TORCH_BOX(&sparselth::masked_sgd_));
}
