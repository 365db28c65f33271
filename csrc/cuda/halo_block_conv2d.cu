// halo_block_conv2d: a convolution by blocks of 32 x 32 weights of one tap, and its input gradient,
// on tensor cores.
//
//   y[n, r, p] = sum over the blocks (i, tap) of r's rows of  w[r, i, tap] * x[n, i, p + tap]
//
// A block is 32 neighboring rows (the outputs of a forward, the inputs of an input gradient) by as
// many neighboring columns (channels that are summed over) of one tap, in which any weight is kept.
// A mask of 32 x 32 blocks is multiplied at no loss, in both directions.
//
// A thread block computes 128 rows for 256 pixels. It takes 32 columns at a time: the pixels that
// any tap reaches, the tile with its halo, are copied to shared memory once, for all taps and all
// 128 rows, while those before are multiplied. So a pixel comes from memory once for 128 rows,
// where an implicit GEMM fetches it for every tap.
//
// A pixel's 32 columns are four segments of 16 bytes, stored in an order that turns with the pixel:
// eight neighboring pixels have the same segment in different banks. They are the left operand of
// mma, which ldmatrix gathers from anywhere: a tap is a distance in shared memory. The right one is
// a block of weights, packed beforehand in the order of the lanes' registers, so that a warp reads
// it in whole cache lines.
//
// x, y: channels_last, float16 or bfloat16, sums in float32, in the plan's order: the same results
// in every run. Per block of weights and warp, for 32 pixels: 16 mma, 4 ldmatrix.x4 and 4 loads of
// 16 bytes a lane.
//
// Plan, int32, built by sparselth/ops/gpu/halo_blocks.py:
//   starts    row blocks * chunks + 1: where the blocks of (32 rows, 32 columns) begin
//   codes     per block: tap row, tap column << 8
//   runs      per block: row block * chunks + chunk, for whoever packs the weights
#include "halo_block_tile.cuh"
#include "weight_strides.cuh"

namespace sparselth::cuda {

// --- device code --------------------------------------------------------------------------

// Packs the weights as convolve_halo_blocks takes them: packed[block][fragment][lane].
template <class T>
__global__ void pack_halo_blocks(const __grid_constant__ HaloPlan plan, const T* weight,
                                 const bool* mask, const __grid_constant__ WeightStrides of_weight,
                                 const __grid_constant__ WeightStrides of_mask, int32_t rows,
                                 int32_t columns, int32_t kernel_h, int32_t kernel_w,
                                 uint4* packed) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int32_t block = int32_t(i / (kFragments * 32)), lane = int32_t(i % 32);
  if (block >= plan.blocks) return;
  const int32_t fragment = int32_t(i / 32 % kFragments);
  const int32_t run = plan.runs[block], code = plan.codes[block];
  const int32_t tap_row = code & 255, tap_column = code >> 8 & 255;
  trap_unless(run >= 0 && run < plan.row_blocks * plan.chunks && tap_row < kernel_h &&
              tap_column < kernel_w);
  const int32_t tap = tap_row * kernel_w + tap_column;
  const int32_t first_row = run / plan.chunks * kEdge, first_column = run % plan.chunks * kEdge;
  const auto half = [&](int32_t row, int32_t column) -> uint32_t {
    row += first_row, column += first_column;
    if (row >= rows || column >= columns) return 0;
    const bool kept = mask[of_mask.at(row, column, tap)];
    return kept ? bits_of(weight[of_weight.at(row, column, tap)]) : 0;
  };
  const auto pair = [&](int32_t row, int32_t column) {
    return half(row, column) | half(row, column + 1) << 16;
  };
  // Two halves of 16 columns, of two times 8 rows.
  const int32_t column = fragment / 2 * 16 + lane % 4 * 2, row = fragment % 2 * 16 + lane / 4;
  packed[i] = {pair(row, column), pair(row, column + 8), pair(row + 8, column),
               pair(row + 8, column + 8)};
}

// Which of a pixel's segments has the place `segment`, and which place a segment has.
__device__ inline int32_t turned(int32_t pixel, int32_t segment) {
  return segment ^ (pixel >> 1 & (kSegments - 1));
}

