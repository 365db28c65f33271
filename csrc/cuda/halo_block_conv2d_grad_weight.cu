// halo_block_conv2d_grad_weight: the weight gradient of a convolution, at kept blocks of 32 x 32
// weights of one tap, on tensor cores.
//
//   dw[o, i, tap] = sum over n, p of  dy[n, o, p] * x[n, i, p + tap]     for every block
//
// A panel is 128 outputs by 128 inputs. Up to 40 of its kept blocks are an item of work: each of a
// thread block's warps has up to five of them in registers, of any taps, over all pixels that the
// thread block sums. Those come 64 at a time: dy, and x with its halo, are copied to shared memory
// once for all blocks of the item, while the pixels before are multiplied; channels that no block
// of the item has are left out. A split of the tiles among thread blocks fills the GPU; each split
// leaves partial sums, which a second kernel adds up in order: no atomics, and the same bits in
// every run.
//
// dy transposed is the left operand of mma and x the right one, both gathered by ldmatrix.trans: a
// tap is a distance in shared memory. A pixel's 128 channels are 16 segments of 16 bytes, stored in
// an order that turns with the pixel: eight neighboring pixels have the same segment in different
// banks. What lies around pixels outside the result may be infinite: there x is read from a pixel
// of zeros.
//
// x, dy: channels_last, float16 or bfloat16; sums in float32, rounded once. Per block of weights,
// for 16 pixels: 8 mma, 2 ldmatrix.x4 of x, and 2 of dy, once for a warp's neighboring blocks of
// the same outputs; with addresses, 30 instructions (sm_90). The first kernel also writes the
// zeros: most blocks of dw may not be listed, and nobody else would come by.
//
// Plan, int32, built by sparselth/ops/gpu/halo_blocks.py: 41 words per item,
//   panel     row panel * column panels + column panel
//   codes     of five blocks for each warp, those of the same outputs together: row block within
//             the panel, column block << 2, tap row << 4, tap column << 12; -1 where there is none
#include "halo_block_panel.cuh"

