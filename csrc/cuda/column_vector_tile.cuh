// What a thread block of column_vector_conv2d computes, and the plan it walks: see there.
#pragma once

#include "virtual_input.cuh"

namespace sparselth::cuda {

// --- launch table -------------------------------------------------------------------------

constexpr int kStep = 16;                     // columns of a k-step
constexpr int kImages = 8;                    // of a tile: what one row of ldmatrix holds
constexpr int kPixels = 32;                   // of a tile
constexpr int kColumns = 32;                  // in shared memory at a time
constexpr int kMostRows = 64, kFewRows = 32;  // of a block
constexpr int32_t kFiller = 1 << 21;
constexpr uint32_t kTileBytes = 96 << 10;

// From so many blocks of kMostRows on none is made smaller: an H100's SMs. A GPU's own number would
// make the time of a layer hard to compare.
#ifdef SPARSELTH_EMULATION
constexpr int64_t kEnoughBlocks = 3;  // the small cases there shall have both
#else
constexpr int64_t kEnoughBlocks = 132;
#endif

template <int kVector>
using Weights = std::conditional_t<kVector == 16, uint4, uint2>;  // of a k-step, per lane

// How vectors of 16 or 8 rows are dealt to warps.
template <int kVector, int kRows>
struct Split {
  static_assert(kVector == 16 || kVector == 8);
  static constexpr int kGroups = kRows / kVector;  // of a block, each with as many warps
  static constexpr int kPairs = kPixels * kGroups / kWarps / 2;           // of pixels, of a warp
  static constexpr int kSums = kRows * kPixels * kImages / kThreads / 4;  // mma's, per thread
};

struct ColumnVectorPlan {
  const int32_t* groups;
  const int32_t* starts;
  const int32_t* codes;
  int32_t slots, chunks, steps;

  static __device__ int32_t groups_of(int32_t rows, int32_t vector) {
    return (rows + vector - 1) / vector;
  }
};

// The plan of `rows` rows in `length` words, by vectors of `vector` of them; its steps are negative
// where the length is wrong.
inline ColumnVectorPlan read_column_vector_plan(const int32_t* words, int64_t length, int64_t rows,
                                                int64_t columns, int64_t vector) {
  ColumnVectorPlan plan{};
  plan.slots = int32_t((rows + kMostRows - 1) / kMostRows * (kMostRows / vector));
  plan.chunks = int32_t((columns + kColumns - 1) / kColumns);
  const int64_t head = int64_t(plan.slots) * (1 + plan.chunks) + 1, rest = length - head;
  const int64_t steps = rest / kStep;
  // Places of its words are counted in 32 bits.
  const bool whole = rest >= 0 && rest % kStep == 0 && steps < (int64_t(1) << 27);
  plan.steps = whole ? int32_t(steps) : -1;
  plan.groups = words, plan.starts = plan.groups + plan.slots;
  plan.codes = plan.groups + head;
  return plan;
}

struct ColumnVectorTile : VirtualInput {
  int32_t tile_w, tile_h;           // pixels; tile_w * tile_h == kPixels
  int32_t plane_w, plane_h, plane;  // of one column in shared memory, in rows of 8 images
  int32_t tiles_x, tiles_y, tiles_n;
  Divisor by_quads, by_plane_w;

  int32_t tiles() const { return tiles_x * tiles_y * tiles_n; }
  int64_t all_tiles() const { return int64_t(tiles_x) * tiles_y * tiles_n; }  // to be checked
  __host__ __device__ int32_t quads() const {  // of columns, in shared memory at a time
    return ((columns < kColumns ? columns : kColumns) + 3) / 4;
  }
  uint32_t shared_bytes() const { return uint32_t(quads()) * 4 * plane * 16; }
};

// False where the tile does not fit into shared memory.
inline bool cut_into_vector_tiles(const ConvPass& pass, ColumnVectorTile& t) {
  t = ColumnVectorTile{{pass}};
  t.tile_w = 1;
  while (t.tile_w < 8 && t.tile_w < t.out_w) t.tile_w *= 2;
  t.tile_h = kPixels / t.tile_w;
  if (!find_plane(t, kTileBytes)) return false;
  t.plane = t.plane_h * t.plane_w | 1;  // odd: columns begin in different banks
  t.tiles_x = (t.out_w + t.tile_w - 1) / t.tile_w;
  t.tiles_y = (t.out_h + t.tile_h - 1) / t.tile_h;
  t.tiles_n = (t.batch + kImages - 1) / kImages;
  t.by_quads = Divisor(t.quads()), t.by_plane_w = Divisor(t.plane_w);
  return t.shared_bytes() <= kTileBytes;
}

}  // namespace sparselth::cuda