// Copies one chunk of columns of the tile's pixels to shared memory, zero where there are none.
// origin: per pixel of the tile, its place in the input, or -1.
template <class T>
__device__ void load_halo_tile(const HaloTile& t, const int32_t* origin, int32_t chunk,
                               const T* input, uint4* tile) {
  const bool whole = t.columns % 8 == 0 && aligned_to<uint4>(input);
  for (int32_t i = threadIdx.x; i < t.halo * kSegments; i += kThreads) {
    const int32_t pixel = i / kSegments, segment = i % kSegments;
    const int32_t first = chunk * kEdge + segment * 8, from = origin[pixel];
    uint4* to = tile + pixel * kSegments + turned(pixel, segment);
    const bool there = from >= 0 && first < t.columns;
    const T* values = input + (there ? int64_t(from) * t.columns + first : 0);
    copy_segment(to, values, t.columns - first, there, whole);
  }
}

// input: (batch, columns, in_h, in_w).  output: (batch, rows, out_h, out_w); both channels_last.
// bias: per row, or null.
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    convolve_halo_blocks(const __grid_constant__ HaloTile t, const __grid_constant__ HaloPlan plan,
                         const T* input, const uint4* packed, const T* bias, int32_t rows,
                         T* output) {
  extern __shared__ uint4 tiles[];
  int32_t* const origin = reinterpret_cast<int32_t*>(tiles + t.stages * t.halo * kSegments);
  const int32_t groups = plan.row_groups(), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t first_block = blockIdx.x % groups * kRowBlocks, at = blockIdx.x / groups;
  const int32_t x = at % t.tiles_x * t.tile_w, y = at / t.tiles_x % t.tiles_y * t.tile_h;
  const int32_t image = at / t.tiles_x / t.tiles_y * t.tile_n;

  for (uint32_t i = threadIdx.x; i < uint32_t(t.halo); i += kThreads) {
    const uint32_t n = t.by_plane.quotient(i), pixel = i - n * (t.plane_h * t.plane_w);
    const uint32_t line = t.by_plane_w.quotient(pixel);
    const int64_t from = t.pixel_of(y, x, int32_t(line), int32_t(pixel - line * t.plane_w));
    const bool there = from >= 0 && image + int32_t(n) < t.batch;
    origin[i] = there ? int32_t((image + n) * int64_t(t.in_h) * t.in_w + from) : -1;
  }

  // Lane l gives ldmatrix pixel l % 16 of a tile of 16, columns 0 to 7 below lane 16, else 8 to 15.
  int32_t places[kWarpTiles];
#pragma unroll
  for (int m = 0; m < kWarpTiles; ++m) {
    const int32_t pixel = (warp * kWarpTiles + m) * 16 + lane % 16;
    const int32_t n = pixel / (t.tile_h * t.tile_w), within = pixel % (t.tile_h * t.tile_w);
    const int32_t row = within / t.tile_w * t.down_h, column = within % t.tile_w * t.down_w;
    places[m] = (n * t.plane_h + row) * t.plane_w + column;
  }

  const auto starts_of = [&](int32_t block) { return plan.starts + block * plan.chunks; };
  const int32_t last_block = min(uint32_t(first_block + kRowBlocks), uint32_t(plan.row_blocks));
  // The next chunk from `chunk` on in which any of the rows has a block.
  const auto next_used = [&](int32_t chunk) {
    for (; chunk < plan.chunks; ++chunk)
      for (int32_t block = first_block; block < last_block; ++block)
        if (starts_of(block)[chunk] != starts_of(block)[chunk + 1]) return chunk;
    return chunk;
  };

  float sums[kRowBlocks][kWarpTiles][4][4] = {};
  const auto multiply = [&](int32_t chunk, const uint4* tile) {
#pragma unroll
    for (int j = 0; j < kRowBlocks; ++j) {
      if (first_block + j >= plan.row_blocks) break;
      const int32_t* run = starts_of(first_block + j) + chunk;
      const int32_t end = run[1];
      trap_unless(run[0] >= 0 && end <= plan.blocks);
      for (int32_t block = run[0]; block < end; ++block) {
        const int32_t code = plan.codes[block], tap_row = code & 255, tap_column = code >> 8 & 255;
        trap_unless(tap_row < t.kernel_h && tap_column < t.kernel_w);
        const int32_t shift = tap_row * t.dilation_h * t.plane_w + tap_column * t.dilation_w;
        uint4 weights[kFragments];
#pragma unroll
        for (int f = 0; f < kFragments; ++f)
          weights[f] = packed[(block * kFragments + f) * 32 + lane];
#pragma unroll
        for (int m = 0; m < kWarpTiles; ++m) {
          const int32_t pixel = places[m] + shift;
#pragma unroll
          for (int k = 0; k < kFragments / 2; ++k) {
            uint32_t a[4];
            load_matrices(tile + pixel * kSegments + turned(pixel, 2 * k + lane / 16), a);
            const uint4 pixels{a[0], a[1], a[2], a[3]};
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              const uint4& w = weights[2 * k + half];
              multiply_add<T>(sums[j][m][2 * half], pixels, w.x, w.y);
              multiply_add<T>(sums[j][m][2 * half + 1], pixels, w.z, w.w);
            }
          }
        }
      }
    }
  };

  __syncthreads();  // origin is there
  int32_t chunk = next_used(0);
  if (chunk < plan.chunks) load_halo_tile(t, origin, chunk, input, tiles);
  commit_copies();
  for (int32_t stage = 0; chunk < plan.chunks;) {
    const int32_t following = next_used(chunk + 1);
    const int32_t ahead = t.stages == 2 ? 1 - stage : 0;
    uint4* const next_tile = tiles + ahead * t.halo * kSegments;
    if (t.stages == 2) {
      if (following < plan.chunks) load_halo_tile(t, origin, following, input, next_tile);
      commit_copies();
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();  // all have copied their part
    multiply(chunk, tiles + stage * t.halo * kSegments);
    __syncthreads();  // the tile has been read
    if (t.stages == 1 && following < plan.chunks) {
      load_halo_tile(t, origin, following, input, next_tile);
      commit_copies();
    }
    chunk = following, stage = ahead;
  }

#pragma unroll
  for (int m = 0; m < kWarpTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t pixel = (warp * kWarpTiles + m) * 16 + lane / 4 + half * 8;
      const int32_t n = image + pixel / (t.tile_h * t.tile_w),
                    within = pixel % (t.tile_h * t.tile_w);
      const int32_t out_y = y + within / t.tile_w, out_x = x + within % t.tile_w;
      if (n >= t.batch || out_y >= t.out_h || out_x >= t.out_w) continue;
      T* const to = output + ((int64_t(n) * t.out_h + out_y) * t.out_w + out_x) * rows;
#pragma unroll
      for (int j = 0; j < kRowBlocks; ++j) {
#pragma unroll
        for (int f = 0; f < 4; ++f) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const int32_t row = (first_block + j) * kEdge + f * 8 + lane % 4 * 2 + c;
            if (row >= rows) continue;
            const float shift = bias == nullptr ? 0.0f : Number<T>::widen(bias[row]);
            to[row] = Number<T>::narrow(sums[j][m][f][2 * half + c] + shift);
          }
        }
      }
    }
  }
}

