// column_vector_conv2d: a convolution by vectors of kVector weights, and its input gradient, on
// tensor cores.
//
//   y[n, r, p] = sum over the vectors (i, tap) of r's group of  w[r, i, tap] * x[n, i, p + tap]
//
// 16 or 8 neighboring rows (the outputs of a forward, the inputs of an input gradient) make a
// group; a vector is one column (channel and tap) in which some row of the group keeps its weight.
// A mask of 16 x 1 or 8 x 1 vectors is multiplied at no loss in the forward; any other one is
// covered by vectors, zero where it prunes: at 98 % of scattered weights 28 % of the columns are
// left to groups of 16, 15 % to those of 8.
//
// Groups of columns are gathered by ldmatrix: it takes an address for each row of eight 16-bit
// values, so a tile of x lies in shared memory as [column][pixel][8 images], and the rows of a
// k-step's 16 columns may lie anywhere. No other instruction is spent on the gather. The plan deals
// the columns of a k-step to different banks, as far as it can.
//
// Vectors of 16 are the left operand of an mma, and 8 images of a pixel the right one. Vectors of 8
// are the right operand, and 8 images of two pixels the left one: what ldmatrix loads has the
// layout of both.
//
// x, y: channels_last, float16 or bfloat16, sums in float32, in the plan's order: the same results
// in every run. A block computes 64 rows for 32 pixels of 8 images, or 32 rows where else there
// would be too few blocks; a warp one group, for a part of the pixels. With 64 rows, per k-step and
// warp: 16 mma, and 8 ldmatrix.x4 with vectors of 16, 16 with those of 8, which shared memory then
// bounds: an expected half of the rate.
//
// Plan, int32, built by sparselth/ops/gpu/column_vector.py:
//   group of each slot    its first row / V for vectors of V, or -1; `slots` of them, a multiple of
//                         64 / V, those with the most vectors first
//   starts                slots * chunks + 1: where the k-steps of (slot, chunk of columns) begin
//   codes                 16 per k-step: column % kColumns, tap row << 5, tap column << 13; with
//                         kFiller one that fills up the k-step and counts as zero
//
// Reference: the operand layout of vectors follows Li et al., "Efficient Quantized Sparse Matrix
// Operations on Tensor Cores", SC 2022 (Magicube).
#include "column_vector_tile.cuh"
#include "tensor_core.cuh"
#include "weight_strides.cuh"

