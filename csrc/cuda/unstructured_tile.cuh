// What the convolutions of single kept weights share: the tile of the input that a block holds in
// shared memory, and the plan that says which weights meet it.
//
// A block computes kRows rows (the outputs of a forward, the inputs of an input gradient) for one
// tile of 32 x kPixels places: each lane has one column of one image, kPixels rows of pixels high.
// Lanes are tile_w neighbors in each of 32 / tile_w images, so that a small plane fills a warp and
// every read of the tile is a conflict-free row of 32 words. The columns (the channels summed over)
// come kColumns at a time, widened to float.
//
// Plan, int32, built by sparselth/ops/gpu/unstructured.py:
//   row of each slot           `slots` of them, rows padded to a multiple of kRows with -1;
//                              rows with the most weights first, so that warps have equal work
//   starts                     slots * chunks + 1: where the entries of a run begin; runs are
//                              ordered by (slot / kSlots, chunk of columns, slot % kSlots)
//   codes                      per entry: column % kColumns, tap row << 5, tap column << 13,
//                              slot % kSlots << 21
//   positions                  per entry: its flat index in the weight
#pragma once

#include "virtual_input.cuh"

namespace sparselth::cuda {

constexpr int kSlots = 8;                  // rows per warp
constexpr int kRows = kSlots * kWarps;     // rows per block
constexpr int kColumns = 32;               // columns in shared memory at a time
constexpr uint32_t kTileBytes = 72 << 10;  // of shared memory: three blocks per SM of an H100

struct UnstructuredPlan {
  const int32_t* rows;
  const int32_t* starts;
  const int32_t* codes;
  const int32_t* positions;
  int32_t slots, chunks, count;
  int64_t weights;  // of the mask

  // Where entry `at` stands in the weight.
  __device__ int32_t position(int32_t at) const {
    const int32_t position = positions[at];
    trap_unless(position >= 0 && position < weights);
    return position;
  }

  // The runs of one warp's rows in one chunk: run[s] to run[s + 1] for slot s.
  __device__ const int32_t* runs(int32_t group, int32_t chunk) const {
    return starts + (group * chunks + chunk) * kSlots;
  }

  // Whether any of a block's rows has entries in a chunk.
  __device__ bool any(int32_t row_block, int32_t chunk) const {
    bool found = false;
    for (int32_t warp = 0; warp < kWarps; ++warp) {
      const int32_t* run = runs(row_block * kWarps + warp, chunk);
      found = found || run[0] != run[kSlots];
    }
    return found;
  }
};

// The plan of `rows` rows in `length` words; its count is negative where the length is wrong.
inline UnstructuredPlan read_plan(const int32_t* words, int64_t length, int64_t rows,
                                  int64_t columns, int64_t weights) {
  UnstructuredPlan plan{};
  plan.weights = weights;
  plan.slots = int32_t((rows + kRows - 1) / kRows * kRows);
  plan.chunks = int32_t((columns + kColumns - 1) / kColumns);
  const int64_t head = int64_t(plan.slots) * (1 + plan.chunks) + 1, rest = length - head;
  plan.count = rest < 0 || rest % 2 != 0 || rest / 2 > weights ? -1 : int32_t(rest / 2);
  plan.rows = words, plan.starts = plan.rows + plan.slots;
  plan.codes = plan.rows + head, plan.positions = plan.codes + plan.count;
  return plan;
}

// A pass and how it is cut into tiles.
struct UnstructuredTile : VirtualInput {
  int32_t pixels;                   // kPixels of the kernel
  int32_t tile_w, images;           // tile_w * images == 32
  int32_t plane_w, plane_h, plane;  // of one image and column in shared memory; plane is padded
  int32_t tiles_x, tiles_y, tiles_n;
  Divisor by_plane_w, by_plane_h, by_images;

