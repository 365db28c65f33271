// Where a tile's pixels come from: the input of a pass, spread out by `up` (common/conv_pass.h).
#pragma once

#include "common/conv_pass.h"
#include "device.cuh"

namespace sparselth::cuda {

constexpr int32_t kLargestKernel = 255;  // along an axis: what a plan's code has room for

// Whether a tile of `pixels` along one axis reads at most `most` pixels. In 64 bits: the products
// that follow are in 32.
inline bool reach_fits(int64_t pixels, int64_t down, int64_t kernel, int64_t dilation,
                       int64_t most) {
  return (pixels - 1) * down + (kernel - 1) * dilation + 1 <= most;
}

// Finds the pixels that a tile reads of an image, with its halo: plane_h x plane_w. False where a
// kernel is larger than a plan's code has room for, or an axis alone reads more than `most`.
template <class Tile>
bool find_plane(Tile& t, int64_t most) {
  if (t.kernel_h > kLargestKernel || t.kernel_w > kLargestKernel) return false;
  if (!reach_fits(t.tile_w, t.down_w, t.kernel_w, t.dilation_w, most) ||
      !reach_fits(t.tile_h, t.down_h, t.kernel_h, t.dilation_h, most / t.tile_w))
    return false;
  t.plane_w = (t.tile_w - 1) * t.down_w + (t.kernel_w - 1) * t.dilation_w + 1;
  t.plane_h = (t.tile_h - 1) * t.down_h + (t.kernel_h - 1) * t.dilation_h + 1;
  return true;
}

struct VirtualInput : ConvPass {
  Divisor by_up_h, by_up_w;

  VirtualInput() = default;
  VirtualInput(const ConvPass& pass)
      : ConvPass(pass), by_up_h(uint32_t(pass.up_h)), by_up_w(uint32_t(pass.up_w)) {}

  // The input's pixel, row by row, that lies (y, x) into the tile that computes from pixel
  // (out_y, out_x) of the result on; -1 in the padding and between pixels.
  __device__ int64_t pixel_of(int32_t out_y, int32_t out_x, int32_t y, int32_t x) const {
    y += out_y * down_h - pad_h, x += out_x * down_w - pad_w;
    if (y < 0 || x < 0) return -1;
    const int32_t from_y = int32_t(by_up_h.quotient(uint32_t(y)));
    const int32_t from_x = int32_t(by_up_w.quotient(uint32_t(x)));
    if (from_y >= in_h || from_x >= in_w) return -1;
    if (from_y * up_h != y || from_x * up_w != x) return -1;
    return int64_t(from_y) * in_w + from_x;
  }
};

}  // namespace sparselth::cuda
