// The torch side of the optimizers' steps: lists checked, and brought into one order per entry.
#pragma once

#include "launch.cuh"
#include "optimizer_step.cuh"

namespace sparselth::cuda {

// Tensors of one entry that share a gap-free memory order are used as they are; others are copied,
// and what was computed in the copies goes back.
template <int kStates>
class StepLists {
 public:
  using Tensors = std::vector<Tensor>;

  // masks, z, u and states may be empty; z is where u is. All checked by the caller.
  StepLists(Tensors& weights, const Tensors& grads, Tensors* const (&states)[kStates],
            const Tensors& masks, const Tensors& z, const Tensors& u)
      : weights_(weights) {
    given_[kWeight] = &weights, given_[kGrad] = &grads, given_[kMask] = &masks;
    given_[kZ] = &z, given_[kU] = &u;
    for (int s = 0; s < kStates; ++s) given_[kState + s] = states_[s] = states[s];
    for (size_t l = 0; l < weights.size(); ++l) {
      bool as_is = true;
      for (const Tensors* list : given_) {
        as_is = as_is && (list->empty() || same_dense_order(weights[l], (*list)[l]));
      }
      for (int i = 0; i < kLists; ++i) {
        if (given_[i]->empty()) continue;
        const Tensor& t = (*given_[i])[l];
        used_[i].push_back(as_is ? t : torch::stable::contiguous(t));
      }
    }
  }

  uint64_t total() const {
    uint64_t sum = 0;
    for (const Tensor& t : weights_) sum += static_cast<uint64_t>(t.numel());
    return sum;
  }

  StepTensor<kStates> tensor(size_t l) const {
    const auto read = [&](int list) {
      return used_[list].empty() ? nullptr : used_[list][l].const_data_ptr();
    };
    StepTensor<kStates> t{};
    t.weight = used_[kWeight][l].mutable_data_ptr();
    t.grad = read(kGrad), t.mask = read(kMask), t.z = read(kZ), t.u = read(kU);
    for (int s = 0; s < kStates; ++s) {
      if (!used_[kState + s].empty()) t.states[s] = used_[kState + s][l].mutable_data_ptr();
    }
    t.count = static_cast<uint32_t>(weights_[l].numel());
    return t;
  }

  void write_back() {
    cuda::write_back(weights_, used_[kWeight]);
    for (int s = 0; s < kStates; ++s) cuda::write_back(*states_[s], used_[kState + s]);
  }

 private:
  enum { kWeight, kGrad, kMask, kZ, kU, kState, kLists = kState + kStates };

  Tensors& weights_;
  Tensors* states_[kStates];
  const Tensors* given_[kLists];
  Tensors used_[kLists];
};

}  // namespace sparselth::cuda