namespace sparselth::cuda {

// --- device code --------------------------------------------------------------------------

// Packs the weights as multiply_add takes them: packed[step][lane].
template <class T, int kVector>
__global__ void pack_vectors(const __grid_constant__ ColumnVectorPlan plan, const T* weight,
                             const bool* mask, const __grid_constant__ WeightStrides of_weight,
                             const __grid_constant__ WeightStrides of_mask, int32_t rows,
                             int32_t columns, int32_t kernel_h, int32_t kernel_w,
                             Weights<kVector>* packed) {
  const int32_t lane = threadIdx.x % 32;
  const int32_t step = blockIdx.x * kWarps + threadIdx.x / 32;
  if (step >= plan.steps) return;
  // The slot whose run holds the step: the last that does not begin after it.
  int32_t run = 0;
  for (int32_t end = plan.slots * plan.chunks; end - run > 1;) {
    const int32_t middle = (run + end) / 2;
    (plan.starts[middle] <= step ? run : end) = middle;
  }
  const int32_t group = plan.groups[run / plan.chunks];
  trap_unless(group >= 0 && group < ColumnVectorPlan::groups_of(rows, kVector));
  const int32_t first_row = group * kVector, first_column = run % plan.chunks * kColumns;
  const auto half = [&](int32_t place, int32_t of_step) -> uint32_t {
    const int32_t code = plan.codes[step * kStep + of_step], row = first_row + place;
    const int32_t column = first_column + (code & 31);
    const int32_t tap_row = code >> 5 & 255, tap_column = code >> 13 & 255;
    trap_unless(column < columns && tap_row < kernel_h && tap_column < kernel_w);
    if ((code & kFiller) != 0 || row >= rows) return 0;
    const int32_t tap = tap_row * kernel_w + tap_column;
    const bool kept = mask[of_mask.at(row, column, tap)];
    return kept ? bits_of(weight[of_weight.at(row, column, tap)]) : 0;
  };
  const auto pair = [&](int32_t row, int32_t column) {
    return half(row, column) | half(row, column + 1) << 16;
  };
  const int32_t row = lane / 4, column = lane % 4 * 2;
  if constexpr (kVector == 16) {
    packed[step * 32 + lane] = {pair(row, column), pair(row + 8, column), pair(row, column + 8),
                                pair(row + 8, column + 8)};
  } else {
    packed[step * 32 + lane] = {pair(row, column), pair(row, column + 8)};
  }
}

// Copies the tile's pixels of one chunk of columns to shared memory, zero where there are none: a
// thread takes four columns of a pixel for all images and turns them around. Neighboring threads
// take neighboring columns, which are neighbors in memory: 64 bytes of a pixel by eight of them.
// Each of the eight stores its columns in another order, so that all banks take part.
template <class T>
__device__ void load_vector_tile(const ColumnVectorTile& t, int32_t image, int32_t y, int32_t x,
                                 int32_t chunk, const T* input, uint4* tile) {
  const uint32_t pixels = t.plane_h * t.plane_w, count = t.quads() * pixels;
  const bool whole = t.columns % 4 == 0 && aligned_to<uint2>(input);
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) {
    const uint32_t pixel = t.by_quads.quotient(i), quad = i - pixel * t.quads();
    const uint32_t line = t.by_plane_w.quotient(pixel);
    const int32_t first = chunk * kColumns + int32_t(quad) * 4;
    const int64_t from_pixel = t.pixel_of(y, x, int32_t(line), int32_t(pixel - line * t.plane_w));
    const bool there = first < t.columns && from_pixel >= 0;
    uint32_t pairs[kImages][2];  // of columns
    const int64_t image_stride = int64_t(t.in_h) * t.in_w * t.columns;
    const T* from = input + image * image_stride + from_pixel * t.columns + first;
#pragma unroll
    for (int n = 0; n < kImages; ++n, from += image_stride) {
      uint2 values{0, 0};
      if (there && image + n < t.batch) {
        if (whole) {
          values = *reinterpret_cast<const uint2*>(from);
        } else {
          const auto half = [&](int32_t c) { return first + c < t.columns ? bits_of(from[c]) : 0; };
          values = {half(0) | half(1) << 16, half(2) | half(3) << 16};
        }
      }
      pairs[n][0] = values.x, pairs[n][1] = values.y;
    }
#pragma unroll
    for (int turn = 0; turn < 4; ++turn) {
      const uint32_t column = (turn + quad / 2) % 4, shift = column % 2 * 16;
      const auto half = [&](int n) {  // of image n; no index into registers
        return (column < 2 ? pairs[n][0] : pairs[n][1]) >> shift & 0xffff;
      };
      const auto both = [&](int n) { return half(n) | half(n + 1) << 16; };
      tile[(quad * 4 + column) * t.plane + pixel] = {both(0), both(2), both(4), both(6)};
    }
  }
}