namespace sparselth::cuda {

// --- device code --------------------------------------------------------------------------

// Where a pixel's segment lies.
__device__ inline int32_t panel_place(int32_t pixel, int32_t segment) {
  return pixel * kPanelSegments + (segment ^ (pixel & 7));
}

// Where the pixels of tile `at` come from, or -1: first dy's, then those of x.
__device__ inline void find_origins(const PanelTile& t, int32_t at, int32_t* origin) {
  const uint32_t line_of_tiles = t.by_tiles_x.quotient(at);
  const uint32_t block_of_tiles = t.by_tiles_y.quotient(line_of_tiles);
  const int32_t x = int32_t(at - line_of_tiles * t.tiles_x) * t.tile_w;
  const int32_t y = int32_t(line_of_tiles - block_of_tiles * t.tiles_y) * t.tile_h;
  const int32_t image = int32_t(block_of_tiles) * t.tile_n;
  for (uint32_t i = threadIdx.x; i < uint32_t(kTilePixels + t.halo); i += kThreads) {
    int64_t from = -1;
    if (i < kTilePixels) {
      const uint32_t line = t.by_tile_w.quotient(i), plane = t.by_tile_h.quotient(line);
      const int32_t n = image + int32_t(plane), out_y = y + int32_t(line - plane * t.tile_h);
      const int32_t out_x = x + int32_t(i - line * t.tile_w);
      if (n < t.batch && out_y < t.out_h && out_x < t.out_w)
        from = (int64_t(n) * t.out_h + out_y) * t.out_w + out_x;
    } else {
      const uint32_t p = i - kTilePixels, plane = t.by_plane.quotient(p);
      const uint32_t pixel = p - plane * (t.plane_h * t.plane_w);
      const uint32_t line = t.by_plane_w.quotient(pixel);
      from = t.pixel_of(y, x, int32_t(line), int32_t(pixel - line * t.plane_w));
      const int32_t n = image + int32_t(plane);
      from = from >= 0 && n < t.batch ? int64_t(n) * t.in_h * t.in_w + from : -1;
    }
    origin[i] = int32_t(from);
  }
}

// Copies a panel's channels, from `first` on, of `count` pixels, zero where there are none.
// used: the groups of 32 channels that are read.
template <class T>
__device__ void load_panel(const int32_t* origin, int32_t count, int32_t channels, int32_t first,
                           uint32_t used, const T* values, uint4* tile) {
  constexpr int32_t kStep = kThreads / kPanelSegments;  // a multiple of 8: the place does not turn
  const bool whole = channels % 8 == 0 && aligned_to<uint4>(values);
  const int32_t segment = threadIdx.x % kPanelSegments, pixel = threadIdx.x / kPanelSegments;
  if ((used >> segment / kSegments & 1) == 0) return;
  first += segment * 8;
  tile += panel_place(pixel, segment);
  for (int32_t p = pixel; p < count; p += kStep, tile += kStep * kPanelSegments) {
    const int32_t from = origin[p];
    const bool there = from >= 0 && first < channels;
    copy_segment(tile, values + (there ? int64_t(from) * channels + first : 0), channels - first,
                 there, whole);
  }
}

// input: (batch, columns, in_h, in_w).  grad_output: (batch, rows, out_h, out_w); channels_last.
// partial: [split][item][slot][16 x 8 weights][lane].  grad_weight: `weights` of them, zeroed.
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    correlate_halo_blocks(const __grid_constant__ PanelTile t,
                          const __grid_constant__ PanelPlan plan, const T* input,
                          const T* grad_output, int32_t rows, int32_t splits, uint32_t weights,
                          Sums* partial, T* grad_weight) {
  extern __shared__ uint4 tiles[];
  int32_t* const origins =
      reinterpret_cast<int32_t*>(tiles + t.stages * t.pixels() * kPanelSegments);
  const auto stage_of = [&](int32_t turn) {
    return tiles + (t.stages == 2 ? turn & 1 : 0) * t.pixels() * kPanelSegments;
  };
  const auto origin_of = [&](int32_t turn) { return origins + (turn & 1) * t.pixels(); };
  const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int32_t item = blockIdx.x % plan.items, split = blockIdx.x / plan.items;

  for (int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kVec<T>; i < weights;
       i += int64_t(splits) * plan.items * kTile<T>)
    store_pack(grad_weight, uint32_t(i), valid_count<kVec<T>>(uint32_t(i), weights), Pack<T>{});

  uint32_t used = 0;  // groups of 32 channels that blocks have: of dy, and of x from bit 4 on
  for (int32_t slot = lane; slot < kItemBlocks; slot += 32) {
    const PanelBlock block(plan, item, slot);
    if (block.listed) used |= 1u << block.row | 1u << kPanelEdge << block.column;
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    used |= __shfl_xor_sync(kAllLanes, used, distance);
  // Of the warp's blocks: where dy's and x's channels begin in a pixel, and how far the tap is.
  int32_t grad_segment[kSlots], segment[kSlots], shift[kSlots], count = 0;
  int32_t first_row, first_column;  // of the panel
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const PanelBlock block(plan, item, warp * kSlots + s);
    grad_segment[s] = block.row * kSegments, segment[s] = block.column * kSegments;
    shift[s] = block.tap_row * t.dilation_h * t.plane_w + block.tap_column * t.dilation_w;
    first_row = block.first_row - block.row * kEdge;
    first_column = block.first_column - block.column * kEdge;
    if (block.listed) count = s + 1;
  }

  // ldmatrix takes of lane l: of x, pixel l % 16 of 16 and channels 0 to 7 below lane 16, else 8 to
  // 15; of dy, pixel l % 8, + 8 from lane 16 on, and channels 8 to 15 of every odd eight lanes.
  int32_t places[kSteps];
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    const int32_t pixel = k * 16 + lane % 16;
    const int32_t n = pixel / (t.tile_h * t.tile_w), within = pixel % (t.tile_h * t.tile_w);
    const int32_t row = within / t.tile_w * t.down_h, column = within % t.tile_w * t.down_w;
    places[k] = (n * t.plane_h + row) * t.plane_w + column;
  }
  const int32_t grad_pixel = lane / 16 * 8 + lane % 8;
  const int32_t grad_place = panel_place(grad_pixel, lane / 8 % 2);

