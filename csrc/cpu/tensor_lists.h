// Lists of tensors as lists of pointers, and writing back what had to be copied.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <initializer_list>

#include "common/pattern.h"
#include "cpu/tensors.h"

namespace sparselth {

using Half = torch::headeronly::Half;
using BFloat16 = torch::headeronly::BFloat16;

// Contiguous views of a list, copied only where a tensor has other strides.
class FlatList {
 public:
  // as_stored: the tensors that an elementwise op may walk in the order of their memory.
  explicit FlatList(const std::vector<Tensor>& originals, const std::vector<bool>& as_stored = {})
      : originals_(originals) {
    for (size_t i = 0; i < originals.size(); ++i) {
      copied_.push_back(!originals[i].is_contiguous() && !(i < as_stored.size() && as_stored[i]));
      flat_.push_back(copied_[i] ? torch::stable::contiguous(originals[i]) : originals[i]);
    }
  }
  // For outputs: brings the results home to tensors that had to be copied.
  void write_back() {
    for (size_t i = 0; i < flat_.size(); ++i)
      if (copied_[i]) torch::stable::copy_(originals_[i], flat_[i]);
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
  std::vector<bool> copied_;
};

// Which tensors lie channels_last in every list that is not empty: elementwise ops need no copies
// of those, as the order of memory is the same in all of them.
inline std::vector<bool> channels_last_in_all(
    std::initializer_list<const std::vector<Tensor>*> lists) {
  std::vector<bool> all((*lists.begin())->size(), true);
  for (const std::vector<Tensor>* list : lists)
    for (size_t i = 0; i < list->size(); ++i)
      if (!prefers_channels_last((*list)[i])) all[i] = false;
  return all;
}

// Calls f(T{}) with the tensors' own type.
template <class F>
void with_float_type(ScalarType dtype, const char* op, const F& f) {
  if (dtype == ScalarType::Float) return f(float{});
  if (dtype == ScalarType::Double) return f(double{});
  if (dtype == ScalarType::Half) return f(Half{});
  if (dtype == ScalarType::BFloat16) return f(BFloat16{});
  fail(op, "takes float16, bfloat16, float32 or float64, got ", toString(dtype));
}

}  // namespace sparselth
