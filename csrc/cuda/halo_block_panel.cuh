// How the weight gradient of halo_block_conv2d is divided into work, and the plan that it walks:
// see halo_block_conv2d_grad_weight.cu.
#pragma once

#include "halo_block_tile.cuh"

namespace sparselth::cuda {

// --- launch table -------------------------------------------------------------------------

constexpr int kPanelEdge = 4;                           // blocks of a panel along each side
constexpr int kPanelSegments = kPanelEdge * kSegments;  // a pixel's channels
constexpr int kSlots = 5;                               // blocks of a warp: 160 registers of sums
constexpr int kItemBlocks = kWarps * kSlots;
constexpr int kItemWords = 1 + kItemBlocks;
constexpr int kTilePixels = 64;
constexpr int kTileEdge = 8;
constexpr int kSteps = kTilePixels / 16;

// What splits are chosen for: the SMs of an H100, each with one thread block. A GPU's own number
// would make the result depend on it. kSharedSplits: what a warp at least adds up of a block.
#ifdef SPARSELTH_EMULATION
constexpr int32_t kSms = 3, kSharedSplits = 1;  // the small cases there shall add up as well
#else
constexpr int32_t kSms = 132, kSharedSplits = 4;
#endif
constexpr int32_t kStartTiles = 4;  // what a split costs, counted in tiles: mostly its partial sums

using Sums = Pack<float, 4>;  // what a lane holds of 16 x 8 weights

struct PanelPlan {
  const int32_t* words;
  int32_t items;
  int32_t row_panels, column_panels, row_blocks, column_blocks, kernel_h, kernel_w;

  __device__ const int32_t* codes(int32_t item) const { return words + item * kItemWords + 1; }
};

// A block of weights: where it lies in the weight, and in its panel.
struct PanelBlock {
  bool listed;
  int32_t row, column;  // counted in blocks, within the panel
  int32_t first_row, first_column, tap_row, tap_column;

  __device__ PanelBlock(const PanelPlan& plan, int32_t item, int32_t slot) {
    const int32_t panel = plan.codes(item)[-1], word = plan.codes(item)[slot];
    trap_unless(panel >= 0 && panel < plan.row_panels * plan.column_panels);
    listed = word >= 0;
    const int32_t code = listed ? word : 0;  // the first block of a panel is always there
    row = code & 3, column = code >> 2 & 3, tap_row = code >> 4 & 255, tap_column = code >> 12;
    const int32_t row_block = panel / plan.column_panels * kPanelEdge + row;
    const int32_t column_block = panel % plan.column_panels * kPanelEdge + column;
    trap_unless(row_block < plan.row_blocks && column_block < plan.column_blocks &&
                tap_row < plan.kernel_h && tap_column < plan.kernel_w);
    first_row = row_block * kEdge, first_column = column_block * kEdge;
  }
};

// The plan of `rows` x `columns` in `length` words; its items are negative where the length is
// wrong.
inline PanelPlan read_panel_plan(const int32_t* words, int64_t length, int64_t rows,
                                 const ConvPass& pass) {
  const auto parts = [](int64_t n, int64_t of) { return (n + of - 1) / of; };
  PanelPlan plan{words};
  plan.row_blocks = int32_t(parts(rows, kEdge));
  plan.column_blocks = int32_t(parts(pass.columns, kEdge));
  plan.row_panels = int32_t(parts(plan.row_blocks, kPanelEdge));
  plan.column_panels = int32_t(parts(plan.column_blocks, kPanelEdge));
  plan.kernel_h = pass.kernel_h, plan.kernel_w = pass.kernel_w;
  const int64_t taps = int64_t(pass.kernel_h) * pass.kernel_w;
  const int64_t most = parts(kPanelEdge * kPanelEdge * taps, kItemBlocks);  // of a panel
  const int64_t items = length / kItemWords;
  const bool whole = length % kItemWords == 0 && length < (int64_t(1) << 31) &&
                     items <= int64_t(plan.row_panels) * plan.column_panels * most;
  plan.items = whole ? int32_t(items) : -1;
  return plan;
}

struct PanelTile : HaloTile {
  Divisor by_tile_w, by_tile_h, by_tiles_x, by_tiles_y;

  __host__ __device__ int32_t tiles() const { return tiles_x * tiles_y * tiles_n; }
  // Of one stage: dy, x, and a pixel of zeros.
  __host__ __device__ int32_t pixels() const { return kTilePixels + halo + 1; }
  // Of the tiles, and of where their pixels come from, now and next.
  uint32_t shared_bytes() const {
    return uint32_t(pixels()) * (stages * kPanelSegments * 16 + 2 * 4);
  }
};

// False where the tile does not fit into shared memory.
inline bool cut_into_panel_tiles(const ConvPass& pass, PanelTile& t) {
  if (!cut_into_planes(pass, kTilePixels, kTileEdge, t)) return false;
  t.by_tile_w = Divisor(uint32_t(t.tile_w)), t.by_tile_h = Divisor(uint32_t(t.tile_h));
  t.by_tiles_x = Divisor(uint32_t(t.tiles_x)), t.by_tiles_y = Divisor(uint32_t(t.tiles_y));
  t.stages = 2;
  if (t.shared_bytes() > kTileBytes) t.stages = 1;
  return t.shared_bytes() <= kTileBytes &&
         int64_t(t.batch) * t.out_h * t.out_w < (int64_t(1) << 31);
}

// How many thread blocks share an item's tiles: what should end first, in rounds of kSms.
inline int32_t splits_of(const PanelTile& t, const PanelPlan& plan) {
  if (plan.items == 0) return 1;
  int64_t best = 1, least = INT64_MAX;
  for (int64_t splits = 1; splits <= t.tiles() && splits * plan.items <= 2 * kSms; ++splits) {
    const int64_t rounds = (splits * plan.items + kSms - 1) / kSms;
    const int64_t time = rounds * ((t.tiles() + splits - 1) / splits + kStartTiles);
    if (time < least) best = splits, least = time;
  }
  return int32_t(best);
}

}  // namespace sparselth::cuda
