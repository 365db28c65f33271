// Lists of tensors as lists of pointers, and writing back what had to be copied.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "cpu/tensors.h"

namespace sparselth {

using Half = torch::headeronly::Half;
using BFloat16 = torch::headeronly::BFloat16;

// Contiguous views of a list, copied only where a tensor has other strides.
class FlatList {
 public:
  explicit FlatList(const std::vector<Tensor>& originals) : originals_(originals) {
    for (const Tensor& t : originals) flat_.push_back(torch::stable::contiguous(t));
  }
  // For outputs: brings the results home to tensors that had to be copied.
  void write_back() {
    for (size_t i = 0; i < flat_.size(); ++i)
      if (!originals_[i].is_contiguous()) torch::stable::copy_(originals_[i], flat_[i]);
  }
  template <class T>
  std::vector<T*> pointers() const {
    std::vector<T*> result;
    for (const Tensor& t : flat_) result.push_back(data<std::remove_const_t<T>>(t));
    return result;
  }
  int64_t total() const {
    int64_t sum = 0;
    for (const Tensor& t : flat_) sum += t.numel();
    return sum;
  }
  Ints sizes() const {
    Ints result;
    for (const Tensor& t : flat_) result.push_back(t.numel());
    return result;
  }

 private:
  std::vector<Tensor> originals_, flat_;
};

inline void check_dtypes(const std::vector<Tensor>& tensors, const char* op) {
  for (const Tensor& t : tensors)
    STD_TORCH_CHECK(t.scalar_type() == tensors[0].scalar_type(), op, " takes tensors of one dtype");
}

// Calls f(T{}) with the tensors' own type.
template <class F>
void with_float_type(ScalarType dtype, const char* op, const F& f) {
  if (dtype == ScalarType::Float) return f(float{});
  if (dtype == ScalarType::Double) return f(double{});
  if (dtype == ScalarType::Half) return f(Half{});
  if (dtype == ScalarType::BFloat16) return f(BFloat16{});
  STD_TORCH_CHECK(false, op, " takes float16, bfloat16, float32 or float64");
}

}  // namespace sparselth
