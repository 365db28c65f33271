// unstructured_conv2d_grad_weight: the weight gradient of a convolution, at kept weights only.
//
//   dw[o, i, tap] = sum over n, p of  dy[n, o, p] * x[n, i, p + tap]     for every entry
//
// A sampled product of two dense matrices, whose cost is that of the entries. A block takes kRows
// rows and every `splits`-th tile of the images; a warp walks its rows' entries 32 at a time: per
// entry, each lane multiplies its kPixels gradients, held in registers while the row lasts, with
// pixels of the tile (unstructured_tile.cuh); then 32 entries' sums over 32 lanes are added in 31
// shuffles. Each block adds to partial sums of its own, which a second kernel adds up in order: no
// atomics, and the same bits in every run. Partial sums: splits x entries floats.
//
// Reference: the sampled product of Gale et al., "Sparse GPU Kernels for Deep Learning", SC 2020.
#include "unstructured_tile.cuh"

namespace sparselth::cuda {

// --- launch table -------------------------------------------------------------------------

// As many splits as give every SM of a large GPU several blocks; fewer where the partial sums would
// take more than 64 MiB. Nothing here depends on the GPU: the result must not.
#ifdef SPARSELTH_EMULATION
constexpr int32_t kBlocks = 3;  // the small cases there shall add tiles up as well
#else
constexpr int32_t kBlocks = 1024;
#endif
constexpr int32_t kPartialSums = 16 << 20;

inline int32_t splits_of(const UnstructuredTile& t, const UnstructuredPlan& plan) {
  int32_t splits = kBlocks / (plan.slots / kRows);
  const int32_t most = plan.count == 0 ? 1 : kPartialSums / plan.count;
  splits = splits < most ? splits : most;
  splits = splits < t.tiles() ? splits : t.tiles();
  return splits < 1 ? 1 : splits;
}

// --- device code --------------------------------------------------------------------------

// The sum over all lanes of sums[l], in lane l: of twice kHalf sums each lane hands on one half.
template <int kHalf>
__device__ float transposed_sum(float* sums) {
  if constexpr (kHalf > 0) {
    const bool upper = (threadIdx.x & kHalf) != 0;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const float kept = upper ? sums[i + kHalf] : sums[i];
      const float given = upper ? sums[i] : sums[i + kHalf];
      sums[i] = kept + __shfl_xor_sync(kAllLanes, given, kHalf);
    }
    return transposed_sum<kHalf / 2>(sums);
  }
  return sums[0];
}

// input: (batch, columns, in_h, in_w).  grad_output: (batch, rows, out_h, out_w).
// partial: (splits, entries), written in full.
template <class T, int kPixels>
__global__ void correlate_unstructured(const __grid_constant__ UnstructuredTile t,
                                       const __grid_constant__ UnstructuredPlan plan,
                                       const T* input, const T* grad_output, int32_t rows,
                                       int32_t splits, float* partial) {
  extern __shared__ float tile[];
  const int32_t row_blocks = plan.slots / kRows, lane = threadIdx.x % 32;
  const int32_t row_block = blockIdx.x % row_blocks, split = blockIdx.x / row_blocks;
  const int32_t group = row_block * kWarps + threadIdx.x / 32;
  const int32_t pixel_step = t.down_h * t.plane_w;
  const int64_t plane = int64_t(t.out_h) * t.out_w;
  float* results = partial + int64_t(split) * plan.count;
  for (int32_t at = split; at < t.tiles(); at += splits) {
    const Place place(t, at);
    const float* first_pixel = tile + place.offset(t);
    const T* lane_grads = grad_output + place.index(t, rows, 0, 0);
    uint32_t inside = 0;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) inside |= uint32_t(place.inside(t, i)) << i;
    for (int32_t chunk = 0; chunk < plan.chunks; ++chunk) {
      if (!plan.any(row_block, chunk)) continue;
      __syncthreads();  // the tile before has been read
      load_tile(t, place, chunk, input, tile);
      __syncthreads();
      const int32_t* run = plan.runs(group, chunk);
      const int32_t last = run[kSlots];
      trap_unless(run[0] >= 0 && last <= plan.count);
      int32_t held = -1;  // the slot whose gradients are in registers
      float grads[kPixels] = {};
      for (int32_t first = run[0]; first < last; first += 32) {
        const bool mine = first + lane < last;
        const int32_t code = mine ? plan.codes[first + lane] : 0;
        const int32_t offset = mine ? tap_offset(t, code) : 0, slot = slot_of(code);
        float sums[32];
#pragma unroll
        for (int turn = 0; turn < 32; ++turn) {
          sums[turn] = 0;
          if (first + turn < last) {
            const int32_t wanted = __shfl_sync(kAllLanes, slot, turn);
            const float* pixel = first_pixel + __shfl_sync(kAllLanes, offset, turn);
            if (wanted != held) {
              held = wanted;
              const int32_t row = plan.rows[group * kSlots + wanted];
              trap_unless(row >= 0 && row < rows);
              const T* line = lane_grads + row * plane;
#pragma unroll
              for (int i = 0; i < kPixels; ++i) {
                grads[i] = inside >> i & 1 ? Number<T>::widen(line[i * t.out_w]) : 0.0f;
              }
            }
            // Not zero times what lies outside: that may be infinite.
#pragma unroll
            for (int i = 0; i < kPixels; ++i) {
              if (inside >> i & 1) sums[turn] += grads[i] * pixel[i * pixel_step];
            }
          }
        }
        const float total = transposed_sum<16>(sums);
        if (mine) {
          float& result = results[first + lane];
          result = at == split ? total : result + total;
        }
      }
    }
  }
}

