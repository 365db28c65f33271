// The sizes of one convolution.
#pragma once

#include <cstdint>

namespace sparselth {

struct ConvGeometry {
  int64_t batch, c_in, height, width;    // input
  int64_t c_out, out_height, out_width;  // output
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;

  int64_t taps() const { return kernel_h * kernel_w; }
};

}  // namespace sparselth
