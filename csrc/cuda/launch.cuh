// The torch side of every CUDA launcher: current stream, layout, dtype, errors.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <string>
#include <vector>

#include "common/checks.h"
#include "device.cuh"

namespace sparselth::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// torch's current stream on a device. The C function stands in libtorch_cuda, in every torch
// since 2.10; it is looked up at the first call and not linked, so that this library also loads
// beside a CPU-only torch. (The stable C++ way, Stream::nativeHandle, came with 2.13.)
inline cudaStream_t current_stream(int32_t device) {
  using GetStream = int32_t (*)(int32_t, void**);
  static const GetStream get_stream = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* symbol = dlsym(library ? library : RTLD_DEFAULT, "aoti_torch_get_current_cuda_stream");
    return reinterpret_cast<GetStream>(symbol);
  }();
  STD_TORCH_CHECK(get_stream != nullptr, "sparselth: this torch has no CUDA streams");
  void* stream = nullptr;
  STD_TORCH_CHECK(get_stream(device, &stream) == 0, "sparselth: no current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

inline void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "sparselth::", op, ": ", cudaGetErrorString(error),
                  error == cudaErrorNoKernelImageForDevice
                      ? " (rebuild with this GPU in TORCH_CUDA_ARCH_LIST)"
                      : "");
}

// Call f with a null pointer of the element type that stands for `dtype` in device code.
template <class F>
void dispatch_float(ScalarType dtype, const char* op, F&& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(static_cast<float*>(nullptr));
    case ScalarType::Double:
      return f(static_cast<double*>(nullptr));
    case ScalarType::Half:
      return f(static_cast<__half*>(nullptr));
    case ScalarType::BFloat16:
      return f(static_cast<__nv_bfloat16*>(nullptr));
    default:
      fail(op, "float32, float64, float16 or bfloat16 only, got ", toString(dtype));
  }
}

// Kernels count the values of one tensor in 32 bits.
inline void check_sizes(const char* op, const std::vector<Tensor>& list) {
  for (const Tensor& t : list) expect(t.numel() < (int64_t(1) << 31), op, "more than 2^31 values");
}

inline std::vector<Tensor> contiguous_all(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> result;
  result.reserve(tensors.size());
  for (const Tensor& t : tensors) result.push_back(torch::stable::contiguous(t));
  return result;
}

// Results that were computed in copies go back to the tensors they belong to.
inline void write_back(std::vector<Tensor>& tensors, const std::vector<Tensor>& computed) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].const_data_ptr() != computed[i].const_data_ptr()) {
      torch::stable::copy_(tensors[i], computed[i]);
    }
  }
}

// Both tensors fill their memory without gaps and in the same order (channels_last, say), so
// that elementwise work may run over it flat. Strides of axes of length one say nothing.
inline bool same_dense_order(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != b.size(d)) return false;
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  }
  // Dense: starting from stride 1, some axis always goes on where the last one ended.
  int64_t covered = 1;
  for (bool grown = true; grown && covered < a.numel();) {
    grown = false;
    for (int64_t d = 0; d < a.dim() && !grown; ++d) {
      if (a.size(d) > 1 && a.stride(d) == covered) {
        covered *= a.size(d);
        grown = true;
      }
    }
  }
  return covered >= a.numel();
}

}  // namespace sparselth::cuda
