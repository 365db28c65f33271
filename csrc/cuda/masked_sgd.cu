// masked_sgd_: one SGD step on the surviving weights of many tensors, in place.
//
//   g <- (grad + weight_decay w) m;  buf <- (momentum buf + (1 - dampening) g) m
//   w <- (w - lr (g + momentum buf  if nesterov  else  buf)) m
// with m the mask; without momentum, w <- (w - lr g) m. Pruned weights and momenta become exactly
// zero, whatever stood there (a NaN included). Arithmetic in float32 (float64 for float64),
// rounded once.
//
// One launch per 80 tensors, pointers by value in the kernel arguments: no host synchronisation.
// Elementwise, so any memory order will do as long as the tensors of one entry share it.
// Traffic per weight of b bytes with momentum: 3 b + 1 read, 2 b written.
//
// Reference: Sutskever et al., "On the importance of initialization and momentum in deep
// learning", ICML 2013, in the form torch.optim.SGD uses.
#include "device.cuh"

namespace sparselth::cuda {

// --- launch table -------------------------------------------------------------------------

constexpr int kTensorsPerLaunch = 80;  // 40 bytes each: kernel arguments are limited to 4 KiB

// Elements per block: some tiles for a small network, many where there is work for every SM.
template <class T>
uint32_t sgd_chunk_size(uint64_t total) {
  return kTile<T> * (total / kTile<T> > 8192 ? 8 : 1);
}

// --- device code --------------------------------------------------------------------------

struct SgdTensor {
  void* weight;
  const void* grad;
  void* momentum;  // null without momentum
  const void* mask;
  uint32_t count;
  uint32_t first_block;
};

struct SgdTable {
  SgdTensor tensors[kTensorsPerLaunch];
  uint32_t tensor_count;
  uint32_t chunk_size;
};

struct SgdSettings {
  double lr, momentum, dampening, weight_decay;
  bool nesterov;
};

// The tensor a block belongs to: the last one that starts at or before it.
__device__ inline uint32_t tensor_of_block(const SgdTable& table, uint32_t block) {
  uint32_t low = 0, high = table.tensor_count;
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (table.tensors[middle].first_block <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

template <class T, bool kMomentum>
__global__ void sgd_step(const __grid_constant__ SgdTable table,
                         const __grid_constant__ SgdSettings settings) {
  using C = typename Number<T>::Compute;
  const SgdTensor& t = table.tensors[tensor_of_block(table, blockIdx.x)];
  const C lr = static_cast<C>(settings.lr), momentum = static_cast<C>(settings.momentum);
  const C intake = static_cast<C>(1 - settings.dampening);
  const C weight_decay = static_cast<C>(settings.weight_decay);
  const uint32_t begin = (blockIdx.x - t.first_block) * table.chunk_size;
  const uint32_t left = t.count - begin;
  const uint32_t end = begin + (left < table.chunk_size ? left : table.chunk_size);
  for (uint32_t i = begin + threadIdx.x * kVec<T>; i < end; i += kTile<T>) {
    const int valid = valid_count<kVec<T>>(i, end);
    const Pack<bool, kVec<T>> mask = load_pack<bool, kVec<T>>(t.mask, i, valid);
    const Pack<T> grad = load_pack<T>(t.grad, i, valid);
    Pack<T> weight = load_pack<T>(t.weight, i, valid), buffer{};
    if constexpr (kMomentum) buffer = load_pack<T>(t.momentum, i, valid);
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) {
      const C w = Number<T>::widen(weight.v[j]);
      const C g = Number<T>::widen(grad.v[j]) + weight_decay * w;
      C step = g;
      if constexpr (kMomentum) {
        const C b = momentum * Number<T>::widen(buffer.v[j]) + intake * g;
        step = settings.nesterov ? g + momentum * b : b;
        buffer.v[j] = Number<T>::narrow(mask.v[j] ? b : C(0));
      }
      weight.v[j] = Number<T>::narrow(mask.v[j] ? w - lr * step : C(0));
    }
    store_pack(t.weight, i, valid, weight);
    if constexpr (kMomentum) store_pack(t.momentum, i, valid, buffer);
  }
}

// --- launcher -----------------------------------------------------------------------------

// Collects tensors and launches whenever the table is full; flush() launches the rest.
template <class T>
class SgdLauncher {
 public:
  SgdLauncher(const SgdSettings& settings, uint32_t chunk_size, cudaStream_t stream)
      : settings_(settings), stream_(stream) {
    table_.chunk_size = chunk_size;
  }

  void add(void* weight, const void* grad, void* momentum, const void* mask, int64_t count) {
    if (count == 0) return;
    if (table_.tensor_count == kTensorsPerLaunch) flush();
    const uint32_t n = static_cast<uint32_t>(count);
    table_.tensors[table_.tensor_count++] = {weight, grad, momentum, mask, n, blocks_};
    blocks_ += (n + table_.chunk_size - 1) / table_.chunk_size;
  }

  void flush() {
    if (settings_.momentum != 0) {
      launch(sgd_step<T, true>, blocks_, stream_, table_, settings_);
    } else {
      launch(sgd_step<T, false>, blocks_, stream_, table_, settings_);
    }
    table_.tensor_count = blocks_ = 0;
  }

 private:
  SgdTable table_{};
  SgdSettings settings_;
  cudaStream_t stream_;
  uint32_t blocks_ = 0;
};

}  // namespace sparselth::cuda

#ifndef SPARSELTH_EMULATION
#include "launch.cuh"

namespace sparselth::cuda {

void masked_sgd_(std::vector<Tensor> weights, std::vector<Tensor> grads,
                 std::vector<Tensor> momenta, std::vector<Tensor> masks, double lr, double momentum,
                 double dampening, double weight_decay, bool nesterov) {
  if (weights.empty()) return;
  const size_t count = weights.size();
  check_uniform(weights, weights[0], count, "masked_sgd_");
  check_uniform(grads, weights[0], count, "masked_sgd_");
  const bool with_momentum = momentum != 0;
  if (with_momentum) check_uniform(momenta, weights[0], count, "masked_sgd_");
  STD_TORCH_CHECK(masks.size() == count, "sparselth::masked_sgd_: lists of different lengths");
  const DeviceGuard guard(weights[0].get_device_index());
  const cudaStream_t stream = current_stream(weights[0].get_device_index());
  // Tensors of one entry that share a gap-free memory order are used as they are.
  std::vector<Tensor> w, g, b, m;
  uint64_t total = 0;
  for (size_t l = 0; l < count; ++l) {
    bool as_is = same_dense_order(weights[l], grads[l]) && same_dense_order(weights[l], masks[l]);
    if (with_momentum) as_is = as_is && same_dense_order(weights[l], momenta[l]);
    const auto usable = [&](const Tensor& t) { return as_is ? t : torch::stable::contiguous(t); };
    w.push_back(usable(weights[l]));
    g.push_back(usable(grads[l]));
    m.push_back(usable(masks[l]));
    if (with_momentum) b.push_back(usable(momenta[l]));
    total += static_cast<uint64_t>(weights[l].numel());
  }
  dispatch_float(weights[0].scalar_type(), "masked_sgd_", [&]<class T>(T*) {
    SgdLauncher<T> launcher({lr, momentum, dampening, weight_decay, nesterov},
                            sgd_chunk_size<T>(total), stream);
    for (size_t l = 0; l < count; ++l) {
      launcher.add(w[l].mutable_data_ptr(), g[l].const_data_ptr(),
                   with_momentum ? b[l].mutable_data_ptr() : nullptr, m[l].const_data_ptr(),
                   w[l].numel());
    }
    launcher.flush();
  });
  check_launch("masked_sgd_");
  write_back(weights, w);
  if (with_momentum) write_back(momenta, b);
}

}  // namespace sparselth::cuda

// --- registration -------------------------------------------------------------------------

STABLE_TORCH_LIBRARY_IMPL(sparselth, CUDA, m) {
  m.impl("masked_sgd_", TORCH_BOX(&sparselth::cuda::masked_sgd_));
}
#endif
