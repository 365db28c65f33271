// masked_sgd_: one SGD step on the surviving weights of many tensors, in place.
//
//   g <- (grad + weight_decay w + rho (w - z + u)) m;  buf <- (momentum buf + (1 - dampening) g) m
//   w <- (w - lr (g + momentum buf  if nesterov  else  buf)) m
// with m the mask, or 1 without masks; without momentum, w <- (w - lr g) m; z and u are ADMM's, or
// absent. Pruned weights and momenta become exactly zero, whatever stood there (a NaN included).
// Arithmetic in float32 (float64 for float64), rounded once.
//
// One launch per 64 tensors, pointers by value in the kernel arguments: no host synchronisation.
// Elementwise, so any memory order will do as long as the tensors of one entry share it.
// Traffic per weight of b bytes with momentum: 3 b read, 2 b written; 1 read with masks, 2 b with
// z and u.
//
// Reference: Sutskever et al., "On the importance of initialization and momentum in deep
// learning", ICML 2013, in the form torch.optim.SGD uses.
#include "device.cuh"

namespace sparselth::cuda {

// --- launch table -------------------------------------------------------------------------

constexpr int kTensorsPerLaunch = 64;  // 56 bytes each: kernel arguments are limited to 4 KiB

// Elements per block: some tiles for a small network, many where there is work for every SM.
template <class T>
uint32_t sgd_chunk_size(uint64_t total) {
  return kTile<T> * (total / kTile<T> > 8192 ? 8 : 1);
}

// --- device code --------------------------------------------------------------------------

struct SgdTensor {
  void* weight;
  const void* grad;
  void* momentum;    // null without momentum
  const void* mask;  // null: everything survives
  const void* z;     // null, and u then too: no penalty
  const void* u;
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
  double rho;
};

static_assert(sizeof(SgdTable) + sizeof(SgdSettings) <= 4096);

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
  const C weight_decay = static_cast<C>(settings.weight_decay), rho = static_cast<C>(settings.rho);
  const uint32_t begin = (blockIdx.x - t.first_block) * table.chunk_size;
  const uint32_t left = t.count - begin;
  const uint32_t end = begin + (left < table.chunk_size ? left : table.chunk_size);
  for (uint32_t i = begin + threadIdx.x * kVec<T>; i < end; i += kTile<T>) {
    const int valid = valid_count<kVec<T>>(i, end);
    const Pack<T> grad = load_pack<T>(t.grad, i, valid);
    Pack<T> weight = load_pack<T>(t.weight, i, valid), buffer{}, z{}, u{};
    if constexpr (kMomentum) buffer = load_pack<T>(t.momentum, i, valid);
    if (t.z != nullptr) {
      z = load_pack<T>(t.z, i, valid);
      u = load_pack<T>(t.u, i, valid);
    }
    Pack<bool, kVec<T>> mask{};
    if (t.mask != nullptr) mask = load_pack<bool, kVec<T>>(t.mask, i, valid);
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) {
      const C w = Number<T>::widen(weight.v[j]);
      const bool survives = t.mask == nullptr || mask.v[j];
      C g = Number<T>::widen(grad.v[j]) + weight_decay * w;
      if (t.z != nullptr) g += rho * (w - Number<T>::widen(z.v[j]) + Number<T>::widen(u.v[j]));
      C step = g;
      if constexpr (kMomentum) {
        const C b = momentum * Number<T>::widen(buffer.v[j]) + intake * g;
        step = settings.nesterov ? g + momentum * b : b;
        buffer.v[j] = Number<T>::narrow(survives ? b : C(0));
      }
      weight.v[j] = Number<T>::narrow(survives ? w - lr * step : C(0));
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

  void add(SgdTensor tensor) {
    if (tensor.count == 0) return;
    if (table_.tensor_count == kTensorsPerLaunch) flush();
    tensor.first_block = blocks_;
    table_.tensors[table_.tensor_count++] = tensor;
    blocks_ += (tensor.count + table_.chunk_size - 1) / table_.chunk_size;
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
                 std::vector<Tensor> momenta, std::vector<Tensor> masks, std::vector<Tensor> z,
                 std::vector<Tensor> u, double lr, double momentum, double dampening,
                 double weight_decay, bool nesterov, double rho) {
  if (weights.empty()) return;
  const size_t count = weights.size();
  if (momentum == 0) momenta.clear();
  check_uniform(weights, weights[0], count, "masked_sgd_");
  check_uniform(grads, weights[0], count, "masked_sgd_");
  for (const auto* list : {&momenta, &z, &u}) {
    if (!list->empty()) check_uniform(*list, weights[0], count, "masked_sgd_");
  }
  STD_TORCH_CHECK((momentum == 0) == momenta.empty() && z.size() == u.size() &&
                      (masks.empty() || masks.size() == count),
                  "sparselth::masked_sgd_: lists of different lengths");
  const DeviceGuard guard(weights[0].get_device_index());
  const cudaStream_t stream = current_stream(weights[0].get_device_index());
  // Tensors of one entry that share a gap-free memory order are used as they are.
  enum { kWeight, kGrad, kMomentum, kMask, kZ, kU, kLists };
  const std::vector<Tensor>* given[kLists] = {&weights, &grads, &momenta, &masks, &z, &u};
  std::vector<Tensor> used[kLists];
  uint64_t total = 0;
  for (size_t l = 0; l < count; ++l) {
    bool as_is = true;
    for (const auto* list : given) {
      as_is = as_is && (list->empty() || same_dense_order(weights[l], (*list)[l]));
    }
    for (int i = 0; i < kLists; ++i) {
      if (given[i]->empty()) continue;
      const Tensor& t = (*given[i])[l];
      used[i].push_back(as_is ? t : torch::stable::contiguous(t));
    }
    total += static_cast<uint64_t>(weights[l].numel());
  }
  dispatch_float(weights[0].scalar_type(), "masked_sgd_", [&]<class T>(T*) {
    SgdLauncher<T> launcher({lr, momentum, dampening, weight_decay, nesterov, rho},
                            sgd_chunk_size<T>(total), stream);
    for (size_t l = 0; l < count; ++l) {
      const auto read = [&](int list) {
        return used[list].empty() ? nullptr : used[list][l].const_data_ptr();
      };
      const auto written = [&](int list) {
        return used[list].empty() ? nullptr : used[list][l].mutable_data_ptr();
      };
      launcher.add({written(kWeight), read(kGrad), written(kMomentum), read(kMask), read(kZ),
                    read(kU), static_cast<uint32_t>(weights[l].numel()), 0});
    }
    launcher.flush();
  });
  check_launch("masked_sgd_");
  write_back(weights, used[kWeight]);
  write_back(momenta, used[kMomentum]);
}

}  // namespace sparselth::cuda

// --- registration -------------------------------------------------------------------------

STABLE_TORCH_LIBRARY_IMPL(sparselth, CUDA, m) {
  m.impl("masked_sgd_", TORCH_BOX(&sparselth::cuda::masked_sgd_));
}
#endif
