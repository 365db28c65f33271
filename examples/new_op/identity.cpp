// identity: y = x.
//
// Layout: any; the result is contiguous. Cost: one read and one write of x.
// The order in a kernel file: what it computes, device code, launcher, registration.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <stdexcept>

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The loop, which knows of no tensors.
template <class T>
void copy(const T* from, T* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

// The launcher: tensors in, tensors out. It compares what it is given, as the op can be called past
// the public function. Only the stable ABI of torch is used: one build serves every version.
Tensor identity(const Tensor& x) {
  const Tensor dense = torch::stable::contiguous(x);
  Tensor y = torch::stable::empty_like(dense);
  switch (dense.scalar_type()) {
    case ScalarType::Float:
      copy(static_cast<const float*>(dense.data_ptr()), static_cast<float*>(y.data_ptr()),
           dense.numel());
      return y;
    case ScalarType::Double:
      copy(static_cast<const double*>(dense.data_ptr()), static_cast<double*>(y.data_ptr()),
           dense.numel());
      return y;
    default:
      throw std::runtime_error("sparselth_example::identity: takes float32 or float64");
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparselth_example, CPU, m) { m.impl("identity", TORCH_BOX(&identity)); }