// --- launcher -----------------------------------------------------------------------------

constexpr int64_t kPackedBytes = kFragments * 32 * 16;  // of a block

template <class T>
void queue_convolve_halo_blocks(const HaloTile& t, const HaloPlan& plan, const void* input,
                                const void* weight, const void* mask,
                                const WeightStrides& of_weight, const WeightStrides& of_mask,
                                const void* bias, int32_t rows, void* packed, void* output,
                                cudaStream_t stream) {
  auto* weights = static_cast<uint4*>(packed);
  const int64_t lanes = int64_t(plan.blocks) * kFragments * 32;
  launch(pack_halo_blocks<T>, uint32_t((lanes + kThreads - 1) / kThreads), stream, plan,
         static_cast<const T*>(weight), static_cast<const bool*>(mask), of_weight, of_mask, rows,
         t.columns, t.kernel_h, t.kernel_w, weights);
  launch_shared(convolve_halo_blocks<T>, uint32_t(t.all_tiles() * plan.row_groups()),
                t.shared_bytes(), stream, t, plan, static_cast<const T*>(input), weights,
                static_cast<const T*>(bias), rows, static_cast<T*>(output));
}

}  // namespace sparselth::cuda

#ifndef SPARSELTH_EMULATION
#include <torch/headeronly/core/MemoryFormat.h>

