// Reading what a convolution's case begins with.
#pragma once

#include "common/conv_geometry.h"
#include "reading.h"

// Op, dtype, seed, whether there is a bias, and the geometry.
struct Head {
  int64_t op, dtype;
  bool has_bias;
  sparselth::ConvGeometry geometry;

  int64_t inputs() const {
    return geometry.batch * geometry.c_in * geometry.height * geometry.width;
  }
  int64_t outputs() const {
    return geometry.batch * geometry.c_out * geometry.out_height * geometry.out_width;
  }
  int64_t weights() const {
    return geometry.c_out * (geometry.c_in / geometry.groups) * geometry.taps();
  }
};

inline Head read_head() {
  const std::vector<int64_t> head = read_words(4), x = read_words(4), w = read_words(4);
  const std::vector<int64_t> stride = read_words(2), padding = read_words(2);
  const std::vector<int64_t> dilation = read_words(2);
  emulation::machine.order = {uint64_t(head[2])};
  return {head[0], head[1], head[3] != 0,
          sparselth::conv_geometry(x, w, stride, padding, dilation, read_word())};
}