// input: (batch, columns, in_h, in_w).  output: (batch, rows, out_h, out_w); both channels_last.
// bias: per row, or null.
template <class T, int kVector, int kRows>
__global__ void __launch_bounds__(kThreads, 2)  // two blocks: one loads while one multiplies
    convolve_column_vectors(const __grid_constant__ ColumnVectorTile t,
                            const __grid_constant__ ColumnVectorPlan plan, const T* input,
                            const Weights<kVector>* packed, const T* bias, int32_t rows,
                            T* output) {
  using Shares = Split<kVector, kRows>;
  constexpr int kGroups = Shares::kGroups, kPairs = Shares::kPairs, kSums = Shares::kSums;
  extern __shared__ uint4 tile[];
  const int32_t row_blocks = plan.slots / kGroups, lane = threadIdx.x % 32;
  const int32_t first_slot = blockIdx.x % row_blocks * kGroups, at = blockIdx.x / row_blocks;
  const int32_t x = at % t.tiles_x * t.tile_w, y = at / t.tiles_x % t.tiles_y * t.tile_h;
  const int32_t image = at / t.tiles_x / t.tiles_y * kImages;
  const int32_t warp = threadIdx.x / 32, slot = first_slot + warp % kGroups;
  const int32_t first_pixel = warp / kGroups * 2 * kPairs;
  // Lane l gives ldmatrix the rows of column l % 16, for the even pixels of a pair below lane 16.
  int32_t offsets[kPairs];
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) {
    const int32_t pixel = first_pixel + 2 * pair + lane / 16;
    offsets[pair] = pixel / t.tile_w * t.down_h * t.plane_w + pixel % t.tile_w * t.down_w;
  }
  float sums[kSums][4] = {};
  for (int32_t chunk = 0; chunk < plan.chunks; ++chunk) {
    bool any = false;
    for (int32_t s = first_slot; s < first_slot + kGroups; ++s) {
      const int32_t* run = plan.starts + s * plan.chunks + chunk;
      any = any || run[0] != run[1];
    }
    if (!any) continue;
    __syncthreads();  // the tile before has been read
    load_vector_tile(t, image, y, x, chunk, input, tile);
    __syncthreads();
    const int32_t* run = plan.starts + slot * plan.chunks + chunk;
    trap_unless(run[0] >= 0 && run[1] <= plan.steps);
    for (int32_t step = run[0]; step < run[1]; ++step) {
      const auto weights = packed[step * 32 + lane];
      const int32_t code = plan.codes[step * kStep + lane % kStep];
      const int32_t column = code & 31, tap_row = code >> 5 & 255, tap_column = code >> 13 & 255;
      trap_unless(column < t.columns && tap_row < t.kernel_h && tap_column < t.kernel_w);
      const uint4* from =
          tile + column * t.plane + tap_row * t.dilation_h * t.plane_w + tap_column * t.dilation_w;
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        uint32_t pixels[4];  // columns 0 to 7 and 8 to 15 of the even one, then of the odd one
        load_matrices_transposed(from + offsets[pair], pixels);
        if constexpr (kVector == 16) {
          multiply_add<T>(sums[2 * pair], weights, pixels[0], pixels[1]);
          multiply_add<T>(sums[2 * pair + 1], weights, pixels[2], pixels[3]);
        } else {
          const uint4 images{pixels[0], pixels[2], pixels[1], pixels[3]};
          multiply_add<T>(sums[pair], images, weights.x, weights.y);
        }
      }
    }
  }
  const int32_t group = plan.groups[slot];
  if (group < 0) return;
  trap_unless(group < ColumnVectorPlan::groups_of(rows, kVector));
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int32_t far = lane / 4, near = lane % 4 * 2 + j % 2, half = j / 2;  // in the result
      const int32_t pixel = first_pixel + (kVector == 16 ? i : 2 * i + half);
      const int32_t row = group * kVector + (kVector == 16 ? far + 8 * half : near);
      const int32_t n = image + (kVector == 16 ? near : far);
      const int32_t out_y = y + pixel / t.tile_w, out_x = x + pixel % t.tile_w;
      if (row < rows && n < t.batch && out_y < t.out_h && out_x < t.out_w) {
        const float shift = bias == nullptr ? 0.0f : Number<T>::widen(bias[row]);
        const int64_t line = int64_t(n) * t.out_h + out_y;
        output[(line * t.out_w + out_x) * rows + row] = Number<T>::narrow(sums[i][j] + shift);
      }
    }
  }
}

// --- launcher -----------------------------------------------------------------------------

// packed: bytes per k-step.
template <int kVector>
constexpr int64_t kPackedBytes = 32 * sizeof(Weights<kVector>);

template <class T, int kVector, int kRows>
void queue_blocks_of_rows(const ColumnVectorTile& t, const ColumnVectorPlan& plan,
                          const void* input, const void* packed, const void* bias, int32_t rows,
                          void* output, cudaStream_t stream) {
  const int32_t row_blocks = plan.slots / Split<kVector, kRows>::kGroups;
  launch_shared(convolve_column_vectors<T, kVector, kRows>, uint32_t(t.tiles() * row_blocks),
                t.shared_bytes(), stream, t, plan, static_cast<const T*>(input),
                static_cast<const Weights<kVector>*>(packed), static_cast<const T*>(bias), rows,
                static_cast<T*>(output));
}

template <class T, int kVector>
void queue_convolve_column_vectors(const ColumnVectorTile& t, const ColumnVectorPlan& plan,
                                   const void* input, const void* weight, const void* mask,
                                   const WeightStrides& of_weight, const WeightStrides& of_mask,
                                   const void* bias, int32_t rows, void* packed, void* output,
                                   cudaStream_t stream) {
  launch(pack_vectors<T, kVector>, uint32_t((plan.steps + kWarps - 1) / kWarps), stream, plan,
         static_cast<const T*>(weight), static_cast<const bool*>(mask), of_weight, of_mask, rows,
         t.columns, t.kernel_h, t.kernel_w, static_cast<Weights<kVector>*>(packed));
  const auto queue = [&](auto rows_of_block) {
    queue_blocks_of_rows<T, kVector, rows_of_block()>(t, plan, input, packed, bias, rows, output,
                                                      stream);
  };
  if (t.all_tiles() * (plan.slots / Split<kVector, kMostRows>::kGroups) < kEnoughBlocks)
    queue(std::integral_constant<int, kFewRows>{});
  else
    queue(std::integral_constant<int, kMostRows>{});
}

}  // namespace sparselth::cuda

