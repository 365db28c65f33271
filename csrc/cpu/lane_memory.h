// The memory of activations in lanes: kept from step to step, see common/kept_memory.h.
#pragma once

#include <vector>

#include "common/kept_memory.h"
#include "cpu/tensors.h"

// torch has it from 2.11 on, and this library runs with 2.10 as well: weak, so that it may be
// absent.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(
    void* data, int64_t ndim, const int64_t* sizes, const int64_t* strides, int64_t storage_offset,
    int32_t dtype, int32_t device_type, int32_t device_index, AtenTensorHandle* ret, int32_t layout,
    const uint8_t* opaque_metadata, int64_t opaque_metadata_size,
    void (*deleter)(void* data, void* context), void* context);

namespace sparselth {

// Under AddressSanitizer each tensor is a block of its own, between red zones.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kKeepsLaneMemory = false;
#else
inline constexpr bool kKeepsLaneMemory = KeptMemory::kAvailable;
#endif

// The bytes of an element that is kept in lanes; 0 of others.
inline int64_t lane_element_size(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double:
      return 8;
    case ScalarType::Float:
      return 4;
    case ScalarType::BFloat16:
    case ScalarType::Half:
      return 2;
    case ScalarType::Byte:
      return 1;
    default:
      return 0;
  }
}

// Uninitialized and contiguous; torch's own where memory of this size is not kept.
inline Tensor empty_kept(const Tensor& like, const Ints& shape, ScalarType dtype) {
  int64_t bytes = lane_element_size(dtype), values = 1;
  bool fits = true;
  Ints strides(shape.size());
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = values;
    fits = fits && !__builtin_mul_overflow(values, shape[i], &values);
  }
  fits = fits && !__builtin_mul_overflow(bytes, values, &bytes);
  const bool kept = kKeepsLaneMemory && torch_from_blob && fits && bytes >= KeptMemory::kLeast &&
                    bytes <= KeptMemory::kMost;
  void* memory = kept ? KeptMemory::instance().take(bytes) : nullptr;
  if (!memory) {
    Tensor own = torch::stable::new_empty(like, shape, dtype);  // says so where nothing fits
    prefer_huge_pages(own.data_ptr(), bytes);
    return own;
  }
  const auto give = [](void* data, void* context) {
    KeptMemory::instance().give(data, reinterpret_cast<intptr_t>(context));
  };
  AtenTensorHandle tensor;
  const auto error = torch_from_blob(
      memory, int64_t(shape.size()), shape.data(), strides.data(), 0,
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
      aoti_torch_device_type_cpu(), like.device().index(), &tensor, aoti_torch_layout_strided(),
      nullptr, 0, give, reinterpret_cast<void*>(intptr_t(bytes)));
  if (error != AOTI_TORCH_SUCCESS) give(memory, reinterpret_cast<void*>(intptr_t(bytes)));
  STABLE_TORCH_ERROR_CODE_CHECK(error);
  return Tensor(tensor);
}

}  // namespace sparselth