  __host__ __device__ int32_t tiles() const { return tiles_x * tiles_y * tiles_n; }
  int64_t all_tiles() const { return int64_t(tiles_x) * tiles_y * tiles_n; }  // to be checked
  __host__ __device__ uint32_t shared_bytes() const {
    return uint32_t(columns < kColumns ? columns : kColumns) * images * plane * sizeof(float);
  }
};

// Chooses the tile: as many pixels per lane as there is shared memory for, so that one read of a
// weight serves them all. False where not even one fits.
inline bool cut_into_tiles(const ConvPass& pass, UnstructuredTile& t) {
  t = UnstructuredTile{{pass}};
  t.tile_w = 1;
  while (t.tile_w < 32 && t.tile_w < t.out_w) t.tile_w *= 2;
  t.images = 32 / t.tile_w;
  if (t.kernel_h > kLargestKernel || t.kernel_w > kLargestKernel) return false;
  if (!reach_fits(t.tile_w, t.down_w, t.kernel_w, t.dilation_w, kTileBytes) ||
      !reach_fits(1, t.down_h, t.kernel_h, t.dilation_h, kTileBytes))
    return false;
  t.plane_w = (t.tile_w - 1) * t.down_w + (t.kernel_w - 1) * t.dilation_w + 1;
  for (const int32_t pixels : {8, 4, 1}) {
    if (pixels != 1 && t.out_h <= pixels / 2) continue;
    if (!reach_fits(pixels, t.down_h, t.kernel_h, t.dilation_h, kTileBytes / t.plane_w)) continue;
    t.pixels = pixels;
    t.plane_h = (pixels - 1) * t.down_h + (t.kernel_h - 1) * t.dilation_h + 1;
    // An odd multiple of tile_w: that leaves every image banks of its own.
    t.plane = t.plane_h * t.plane_w;
    if (t.images > 1) t.plane = ((t.plane + t.tile_w - 1) / t.tile_w | 1) * t.tile_w;
    if (t.shared_bytes() > kTileBytes) continue;
    t.tiles_x = (t.out_w + t.tile_w - 1) / t.tile_w;
    t.tiles_y = (t.out_h + pixels - 1) / pixels;
    t.tiles_n = (t.batch + t.images - 1) / t.images;
    t.by_plane_w = Divisor(t.plane_w), t.by_plane_h = Divisor(t.plane_h);
    t.by_images = Divisor(t.images);
    return true;
  }
  return false;
}

// Calls f<kPixels>() for the number of pixels per lane that was chosen.
template <class F>
void with_pixels(int32_t pixels, const F& f) {
  if (pixels == 8) return f.template operator()<8>();
  if (pixels == 4) return f.template operator()<4>();
  f.template operator()<1>();
}

// Where a tile begins, and the place of one lane in it.
struct Place {
  int32_t image, y, x;  // of the tile's first pixel
  int32_t lane_image, lane_x;

  __device__ Place(const UnstructuredTile& t, int32_t tile) {
    x = tile % t.tiles_x * t.tile_w;
    y = tile / t.tiles_x % t.tiles_y * t.pixels;
    image = tile / t.tiles_x / t.tiles_y * t.images;
    const int32_t lane = threadIdx.x % 32;
    lane_image = lane / t.tile_w, lane_x = lane % t.tile_w;
  }

  // Whether the lane's pixel i is one of the output's.
  __device__ bool inside(const UnstructuredTile& t, int32_t i) const {
    return image + lane_image < t.batch && y + i < t.out_h && x + lane_x < t.out_w;
  }
  // The flat index of the lane's pixel i in a tensor of `rows` channels of the output's size.
  __device__ int64_t index(const UnstructuredTile& t, int32_t rows, int32_t row, int32_t i) const {
    const int64_t plane = int64_t(image + lane_image) * rows + row;
    return (plane * t.out_h + y + i) * t.out_w + x + lane_x;
  }
  // Where the lane's first pixel lies in the shared tile.
  __device__ int32_t offset(const UnstructuredTile& t) const {
    return lane_image * t.plane + lane_x * t.down_w;
  }
};

// How far a code's column and tap lie from a pixel in the shared tile.
__device__ inline int32_t tap_offset(const UnstructuredTile& t, int32_t code) {
  const int32_t column = code & 31, row = code >> 5 & 255, tap = code >> 13 & 255;
  trap_unless(column < t.columns && row < t.kernel_h && tap < t.kernel_w);
  return column * t.images * t.plane + row * t.dilation_h * t.plane_w + tap * t.dilation_w;
}
__device__ inline int32_t slot_of(int32_t code) { return code >> 21 & (kSlots - 1); }

// Copies the tile's pixels of one chunk of columns to shared memory, zero where there are none.
// input: (batch, columns, in_h, in_w). The caller has the barriers.
template <class T>
__device__ void load_tile(const UnstructuredTile& t, const Place& place, int32_t chunk,
                          const T* input, float* shared) {
  const int32_t first = chunk * kColumns;
  const int32_t columns = t.columns - first < kColumns ? t.columns - first : kColumns;
  const uint32_t count = uint32_t(columns) * t.images * t.plane_h * t.plane_w;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) {
    const uint32_t line = t.by_plane_w.quotient(i), x = i - line * t.plane_w;
    const uint32_t plane = t.by_plane_h.quotient(line), y = line - plane * t.plane_h;
    const uint32_t column = t.by_images.quotient(plane), image = plane - column * t.images;
    const int64_t pixel = t.pixel_of(place.y, place.x, int32_t(y), int32_t(x));
    float value = 0;
    if (pixel >= 0 && place.image + int32_t(image) < t.batch) {
      const int64_t at = int64_t(place.image + image) * t.columns + first + column;
      value = Number<T>::widen(input[at * t.in_h * t.in_w + pixel]);
    }
    shared[plane * t.plane + y * t.plane_w + x] = value;
  }
}

}  // namespace sparselth::cuda
