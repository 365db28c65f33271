// A convolution as seen from what one of its passes computes. Sizes in pixels.
//
// An input gradient is the forward of a "virtual" input: grad_output with `up` - 1 zeros between
// its pixels, the taps turned around. One kernel serves both.
#pragma once

#include <cstdint>

#include "common/conv_geometry.h"

namespace sparselth {

struct ConvPass {
  int32_t batch, columns;  // columns: the channels summed over
  int32_t in_h, in_w, out_h, out_w;
  int32_t kernel_h, kernel_w;
  int32_t up_h, up_w, down_h, down_w, pad_h, pad_w, dilation_h, dilation_w;
};

// The forward, and the weight's gradient, which meets the same pixels.
inline ConvPass forward_pass(const ConvGeometry& g) {
  ConvPass p{};
  p.batch = int32_t(g.batch), p.columns = int32_t(g.c_in);
  p.in_h = int32_t(g.height), p.in_w = int32_t(g.width);
  p.out_h = int32_t(g.out_height), p.out_w = int32_t(g.out_width);
  p.kernel_h = int32_t(g.kernel_h), p.kernel_w = int32_t(g.kernel_w);
  p.up_h = p.up_w = 1;
  p.down_h = int32_t(g.stride_h), p.down_w = int32_t(g.stride_w);
  p.pad_h = int32_t(g.pad_h), p.pad_w = int32_t(g.pad_w);
  p.dilation_h = int32_t(g.dilation_h), p.dilation_w = int32_t(g.dilation_w);
  return p;
}

// The input gradient: a forward of grad_output, spread out by the stride, to the input's size.
inline ConvPass backward_pass(const ConvGeometry& g) {
  ConvPass p{};
  p.batch = int32_t(g.batch), p.columns = int32_t(g.c_out);
  p.in_h = int32_t(g.out_height), p.in_w = int32_t(g.out_width);
  p.out_h = int32_t(g.height), p.out_w = int32_t(g.width);
  p.kernel_h = int32_t(g.kernel_h), p.kernel_w = int32_t(g.kernel_w);
  p.up_h = int32_t(g.stride_h), p.up_w = int32_t(g.stride_w);
  p.down_h = p.down_w = 1;
  p.pad_h = int32_t(g.dilation_h * (g.kernel_h - 1) - g.pad_h);
  p.pad_w = int32_t(g.dilation_w * (g.kernel_w - 1) - g.pad_w);
  p.dilation_h = int32_t(g.dilation_h), p.dilation_w = int32_t(g.dilation_w);
  return p;
}

}  // namespace sparselth
