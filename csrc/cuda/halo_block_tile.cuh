// What a thread block of halo_block_conv2d computes, and the plan it walks: see there. How a result
// is cut into tiles, and how pixels are copied, is its weight gradient's too.
#pragma once

#include "async_copy.cuh"
#include "tensor_core.cuh"
#include "virtual_input.cuh"

namespace sparselth::cuda {

// --- launch table -------------------------------------------------------------------------

constexpr int kEdge = 32;                           // rows and columns of a block of weights
constexpr int kRowBlocks = 4;                       // of a thread block
constexpr int kPixels = 256;                        // of a tile
constexpr int kSegments = kEdge * 2 / 16;           // of 16 bytes: a pixel's columns
constexpr int kFragments = kEdge * kEdge / 8 / 32;  // of 8 weights for each lane: a block
constexpr int kWarpTiles = kPixels / kWarps / 16;   // of 16 pixels
constexpr uint32_t kTileBytes = 96 << 10;

struct HaloPlan {
  const int32_t* starts;
  const int32_t* codes;
  const int32_t* runs;
  int32_t row_blocks, chunks, blocks;

  __host__ __device__ int32_t row_groups() const {
    return (row_blocks + kRowBlocks - 1) / kRowBlocks;
  }
};

// The plan of `rows` x `columns` in `length` words; its blocks are negative where the length is
// wrong.
inline HaloPlan read_halo_plan(const int32_t* words, int64_t length, int64_t rows,
                               int64_t columns) {
  HaloPlan plan{};
  plan.row_blocks = int32_t((rows + kEdge - 1) / kEdge);
  plan.chunks = int32_t((columns + kEdge - 1) / kEdge);
  const int64_t head = int64_t(plan.row_blocks) * plan.chunks + 1, rest = length - head;
  // Places in the packed weights are counted in 32 bits.
  const bool whole = rest >= 0 && rest % 2 == 0 && rest / 2 < (int64_t(1) << 22);
  plan.blocks = whole ? int32_t(rest / 2) : -1;
  plan.starts = words, plan.codes = words + head, plan.runs = plan.codes + plan.blocks;
  return plan;
}

struct HaloTile : VirtualInput {
  int32_t tile_w, tile_h, tile_n;  // pixels of the result, and images
  int32_t plane_w, plane_h, halo;  // pixels read: of an image, and of all
  int32_t tiles_x, tiles_y, tiles_n;
  int32_t stages;  // tiles in shared memory at a time
  Divisor by_plane, by_plane_w;

  int64_t all_tiles() const { return int64_t(tiles_x) * tiles_y * tiles_n; }
  // Of the tiles, and of where their pixels come from.
  uint32_t shared_bytes() const { return uint32_t(halo) * (stages * kSegments * 16 + 4); }
};

inline int32_t covering(int32_t extent, int32_t most) {
  int32_t tile = 1;
  while (tile < most && tile < extent) tile *= 2;
  return tile;
}

// Tiles of `pixels`, of an image at most `edge` wide and high; all but the stages. False where one
// alone is too large.
inline bool cut_into_planes(const ConvPass& pass, int32_t pixels, int32_t edge, HaloTile& t) {
  t = HaloTile{{pass}};
  t.tile_w = covering(t.out_w, edge), t.tile_h = covering(t.out_h, edge);
  t.tile_n = pixels / (t.tile_w * t.tile_h);
  if (!find_plane(t, kTileBytes)) return false;
  const int64_t plane = int64_t(t.plane_h) * t.plane_w;
  if (plane * t.tile_n > kTileBytes) return false;
  t.halo = int32_t(plane) * t.tile_n;
  t.tiles_x = (t.out_w + t.tile_w - 1) / t.tile_w;
  t.tiles_y = (t.out_h + t.tile_h - 1) / t.tile_h;
  t.tiles_n = (t.batch + t.tile_n - 1) / t.tile_n;
  t.by_plane = Divisor(uint32_t(plane)), t.by_plane_w = Divisor(uint32_t(t.plane_w));
  return int64_t(t.batch) * t.in_h * t.in_w < (int64_t(1) << 31);
}

// False where the tile does not fit into shared memory.
inline bool cut_into_halo_tiles(const ConvPass& pass, HaloTile& t) {
  if (!cut_into_planes(pass, kPixels, 16, t)) return false;
  t.stages = 2;
  if (t.shared_bytes() > kTileBytes) t.stages = 1;
  return t.shared_bytes() <= kTileBytes;
}

// Copies eight channels of a pixel, of which `left` exist; zeros where it is not there. whole:
// whether all pixels' channels are eight at a time, on a boundary of 16 bytes.
template <class T>
__device__ void copy_segment(uint4* to, const T* values, int32_t left, bool there, bool whole) {
  if (whole) return copy_async(to, values, there);
  uint32_t pairs[4] = {};
#pragma unroll
  for (int c = 0; c < 8; ++c)
    if (there && c < left) pairs[c / 2] |= bits_of(values[c]) << c % 2 * 16;
  *to = {pairs[0], pairs[1], pairs[2], pairs[3]};
}

}  // namespace sparselth::cuda
