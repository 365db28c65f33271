// What the taps of a convolution read, along each axis: independent of layout and vector width.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/conv_geometry.h"

namespace sparselth {

// Along one axis of the input gradient: input positions first, first + stride, ... read the output
// at tap_index[tap] + 0, 1, ..., if the tap reaches them at all.
struct AxisPhase {
  int64_t first, count;
  std::vector<int64_t> tap_index;
  std::vector<bool> tap_used;

  // How far apart the outermost used taps are, plus one.
  int64_t extent() const {
    int64_t low = INT64_MAX, high = INT64_MIN;
    for (size_t tap = 0; tap < tap_used.size(); ++tap)
      if (tap_used[tap]) low = std::min(low, tap_index[tap]), high = std::max(high, tap_index[tap]);
    return low > high ? 1 : high - low + 1;
  }
};

inline std::vector<AxisPhase> axis_phases(int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                                          int64_t dilation) {
  std::vector<AxisPhase> phases;
  for (int64_t first = 0; first < stride && first < size; ++first) {
    AxisPhase phase{first, (size - first + stride - 1) / stride, {}, {}};
    for (int64_t tap = 0; tap < kernel; ++tap) {
      const int64_t numerator = first + pad - tap * dilation;
      phase.tap_used.push_back(numerator % stride == 0);
      phase.tap_index.push_back(numerator / stride);
    }
    phases.push_back(std::move(phase));
  }
  return phases;
}

// Lowest and one past the highest index that is read.
struct Reach {
  int64_t low, high;

  // The halo that an axis of `size` positions needs.
  int64_t halo(int64_t size) const { return std::max<int64_t>({0, -low, high - size}); }
};

inline Reach reach(const std::vector<AxisPhase>& phases, int64_t size) {
  Reach reach{0, size};
  for (const AxisPhase& phase : phases)
    for (size_t tap = 0; tap < phase.tap_used.size(); ++tap)
      if (phase.tap_used[tap]) {
        reach.low = std::min(reach.low, phase.tap_index[tap]);
        reach.high = std::max(reach.high, phase.tap_index[tap] + phase.count);
      }
  return reach;
}

// Lowest and one past the highest place that taps read, relative to a position's place in its
// phase; 0 always among them.
inline Reach tap_reach(const std::vector<AxisPhase>& phases) {
  Reach reach{0, 1};
  for (const AxisPhase& phase : phases)
    for (size_t tap = 0; tap < phase.tap_used.size(); ++tap)
      if (phase.tap_used[tap]) {
        reach.low = std::min(reach.low, phase.tap_index[tap]);
        reach.high = std::max(reach.high, phase.tap_index[tap] + 1);
      }
  return reach;
}

// The halo of x that forward and grad weight read.
inline int64_t forward_halo(const ConvGeometry& g) {
  const auto axis = [](int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t pad,
                       int64_t dilation) {
    return Reach{-pad, (out - 1) * stride - pad + dilation * (kernel - 1) + 1}.halo(size);
  };
  return std::max(axis(g.height, g.out_height, g.kernel_h, g.stride_h, g.pad_h, g.dilation_h),
                  axis(g.width, g.out_width, g.kernel_w, g.stride_w, g.pad_w, g.dilation_w));
}

// Rows of x that one row of the output reads, from the first to the last.
inline int64_t rows_reached(const ConvGeometry& g) { return g.dilation_h * (g.kernel_h - 1) + 1; }

// The halo of dy that grad input reads.
inline int64_t grad_input_halo(const ConvGeometry& g) {
  const auto axis = [](int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t pad,
                       int64_t dilation) {
    return reach(axis_phases(size, kernel, stride, pad, dilation), out).halo(out);
  };
  return std::max(axis(g.height, g.out_height, g.kernel_h, g.stride_h, g.pad_h, g.dilation_h),
                  axis(g.width, g.out_width, g.kernel_w, g.stride_w, g.pad_w, g.dilation_w));
}

// Where each tap reads, relative to the first one.
inline std::vector<int64_t> forward_taps(const ConvGeometry& g, int64_t row_step,
                                         int64_t col_step) {
  std::vector<int64_t> offset;
  for (int64_t r = 0; r < g.kernel_h; ++r)
    for (int64_t s = 0; s < g.kernel_w; ++s)
      offset.push_back(r * g.dilation_h * row_step + s * g.dilation_w * col_step);
  return offset;
}

}  // namespace sparselth