#include "common/layout.h"
#include "launch_conv.cuh"

namespace sparselth::cuda {

// rows: channels of the result.
Tensor convolved_by_halo_blocks(const char* op, const ConvPass& pass, const Tensor& input,
                                const Tensor& weight, const Tensor& mask,
                                const std::optional<Tensor>& bias, const Tensor& words,
                                int64_t rows, bool by_input, int64_t groups) {
  expect(groups == 1, op, "no groups");
  expect(is_channels_last(input), op, "activations in channels_last");
  HaloTile t;
  const bool fits = cut_into_halo_tiles(pass, t);
  const HaloPlan plan =
      read_halo_plan(plan_words(op, words, mask), words.numel(), rows, pass.columns);
  check_conv(op, fits, plan.blocks >= 0, fits ? t.all_tiles() * plan.row_groups() : 0);
  const Ints shape = {t.batch, rows, t.out_h, t.out_w};
  Tensor y = torch::stable::empty(shape, input.scalar_type(), std::nullopt, input.device(),
                                  std::nullopt, torch::headeronly::MemoryFormat::ChannelsLast);
  if (y.numel() == 0) return y;
  const DeviceGuard guard(input.get_device_index());
  const WeightInPlace w(weight, by_input), m(mask, by_input);
  std::optional<Tensor> b;
  if (bias.has_value()) b = torch::stable::contiguous(*bias);
  const Tensor packed =
      torch::stable::new_empty(input, {plan.blocks * kPackedBytes}, ScalarType::Byte);
  dispatch_float(input.scalar_type(), op, [&]<class T>(T*) {
    if constexpr (sizeof(T) == 2) {
      queue_convolve_halo_blocks<T>(t, plan, input.const_data_ptr(), w.tensor.const_data_ptr(),
                                    m.tensor.const_data_ptr(), w.strides, m.strides,
                                    b.has_value() ? b->const_data_ptr() : nullptr, int32_t(rows),
                                    packed.mutable_data_ptr(), y.mutable_data_ptr(),
                                    current_stream(input.get_device_index()));
    } else {
      fail(op, "float16 or bfloat16 only");
    }
  });
  check_launch(op);
  return y;
}

Tensor halo_block_conv2d(const Tensor& input, const Tensor& weight, const Tensor& mask,
                         const std::optional<Tensor>& bias, const Tensor& plan, Ints stride,
                         Ints padding, Ints dilation, int64_t groups) {
  const char* op = "halo_block_conv2d";
  const ConvGeometry g =
      checked_forward(op, input, weight, mask, bias, stride, padding, dilation, groups);
  return convolved_by_halo_blocks(op, forward_pass(g), input, weight, mask, bias, plan, g.c_out,
                                  false, groups);
}

Tensor halo_block_conv2d_grad_input(const Tensor& grad_output, const Tensor& weight,
                                    const Tensor& mask, const Tensor& plan, Ints input_hw,
                                    Ints stride, Ints padding, Ints dilation, int64_t groups) {
  const char* op = "halo_block_conv2d_grad_input";
  const ConvGeometry g = checked_grad_input(op, grad_output, weight, mask, input_hw, stride,
                                            padding, dilation, groups);
  return convolved_by_halo_blocks(op, backward_pass(g), grad_output, weight, mask, std::nullopt,
                                  plan, g.c_in, true, groups);
}

}  // namespace sparselth::cuda

// --- registration -------------------------------------------------------------------------

STABLE_TORCH_LIBRARY_IMPL(sparselth, CUDA, m) {
  m.impl("halo_block_conv2d", TORCH_BOX(&sparselth::cuda::halo_block_conv2d));
  m.impl("halo_block_conv2d_grad_input", TORCH_BOX(&sparselth::cuda::halo_block_conv2d_grad_input));
}
#endif
