// What the optimizers' steps share: tensors in a kernel's arguments, walked in packs by any rule.
//
// A rule updates a weight and its states from the gradient, to which rho (w - z + u), ADMM's pull,
// has been added. Pruned weights and states become exactly zero, whatever stood there (a NaN
// included). Arithmetic in float32 (float64 for float64), rounded once.
//
// One launch per table, pointers by value in the kernel arguments: no host synchronization.
// Elementwise, so any memory order will do as long as the tensors of one entry share it.
#pragma once

#include "device.cuh"

namespace sparselth::cuda {

// --- launch table -------------------------------------------------------------------------

// Elements per block: some tiles for a small network, many where there is work for every SM.
template <class T>
uint32_t step_chunk_size(uint64_t total) {
  return kTile<T> * (total / kTile<T> > 8192 ? 8 : 1);
}

// --- device code --------------------------------------------------------------------------

template <int kStates>
struct StepTensor {
  static constexpr int kStateCount = kStates;

  void* weight;
  const void* grad;
  void* states[kStates];  // null where the rule does not use one
  const void* mask;       // null: everything survives
  const void* z;          // null, and u then too: no penalty
  const void* u;
  uint32_t count;
  uint32_t first_block;
};

// Row: a StepTensor, or what an op adds to it. Kernel arguments are limited to 4 KiB.
template <class Row, int kRows>
struct StepTable {
  using Tensor = Row;
  static constexpr uint32_t kCapacity = kRows;

  Row tensors[kRows];
  uint32_t tensor_count;
  uint32_t chunk_size;
};

// The tensor a block belongs to: the last one that starts at or before it.
template <class Table>
__device__ uint32_t tensor_of_block(const Table& table, uint32_t block) {
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

// One block's part. rule_of(tensor): what has `rho` and step(w, states, grad), which updates the
// first kUsed states.
template <class T, int kUsed, class Table, class RuleOf>
__device__ void step_block(const Table& table, const RuleOf& rule_of) {
  using C = typename Number<T>::Compute;
  constexpr int kStates = Table::Tensor::kStateCount;
  const auto& t = table.tensors[tensor_of_block(table, blockIdx.x)];
  const auto rule = rule_of(t);
  const uint32_t begin = (blockIdx.x - t.first_block) * table.chunk_size;
  const uint32_t left = t.count - begin;
  const uint32_t end = begin + (left < table.chunk_size ? left : table.chunk_size);
  for (uint32_t i = begin + threadIdx.x * kVec<T>; i < end; i += kTile<T>) {
    const int valid = valid_count<kVec<T>>(i, end);
    const Pack<T> grad = load_pack<T>(t.grad, i, valid);
    Pack<T> weight = load_pack<T>(t.weight, i, valid), states[kStates]{}, z{}, u{};
#pragma unroll
    for (int s = 0; s < kUsed; ++s) states[s] = load_pack<T>(t.states[s], i, valid);
    if (t.z != nullptr) {
      z = load_pack<T>(t.z, i, valid);
      u = load_pack<T>(t.u, i, valid);
    }
    Pack<bool, kVec<T>> mask{};
    if (t.mask != nullptr) mask = load_pack<bool, kVec<T>>(t.mask, i, valid);
#pragma unroll
    for (int j = 0; j < kVec<T>; ++j) {
      const bool survives = t.mask == nullptr || mask.v[j];
      C w = Number<T>::widen(weight.v[j]), g = Number<T>::widen(grad.v[j]), state[kStates]{};
      if (t.z != nullptr) g += rule.rho * (w - Number<T>::widen(z.v[j]) + Number<T>::widen(u.v[j]));
#pragma unroll
      for (int s = 0; s < kUsed; ++s) state[s] = Number<T>::widen(states[s].v[j]);
      rule.step(w, state, g);
      weight.v[j] = Number<T>::narrow(survives ? w : C(0));
#pragma unroll
      for (int s = 0; s < kUsed; ++s) {
        states[s].v[j] = Number<T>::narrow(survives ? state[s] : C(0));
      }
    }
    store_pack(t.weight, i, valid, weight);
#pragma unroll
    for (int s = 0; s < kUsed; ++s) store_pack(t.states[s], i, valid, states[s]);
  }
}

// --- launcher -----------------------------------------------------------------------------

// Collects tensors and launches whenever the table is full; flush() launches the rest.
// Launch: launch(table, blocks).
template <class Table, class Launch>
class StepLauncher {
 public:
  StepLauncher(uint32_t chunk_size, Launch launch) : launch_(launch) {
    table_.chunk_size = chunk_size;
  }

  void add(typename Table::Tensor tensor) {
    if (tensor.count == 0) return;
    if (table_.tensor_count == Table::kCapacity) flush();
    tensor.first_block = blocks_;
    table_.tensors[table_.tensor_count++] = tensor;
    blocks_ += (tensor.count + table_.chunk_size - 1) / table_.chunk_size;
  }

  void flush() {
    launch_(table_, blocks_);
    table_.tensor_count = blocks_ = 0;
  }

 private:
  Table table_{};
  Launch launch_;
  uint32_t blocks_ = 0;
};

}  // namespace sparselth::cuda
