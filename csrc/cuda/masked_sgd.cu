// masked_sgd_: one SGD step on the surviving weights of many tensors, in place.
//
//   g <- (grad + weight_decay w + rho (w - z + u)) m;  buf <- (momentum buf + (1 - dampening) g) m
//   w <- (w - lr (g + momentum buf  if nesterov  else  buf)) m
// with m the mask, or 1 without masks; without momentum, w <- (w - lr g) m; z and u are ADMM's, or
// absent.
//
// One launch per 64 tensors, see optimizer_step.cuh. Traffic per weight of b bytes with momentum:
// 3 b read, 2 b written; 1 read with masks, 2 b with z and u.
//
// Reference: Sutskever et al., "On the importance of initialization and momentum in deep
// learning", ICML 2013, in the form torch.optim.SGD uses.
#include "optimizer_step.cuh"

namespace sparselth::cuda {

// --- launch table -------------------------------------------------------------------------

using SgdTable = StepTable<StepTensor<1>, 64>;  // 56 bytes each

// --- device code --------------------------------------------------------------------------

struct SgdSettings {
  double lr, momentum, dampening, weight_decay;
  bool nesterov;
  double rho;
};

static_assert(sizeof(SgdTable) + sizeof(SgdSettings) <= 4096);

template <class C, bool kMomentum>
struct SgdRule {
  C lr, momentum, intake, weight_decay, rho;
  bool nesterov;

  __device__ explicit SgdRule(const SgdSettings& s)
      : lr(static_cast<C>(s.lr)),
        momentum(static_cast<C>(s.momentum)),
        intake(static_cast<C>(1 - s.dampening)),
        weight_decay(static_cast<C>(s.weight_decay)),
        rho(static_cast<C>(s.rho)),
        nesterov(s.nesterov) {}

  __device__ void step(C& w, C (&states)[1], C grad) const {
    const C g = grad + weight_decay * w;
    C direction = g;
    if constexpr (kMomentum) {
      states[0] = momentum * states[0] + intake * g;
      direction = nesterov ? g + momentum * states[0] : states[0];
    }
    w -= lr * direction;
  }
};

template <class T, bool kMomentum>
__global__ void sgd_step(const __grid_constant__ SgdTable table,
                         const __grid_constant__ SgdSettings settings) {
  using Rule = SgdRule<typename Number<T>::Compute, kMomentum>;
  step_block<T, kMomentum>(table, [&](const auto&) { return Rule(settings); });
}

// --- launcher -----------------------------------------------------------------------------

template <class T>
auto sgd_launcher(const SgdSettings& settings, uint32_t chunk_size, cudaStream_t stream) {
  const auto launch_table = [=](const SgdTable& table, uint32_t blocks) {
    launch(settings.momentum != 0 ? sgd_step<T, true> : sgd_step<T, false>, blocks, stream, table,
           settings);
  };
  return StepLauncher<SgdTable, decltype(launch_table)>(chunk_size, launch_table);
}

}  // namespace sparselth::cuda

#ifndef SPARSELTH_EMULATION
#include "launch_step.cuh"

namespace sparselth::cuda {

void masked_sgd_(std::vector<Tensor> weights, std::vector<Tensor> grads,
                 std::vector<Tensor> momenta, std::vector<Tensor> masks, std::vector<Tensor> z,
                 std::vector<Tensor> u, double lr, double momentum, double dampening,
                 double weight_decay, bool nesterov, double rho) {
  const char* op = "masked_sgd_";
  check_step(op, weights, grads, masks, z, u);
  check_optional_list(op, "momenta", momenta, weights);
  expect(momentum == 0 || momenta.size() == weights.size(), op,
         "a momentum other than 0 needs momenta");
  check_sizes(op, weights);
  if (weights.empty()) return;
  if (momentum == 0) momenta.clear();
  const DeviceGuard guard(weights[0].get_device_index());
  const cudaStream_t stream = current_stream(weights[0].get_device_index());
  StepLists<1> lists(weights, grads, {&momenta}, masks, z, u);
  dispatch_float(weights[0].scalar_type(), "masked_sgd_", [&]<class T>(T*) {
    auto launcher = sgd_launcher<T>({lr, momentum, dampening, weight_decay, nesterov, rho},
                                    step_chunk_size<T>(lists.total()), stream);
    for (size_t l = 0; l < weights.size(); ++l) launcher.add(lists.tensor(l));
    launcher.flush();
  });
  check_launch("masked_sgd_");
  lists.write_back();
}

}  // namespace sparselth::cuda

// --- registration -------------------------------------------------------------------------

STABLE_TORCH_LIBRARY_IMPL(sparselth, CUDA, m) {
  m.impl("masked_sgd_", TORCH_BOX(&sparselth::cuda::masked_sgd_));
}
#endif