#ifndef SPARSELTH_EMULATION
#include <torch/headeronly/core/MemoryFormat.h>

#include "common/layout.h"
#include "launch_conv.cuh"

namespace sparselth::cuda {

// rows: channels of the result.
template <int kVector>
Tensor convolved(const char* op, const ConvPass& pass, const Tensor& input, const Tensor& weight,
                 const Tensor& mask, const std::optional<Tensor>& bias, const Tensor& words,
                 int64_t rows, bool by_input, int64_t groups) {
  expect(groups == 1, op, "no groups");
  expect(is_channels_last(input), op, "activations in channels_last");
  ColumnVectorTile t;
  const bool fits = cut_into_vector_tiles(pass, t);
  const ColumnVectorPlan plan =
      read_column_vector_plan(plan_words(op, words, mask), words.numel(), rows, t.columns, kVector);
  check_conv(op, fits, plan.steps >= 0,
             t.all_tiles() * (plan.slots / Split<kVector, kMostRows>::kGroups));
  const Ints shape = {t.batch, rows, t.out_h, t.out_w};
  Tensor y = torch::stable::empty(shape, input.scalar_type(), std::nullopt, input.device(),
                                  std::nullopt, torch::headeronly::MemoryFormat::ChannelsLast);
  if (y.numel() == 0) return y;
  const DeviceGuard guard(input.get_device_index());
  const WeightInPlace w(weight, by_input), m(mask, by_input);
  std::optional<Tensor> b;
  if (bias.has_value()) b = torch::stable::contiguous(*bias);
  const int64_t bytes = plan.steps * kPackedBytes<kVector>;
  const Tensor packed = torch::stable::new_empty(input, {bytes}, ScalarType::Byte);
  dispatch_float(input.scalar_type(), op, [&]<class T>(T*) {
    if constexpr (sizeof(T) == 2) {
      queue_convolve_column_vectors<T, kVector>(
          t, plan, input.const_data_ptr(), w.tensor.const_data_ptr(), m.tensor.const_data_ptr(),
          w.strides, m.strides, b.has_value() ? b->const_data_ptr() : nullptr, int32_t(rows),
          packed.mutable_data_ptr(), y.mutable_data_ptr(),
          current_stream(input.get_device_index()));
    } else {
      fail(op, "float16 or bfloat16 only");
    }
  });
  check_launch(op);
  return y;
}

template <class... Args>
Tensor convolved_by(int64_t vector, const char* op, const Args&... args) {
  if (vector == 16) return convolved<16>(op, args...);
  expect(vector == 8, op, "vectors of 16 or 8 weights, got ", vector);
  return convolved<8>(op, args...);
}

Tensor column_vector_conv2d(const Tensor& input, const Tensor& weight, const Tensor& mask,
                            const std::optional<Tensor>& bias, const Tensor& plan, int64_t vector,
                            Ints stride, Ints padding, Ints dilation, int64_t groups) {
  const char* op = "column_vector_conv2d";
  const ConvGeometry g =
      checked_forward(op, input, weight, mask, bias, stride, padding, dilation, groups);
  return convolved_by(vector, op, forward_pass(g), input, weight, mask, bias, plan, g.c_out, false,
                      groups);
}

Tensor column_vector_conv2d_grad_input(const Tensor& grad_output, const Tensor& weight,
                                       const Tensor& mask, const Tensor& plan, int64_t vector,
                                       Ints input_hw, Ints stride, Ints padding, Ints dilation,
                                       int64_t groups) {
  const char* op = "column_vector_conv2d_grad_input";
  const ConvGeometry g = checked_grad_input(op, grad_output, weight, mask, input_hw, stride,
                                            padding, dilation, groups);
  return convolved_by(vector, op, backward_pass(g), grad_output, weight, mask,
                      std::optional<Tensor>(), plan, g.c_in, true, groups);
}

}  // namespace sparselth::cuda

// --- registration -------------------------------------------------------------------------

STABLE_TORCH_LIBRARY_IMPL(sparselth, CUDA, m) {
  m.impl("column_vector_conv2d", TORCH_BOX(&sparselth::cuda::column_vector_conv2d));
  m.impl("column_vector_conv2d_grad_input",
         TORCH_BOX(&sparselth::cuda::column_vector_conv2d_grad_input));
}
#endif
