// unstructured_conv2d: a convolution by single kept weights, and its input gradient.
//
//   y[n, o, p] = sum over the entries (i, tap) of row o of  w[o, i, tap] * x[n, i, p + tap]
//
// For unstructured masks at high sparsity, on CUDA cores. x, y contiguous (N, C, H, W), of any
// 16-bit or 32-bit type; accumulation in float32, in the plan's order, so that results are the same
// in every run. A pruned weight does not multiply.
//
// A warp owns kSlots rows and walks their entries in the chunk of columns that lies in shared
// memory (unstructured_tile.cuh); 32 entries are read at once and handed round by shuffles. Per
// entry and warp: two shuffles, kPixels conflict-free reads of 32 words, kPixels fused
// multiply-adds. The reads bound it: one word per multiply-add, a quarter of the peak of float32.
//
// Reference: output-stationary sparse convolution as in Park et al., "Faster CNNs with Direct
// Sparse Convolutions and Guided Pruning", ICLR 2017; rows ordered by work as in Gale et al.,
// "Sparse GPU Kernels for Deep Learning", SC 2020.
#include "unstructured_tile.cuh"

namespace sparselth::cuda {

// --- device code --------------------------------------------------------------------------

// input: (batch, columns, in_h, in_w).  output: (batch, rows, out_h, out_w).  bias: per row, or
// null.
template <class T, int kPixels>
__global__ void convolve_unstructured(const __grid_constant__ UnstructuredTile t,
                                      const __grid_constant__ UnstructuredPlan plan, const T* input,
                                      const T* weight, const T* bias, int32_t rows, T* output) {
  extern __shared__ float tile[];
  const int32_t row_blocks = plan.slots / kRows, lane = threadIdx.x % 32;
  const int32_t row_block = blockIdx.x % row_blocks;
  const int32_t group = row_block * kWarps + threadIdx.x / 32;
  const Place place(t, blockIdx.x / row_blocks);
  const float* first_pixel = tile + place.offset(t);
  const int32_t pixel_step = t.down_h * t.plane_w;
  float sums[kSlots][kPixels] = {};
  for (int32_t chunk = 0; chunk < plan.chunks; ++chunk) {
    if (!plan.any(row_block, chunk)) continue;
    __syncthreads();  // the tile before has been read
    load_tile(t, place, chunk, input, tile);
    __syncthreads();
    const int32_t* run = plan.runs(group, chunk);
    const int32_t first = run[0], last = run[kSlots];
    trap_unless(first >= 0 && last <= plan.count);
    int32_t entry = first, offset = 0;
    float value = 0;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      for (const int32_t end = run[slot + 1]; entry < end; ++entry) {
        const int32_t turn = (entry - first) % 32;
        if (turn == 0 && entry + lane < last) {
          offset = tap_offset(t, plan.codes[entry + lane]);
          value = Number<T>::widen(weight[plan.position(entry + lane)]);
        }
        const float* pixel = first_pixel + __shfl_sync(kAllLanes, offset, turn);
        const float factor = __shfl_sync(kAllLanes, value, turn);
#pragma unroll
        for (int i = 0; i < kPixels; ++i) sums[slot][i] += factor * pixel[i * pixel_step];
      }
    }
  }
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int32_t row = plan.rows[group * kSlots + slot];
    if (row < 0) continue;
    trap_unless(row < rows);
    const float shift = bias == nullptr ? 0.0f : Number<T>::widen(bias[row]);
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      if (place.inside(t, i)) {
        output[place.index(t, rows, row, i)] = Number<T>::narrow(sums[slot][i] + shift);
      }
    }
  }
}

// --- launcher -----------------------------------------------------------------------------

template <class T>
void queue_convolve_unstructured(const UnstructuredTile& t, const UnstructuredPlan& plan,
                                 const void* input, const void* weight, const void* bias,
                                 int32_t rows, void* output, cudaStream_t stream) {
  const auto run = [&]<int kPixels>() {
    launch_shared(convolve_unstructured<T, kPixels>, uint32_t(t.tiles() * (plan.slots / kRows)),
                  t.shared_bytes(), stream, t, plan, static_cast<const T*>(input),
                  static_cast<const T*>(weight), static_cast<const T*>(bias), rows,
                  static_cast<T*>(output));
  };
  with_pixels(t.pixels, run);
}

}  // namespace sparselth::cuda

#ifndef SPARSELTH_EMULATION
#include "launch_unstructured.cuh"

namespace sparselth::cuda {

// bias: contiguous, or none.
Tensor convolved(const char* op, const UnstructuredCall& call, const Tensor& input,
                 const Tensor& weight, const std::optional<Tensor>& bias, int64_t rows) {
  const Tensor x = torch::stable::contiguous(input), w = torch::stable::contiguous(weight);
  const UnstructuredTile& t = call.tile;
  Tensor y = torch::stable::new_empty(input, {t.batch, rows, t.out_h, t.out_w});
  if (y.numel() == 0) return y;
  const DeviceGuard guard(input.get_device_index());
  dispatch_unstructured(input.scalar_type(), op, [&]<class T>(T*) {
    queue_convolve_unstructured<T>(t, call.plan, x.const_data_ptr(), w.const_data_ptr(),
                                   bias.has_value() ? bias->const_data_ptr() : nullptr,
                                   int32_t(rows), y.mutable_data_ptr(),
                                   current_stream(input.get_device_index()));
  });
  check_launch(op);
  return y;
}

Tensor unstructured_conv2d(const Tensor& input, const Tensor& weight, const Tensor& mask,
                           const std::optional<Tensor>& bias, const Tensor& plan, Ints stride,
                           Ints padding, Ints dilation, int64_t groups) {
  const char* op = "unstructured_conv2d";
  const ConvGeometry g =
      checked_forward(op, input, weight, mask, bias, stride, padding, dilation, groups);
  const UnstructuredCall call(op, forward_pass(g), plan, mask, g.c_out);
  std::optional<Tensor> shift;
  if (bias.has_value()) shift = torch::stable::contiguous(*bias);
  return convolved(op, call, input, weight, shift, g.c_out);
}

Tensor unstructured_conv2d_grad_input(const Tensor& grad_output, const Tensor& weight,
                                      const Tensor& mask, const Tensor& plan, Ints input_hw,
                                      Ints stride, Ints padding, Ints dilation, int64_t groups) {
  const char* op = "unstructured_conv2d_grad_input";
  const ConvGeometry g = checked_grad_input(op, grad_output, weight, mask, input_hw, stride,
                                            padding, dilation, groups);
  const UnstructuredCall call(op, backward_pass(g), plan, mask, g.c_in);
  return convolved(op, call, grad_output, weight, std::nullopt, g.c_in);
}

}  // namespace sparselth::cuda

// --- registration -------------------------------------------------------------------------

STABLE_TORCH_LIBRARY_IMPL(sparselth, CUDA, m) {
  m.impl("unstructured_conv2d", TORCH_BOX(&sparselth::cuda::unstructured_conv2d));
  m.impl("unstructured_conv2d_grad_input",
         TORCH_BOX(&sparselth::cuda::unstructured_conv2d_grad_input));
}
#endif
