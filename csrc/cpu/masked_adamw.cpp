// masked_adamw_ on the CPU: tensors in, the loops of masked_adamw.inl.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "cpu/parallel.h"
#include "cpu/tensor_lists.h"
#include "cpu/threads.h"

namespace sparselth {

#define SPARSELTH_ISA_FILE "cpu/masked_adamw.inl"
#include "common/foreach_isa.h"

namespace {

void masked_adamw_(const std::vector<Tensor>& weights, const std::vector<Tensor>& grads,
                   const std::vector<Tensor>& exp_avgs, const std::vector<Tensor>& exp_avg_sqs,
                   const std::vector<Tensor>& masks, const std::vector<Tensor>& z,
                   const std::vector<Tensor>& u, const std::vector<Tensor>& steps, int64_t step,
                   double lr, double beta1, double beta2, double eps, double weight_decay,
                   double rho) {
  const char* op = "masked_adamw_";
  check_step(op, weights, grads, masks, z, u);
  check_list(op, "exp_avgs", exp_avgs, weights);
  check_list(op, "exp_avg_sqs", exp_avg_sqs, weights);
  check_step_counts(op, steps, step, weights);
  if (weights.empty()) return;
  const auto as_stored =
      channels_last_in_all({&weights, &grads, &exp_avgs, &exp_avg_sqs, &masks, &z, &u});
  FlatList w(weights, as_stored), m1(exp_avgs, as_stored), m2(exp_avg_sqs, as_stored);
  const FlatList g(grads, as_stored), kept(masks, as_stored);
  const FlatList targets(z, as_stored), duals(u, as_stored);
  std::vector<double> counts(weights.size(), double(step));
  for (size_t l = 0; l < steps.size(); ++l) counts[l] = *data<float>(steps[l]);
  with_float_type(weights[0].scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(masked_adamw<T>,
                       {w.pointers<T>(),
                        g.pointers<const T>(),
                        {m1.pointers<T>(), m2.pointers<T>()},
                        kept.pointers<const uint8_t>(),
                        targets.pointers<const T>(),
                        duals.pointers<const T>(),
                        w.sizes()},
                       counts, {lr, beta1, beta2, eps, weight_decay, rho},
                       torch_threads(w.total()));
  });
  w.write_back();
  m1.write_back();
  m2.write_back();
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("masked_adamw_", TORCH_BOX(&sparselth::masked_adamw_));
}