  float sums[kSlots][2][4][4] = {};
  // inside: bit k, whether the lane's pixel of step k is one of the result's.
  const auto multiply = [&](const uint4* grads, uint32_t inside) {
    const uint4* const pixels = grads + kTilePixels * kPanelSegments;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      int32_t held = -1;  // whose gradients are in registers
      uint4 a[2];
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        if (s >= count) break;
        if (grad_segment[s] != held) {
          held = grad_segment[s];
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            uint32_t parts[4];
            load_matrices_transposed(grads + k * 16 * kPanelSegments + (grad_place ^ held ^ 2 * m),
                                     parts);
            a[m] = {parts[0], parts[1], parts[2], parts[3]};
          }
        }
        const int32_t pixel = inside >> k & 1 ? places[k] + shift[s] : t.halo;
        const int32_t place = panel_place(pixel, segment[s] + lane / 16);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t b[4];
          load_matrices_transposed(pixels + (place ^ 2 * half), b);
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            multiply_add<T>(sums[s][m][2 * half], a[m], b[0], b[1]);
            multiply_add<T>(sums[s][m][2 * half + 1], a[m], b[2], b[3]);
          }
        }
      }
    }
  };

  const auto load = [&](int32_t turn) {
    uint4* const grads = stage_of(turn);
    load_panel(origin_of(turn), kTilePixels, rows, first_row, used, grad_output, grads);
    load_panel(origin_of(turn) + kTilePixels, t.halo, t.columns, first_column, used >> kPanelEdge,
               input, grads + kTilePixels * kPanelSegments);
  };
  const auto inside_of = [&](int32_t turn) {
    uint32_t inside = 0;
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
      inside |= uint32_t(origin_of(turn)[k * 16 + lane % 16] >= 0) << k;
    return inside;
  };

  const int32_t turns = (t.tiles() - split + splits - 1) / splits;
  const auto find = [&](int32_t turn) {
    if (turn < turns) find_origins(t, split + turn * splits, origin_of(turn));
  };
  if (threadIdx.x < kPanelSegments)
    for (int32_t stage = 0; stage < t.stages; ++stage)
      stage_of(stage)[(t.pixels() - 1) * kPanelSegments + threadIdx.x] = {};
  find(0);
  __syncthreads();  // the first origins are there
  uint32_t inside = inside_of(0);
  load(0);
  commit_copies();
  find(1);
  for (int32_t turn = 0; turn < turns; ++turn) {
    const bool more = turn + 1 < turns;
    wait_for_copies<0>();
    __syncthreads();  // all have copied their part, and read the tile before
    const uint32_t following = more ? inside_of(turn + 1) : 0;
    if (more && t.stages == 2) {
      load(turn + 1);
      commit_copies();
    }
    find(turn + 2);  // all have read this tile's
    multiply(stage_of(turn), inside);
    if (more && t.stages == 1) {
      __syncthreads();  // the only tile has been read
      load(turn + 1);
      commit_copies();
    }
    inside = following;
  }

  Sums* const results =
      partial + ((int64_t(split) * plan.items + item) * kItemBlocks + warp * kSlots) * kThreads;
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    if (s >= count) break;
#pragma unroll
    for (int f = 0; f < 8; ++f) {
      const float (&d)[4] = sums[s][f / 4][f % 4];
      results[s * kThreads + f * 32 + lane] = {d[0], d[1], d[2], d[3]};
    }
  }
}

// Adds up the splits of one block of weights in `shares` thread blocks, applies the mask.
template <class T>
__global__ void finish_halo_blocks(const __grid_constant__ PanelPlan plan, const Sums* partial,
                                   const bool* mask, int32_t rows, int32_t columns, int32_t splits,
                                   int32_t shares, T* grad_weight) {
  __shared__ Sums of_warps[kThreads];
  const int32_t entry = blockIdx.x / shares, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const PanelBlock block(plan, entry / kItemBlocks, entry % kItemBlocks);
  if (!block.listed) return;
  // Each 16 x 8 weights of it are summed by `shares` warps, each of which has every so many splits.
  const int32_t f = blockIdx.x % shares * (kWarps / shares) + warp / shares;
  const Sums* values = partial + int64_t(entry) * kThreads + f * 32 + lane;
  const int64_t step = int64_t(plan.items) * kItemBlocks * kThreads;
  Sums total{};
#pragma unroll 4
  for (int32_t split = warp % shares; split < splits; split += shares)
    for (int r = 0; r < 4; ++r) total.v[r] += values[split * step].v[r];
  of_warps[threadIdx.x] = total;
  __syncthreads();
  if (warp % shares != 0) return;
  for (int32_t other = 1; other < shares; ++other)
    for (int r = 0; r < 4; ++r) total.v[r] += of_warps[threadIdx.x + other * 32].v[r];
  for (int r = 0; r < 4; ++r) {
    const int32_t row = block.first_row + f / 4 * 16 + r / 2 * 8 + lane / 4;
    const int32_t column = block.first_column + f % 4 * 8 + lane % 4 * 2 + r % 2;
    if (row >= rows || column >= columns) continue;
    const int64_t at =
        ((int64_t(row) * columns + column) * plan.kernel_h + block.tap_row) * plan.kernel_w +
        block.tap_column;
    grad_weight[at] = Number<T>::narrow(mask[at] ? total.v[r] : 0.0f);
  }
}

