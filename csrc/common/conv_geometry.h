// The sizes of one convolution.
#pragma once

#include <cstdint>
#include <vector>

namespace sparselth {

struct ConvGeometry {
  int64_t batch, c_in, height, width;    // input
  int64_t c_out, out_height, out_width;  // output
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;

  int64_t taps() const { return kernel_h * kernel_w; }
};

inline int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding,
                           int64_t dilation) {
  return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

// x: (N, C_in, H, W).  w: (C_out, C_in / groups, kH, kW).
inline ConvGeometry conv_geometry(const std::vector<int64_t>& x, const std::vector<int64_t>& w,
                                  const std::vector<int64_t>& stride,
                                  const std::vector<int64_t>& padding,
                                  const std::vector<int64_t>& dilation, int64_t groups) {
  const int64_t p = output_size(x[2], w[2], stride[0], padding[0], dilation[0]);
  const int64_t q = output_size(x[3], w[3], stride[1], padding[1], dilation[1]);
  return {x[0], x[1],      x[2],      x[3],       w[0],       p,           q,           w[2],
          w[3], stride[0], stride[1], padding[0], padding[1], dilation[0], dilation[1], groups};
}

}  // namespace sparselth
