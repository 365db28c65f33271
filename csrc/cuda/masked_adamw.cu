// masked_adamw_: one AdamW step on the surviving weights of many tensors, in place.
//
//   g <- grad + rho (w - z + u)
//   a <- (beta1 a + (1 - beta1) g) m;  b <- (beta2 b + (1 - beta2) g^2) m
//   w <- ((1 - lr weight_decay) w - lr / (1 - beta1^t) a / (sqrt(b / (1 - beta2^t)) + eps)) m
// with m the mask, or 1 without masks, a and b the moments, and t the step, counted from 1; z and u
// are ADMM's, or absent.
//
// t is the host's, one for all tensors, or each tensor's own on the device, where it is read: a
// CUDA graph that holds the step and what counts it goes on counting.
// One launch per 48 tensors, see optimizer_step.cuh. Traffic per weight of b bytes: 4 b read, 3 b
// written; 1 read with masks, 2 b with z and u.
//
// Reference: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019,
// algorithm 2, in the form torch.optim.AdamW uses.
#include <cmath>

#include "optimizer_step.cuh"

namespace sparselth::cuda {

// --- launch table -------------------------------------------------------------------------

struct AdamwTensor : StepTensor<2> {
  const float* step;  // null: the settings' own
};

using AdamwTable = StepTable<AdamwTensor, 48>;  // 72 bytes each

// --- device code --------------------------------------------------------------------------

struct AdamwSettings {
  double lr, beta1, beta2, eps, weight_decay, rho;
};

// lr / (1 - beta1^t) and 1 / sqrt(1 - beta2^t). In float64: of 1 - beta^t a float32 has too few
// digits at the first steps.
struct AdamwCorrections {
  double step_size, root;

  __host__ __device__ AdamwCorrections(const AdamwSettings& s, double t)
      : step_size(s.lr / (1 - pow(s.beta1, t))), root(1 / sqrt(1 - pow(s.beta2, t))) {}
};

static_assert(sizeof(AdamwTable) + sizeof(AdamwSettings) + sizeof(AdamwCorrections) <= 4096);

template <class C>
struct AdamwRule {
  C decay, step_size, root, beta1, intake1, beta2, intake2, eps, rho;

  __device__ AdamwRule(const AdamwSettings& s, const AdamwCorrections& c)
      : decay(static_cast<C>(1 - s.lr * s.weight_decay)),
        step_size(static_cast<C>(c.step_size)),
        root(static_cast<C>(c.root)),
        beta1(static_cast<C>(s.beta1)),
        intake1(static_cast<C>(1 - s.beta1)),
        beta2(static_cast<C>(s.beta2)),
        intake2(static_cast<C>(1 - s.beta2)),
        eps(static_cast<C>(s.eps)),
        rho(static_cast<C>(s.rho)) {}

  __device__ void step(C& w, C (&states)[2], C g) const {
    states[0] = beta1 * states[0] + intake1 * g;
    states[1] = beta2 * states[1] + intake2 * (g * g);
    w = decay * w - step_size * states[0] / (sqrt(states[1]) * root + eps);
  }
};

template <class T>
__global__ void adamw_step(const __grid_constant__ AdamwTable table,
                           const __grid_constant__ AdamwSettings settings,
                           const __grid_constant__ AdamwCorrections shared) {
  using Rule = AdamwRule<typename Number<T>::Compute>;
  step_block<T, 2>(table, [&](const AdamwTensor& t) {
    return Rule(settings, t.step == nullptr ? shared : AdamwCorrections(settings, *t.step));
  });
}

// --- launcher -----------------------------------------------------------------------------

// step: of the tensors that have none of their own; then at least 1.
template <class T>
auto adamw_launcher(const AdamwSettings& settings, double step, uint32_t chunk_size,
                    cudaStream_t stream) {
  const AdamwCorrections shared(settings, step);
  const auto launch_table = [=](const AdamwTable& table, uint32_t blocks) {
    launch(adamw_step<T>, blocks, stream, table, settings, shared);
  };
  return StepLauncher<AdamwTable, decltype(launch_table)>(chunk_size, launch_table);
}

}  // namespace sparselth::cuda

#ifndef SPARSELTH_EMULATION
#include "launch_step.cuh"

namespace sparselth::cuda {

void masked_adamw_(std::vector<Tensor> weights, std::vector<Tensor> grads,
                   std::vector<Tensor> exp_avgs, std::vector<Tensor> exp_avg_sqs,
                   std::vector<Tensor> masks, std::vector<Tensor> z, std::vector<Tensor> u,
                   std::vector<Tensor> steps, int64_t step, double lr, double beta1, double beta2,
                   double eps, double weight_decay, double rho) {
  const char* op = "masked_adamw_";
  check_step(op, weights, grads, masks, z, u);
  check_list(op, "exp_avgs", exp_avgs, weights);
  check_list(op, "exp_avg_sqs", exp_avg_sqs, weights);
  check_step_counts(op, steps, step, weights);
  check_sizes(op, weights);
  if (weights.empty()) return;
  const size_t count = weights.size();
  const int32_t device = weights[0].get_device_index();
  const DeviceGuard guard(device);
  const cudaStream_t stream = current_stream(device);
  StepLists<2> lists(weights, grads, {&exp_avgs, &exp_avg_sqs}, masks, z, u);
  dispatch_float(weights[0].scalar_type(), "masked_adamw_", [&]<class T>(T*) {
    auto launcher =
        adamw_launcher<T>({lr, beta1, beta2, eps, weight_decay, rho}, static_cast<double>(step),
                          step_chunk_size<T>(lists.total()), stream);
    for (size_t l = 0; l < count; ++l) {
      const void* own = steps.empty() ? nullptr : steps[l].const_data_ptr();
      launcher.add({lists.tensor(l), static_cast<const float*>(own)});
    }
    launcher.flush();
  });
  check_launch("masked_adamw_");
  lists.write_back();
}

}  // namespace sparselth::cuda

// --- registration -------------------------------------------------------------------------

STABLE_TORCH_LIBRARY_IMPL(sparselth, CUDA, m) {
  m.impl("masked_adamw_", TORCH_BOX(&sparselth::cuda::masked_adamw_));
}
#endif