// --- launcher -----------------------------------------------------------------------------

inline int64_t partial_sums(const PanelTile& t, const PanelPlan& plan) {
  return int64_t(splits_of(t, plan)) * plan.items * kItemBlocks * kEdge * kEdge;
}

// partial: partial_sums(t, plan) floats.  mask, grad_weight: contiguous.  The plan has items.
template <class T>
void queue_correlate_halo_blocks(const PanelTile& t, const PanelPlan& plan, const void* input,
                                 const void* grad_output, const void* mask, int32_t rows,
                                 void* partial, void* grad_weight, cudaStream_t stream) {
  const int32_t splits = splits_of(t, plan);
  const int64_t weights = int64_t(rows) * t.columns * t.kernel_h * t.kernel_w;
  auto* const sums = static_cast<Sums*>(partial);
  launch_shared(correlate_halo_blocks<T>, uint32_t(splits * plan.items), t.shared_bytes(), stream,
                t, plan, static_cast<const T*>(input), static_cast<const T*>(grad_output), rows,
                splits, uint32_t(weights), sums, static_cast<T*>(grad_weight));
  int32_t shares = 1;
  while (shares < kWarps && shares * kSharedSplits < splits) shares *= 2;
  launch(finish_halo_blocks<T>, uint32_t(plan.items * kItemBlocks * shares), stream, plan,
         static_cast<const Sums*>(sums), static_cast<const bool*>(mask), rows, t.columns, splits,
         shares, static_cast<T*>(grad_weight));
}

}  // namespace sparselth::cuda

#ifndef SPARSELTH_EMULATION
#include "common/layout.h"
#include "launch_conv.cuh"

namespace sparselth::cuda {

Tensor halo_block_conv2d_grad_weight(const Tensor& grad_output, const Tensor& input,
                                     const Tensor& mask, const Tensor& plan, Ints stride,
                                     Ints padding, Ints dilation, int64_t groups) {
  const char* op = "halo_block_conv2d_grad_weight";
  const ConvGeometry g =
      checked_grad_weight(op, grad_output, input, mask, stride, padding, dilation, groups);
  expect(groups == 1, op, "no groups");
  expect(is_channels_last(input) && is_channels_last(grad_output), op,
         "activations in channels_last");
  check_sizes(op, {mask});
  PanelTile t;
  const bool fits = cut_into_panel_tiles(forward_pass(g), t);
  const PanelPlan panels =
      read_panel_plan(plan_words(op, plan, mask), plan.numel(), g.c_out, forward_pass(g));
  check_conv(op, fits, panels.items >= 0, fits ? t.all_tiles() : 0);
  if (panels.items == 0 || input.numel() == 0 || grad_output.numel() == 0)
    return torch::stable::new_zeros(input, mask.sizes());
  const DeviceGuard guard(input.get_device_index());
  const Tensor grad = torch::stable::new_empty(input, mask.sizes());
  const Tensor m = torch::stable::contiguous(mask);
  const Tensor partial =
      torch::stable::new_empty(input, {partial_sums(t, panels)}, ScalarType::Float);
  dispatch_float(input.scalar_type(), op, [&]<class T>(T*) {
    if constexpr (sizeof(T) == 2) {
      queue_correlate_halo_blocks<T>(
          t, panels, input.const_data_ptr(), grad_output.const_data_ptr(), m.const_data_ptr(),
          int32_t(g.c_out), partial.mutable_data_ptr(), grad.mutable_data_ptr(),
          current_stream(input.get_device_index()));
    } else {
      fail(op, "float16 or bfloat16 only");
    }
  });
  check_launch(op);
  return grad;
}

}  // namespace sparselth::cuda

// --- registration -------------------------------------------------------------------------

STABLE_TORCH_LIBRARY_IMPL(sparselth, CUDA, m) {
  m.impl("halo_block_conv2d_grad_weight",
         TORCH_BOX(&sparselth::cuda::halo_block_conv2d_grad_weight));
}
#endif
