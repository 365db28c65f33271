// Reading a convolution's case from stdin.
#pragma once

#include <memory>
#include <vector>

#include "common/conv_geometry.h"
#include "emulation.h"

// Exactly as long as asked for, so that AddressSanitizer sees the first byte too many.
struct Array {
  std::unique_ptr<char, decltype(&std::free)> memory{nullptr, &std::free};
  size_t bytes = 0;

  Array() = default;
  Array(int64_t count, size_t element)
      : memory(static_cast<char*>(std::malloc(count * element)), &std::free),
        bytes(count * element) {
    std::memset(memory.get(), 0xcd, bytes);
  }
  void* data() const { return memory.get(); }
};

inline Array read(int64_t count, size_t element) {
  Array array(count, element);
  if (std::fread(array.data(), 1, array.bytes, stdin) != array.bytes)
    emulation::fail("the case ends too early");
  return array;
}

inline int64_t read_word() {
  int64_t word;
  if (std::fread(&word, 1, sizeof word, stdin) != sizeof word) std::exit(4);
  return word;
}

inline std::vector<int64_t> read_words(int count) {
  std::vector<int64_t> words(count);
  for (int64_t& word : words) word = read_word();
  return words;
}

// What a case begins with: op, dtype, seed, whether there is a bias, and the geometry.
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
  emulation::machine.order.seed(uint32_t(head[2]));
  return {head[0], head[1], head[3] != 0,
          sparselth::conv_geometry(x, w, stride, padding, dilation, read_word())};
}