// Adds up the splits and puts each entry's gradient in its place: 32 entries of a thread block, of
// which each warp adds every eighth split, so that 1,024 of them are no chain of as many loads.
template <class T>
__global__ void finish_unstructured(const __grid_constant__ UnstructuredPlan plan,
                                    const float* partial, int32_t splits, T* grad_weight) {
  __shared__ float of_warps[kThreads];
  const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t entry = int32_t(blockIdx.x) * 32 + lane;
  const bool there = entry < plan.count;
  float total = 0;
#pragma unroll 4
  for (int32_t split = warp; split < splits; split += kWarps)
    if (there) total += partial[int64_t(split) * plan.count + entry];
  of_warps[threadIdx.x] = total;
  __syncthreads();
  if (warp != 0 || !there) return;
  for (int32_t other = 1; other < kWarps; ++other) total += of_warps[other * 32 + lane];
  grad_weight[plan.position(entry)] = Number<T>::narrow(total);
}

// --- launcher -----------------------------------------------------------------------------

// partial: splits_of(t, plan) * plan.count floats.  grad_weight: zero where nothing is kept.
template <class T>
void queue_correlate_unstructured(const UnstructuredTile& t, const UnstructuredPlan& plan,
                                  const void* input, const void* grad_output, int32_t rows,
                                  void* partial, void* grad_weight, cudaStream_t stream) {
  if (plan.count == 0) return;
  const int32_t splits = splits_of(t, plan);
  const auto run = [&]<int kPixels>() {
    launch_shared(correlate_unstructured<T, kPixels>, uint32_t(splits * (plan.slots / kRows)),
                  t.shared_bytes(), stream, t, plan, static_cast<const T*>(input),
                  static_cast<const T*>(grad_output), rows, splits, static_cast<float*>(partial));
  };
  with_pixels(t.pixels, run);
  launch(finish_unstructured<T>, uint32_t((plan.count + 31) / 32), stream, plan,
         static_cast<const float*>(partial), splits, static_cast<T*>(grad_weight));
}

}  // namespace sparselth::cuda

#ifndef SPARSELTH_EMULATION
#include "launch_unstructured.cuh"

namespace sparselth::cuda {

Tensor unstructured_conv2d_grad_weight(const Tensor& grad_output, const Tensor& input,
                                       const Tensor& mask, const Tensor& plan, Ints stride,
                                       Ints padding, Ints dilation, int64_t groups) {
  const char* op = "unstructured_conv2d_grad_weight";
  const ConvGeometry geometry =
      checked_grad_weight(op, grad_output, input, mask, stride, padding, dilation, groups);
  const UnstructuredCall call(op, forward_pass(geometry), plan, mask, geometry.c_out);
  const Tensor x = torch::stable::contiguous(input), g = torch::stable::contiguous(grad_output);
  Tensor grad = torch::stable::new_zeros(input, mask.sizes());
  if (x.numel() == 0 || g.numel() == 0) return grad;
  const DeviceGuard guard(input.get_device_index());
  const int64_t sums = int64_t(splits_of(call.tile, call.plan)) * call.plan.count;
  const Tensor partial = torch::stable::new_empty(input, {sums}, ScalarType::Float);
  dispatch_unstructured(input.scalar_type(), op, [&]<class T>(T*) {
    queue_correlate_unstructured<T>(call.tile, call.plan, x.const_data_ptr(), g.const_data_ptr(),
                                    int32_t(mask.size(0)), partial.mutable_data_ptr(),
                                    grad.mutable_data_ptr(),
                                    current_stream(input.get_device_index()));
  });
  check_launch(op);
  return grad;
}

}  // namespace sparselth::cuda

// --- registration -------------------------------------------------------------------------

STABLE_TORCH_LIBRARY_IMPL(sparselth, CUDA, m) {
  m.impl("unstructured_conv2d_grad_weight",
         TORCH_BOX(&sparselth::cuda::unstructured_conv2d_grad_weight));
}
#endif
