// Pruning patterns as the ops receive them: decoded, and what they make of a tensor's axes.
//
// sparselth/ops/contract/ defines them. A tensor is seen as contiguous (out, inputs, taps).
// Free of torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace sparselth {

struct Axes {
  int64_t out = 1, inputs = 1, taps = 1;

  int64_t row() const { return inputs * taps; }
  int64_t size() const { return out * row(); }
};

// sizes: the extents of a tensor of any number of dimensions.
template <class Sizes>
Axes axes_of(const Sizes& sizes) {
  Axes axes;
  int64_t d = 0;
  for (const int64_t size : sizes) {
    (d == 0 ? axes.out : d == 1 ? axes.inputs : axes.taps) *= size;
    ++d;
  }
  return axes;
}

struct Pattern {
  // The first number of a code, as in sparselth/ops/patterns.py; the code of single entries is
  // empty.
  enum Kind { kElement = -1, kBlocks = 0, kNOfM = 1, kKernelShapes = 2 };

  Kind kind = kElement;
  Axes box;                      // blocks: 0 for a whole axis
  int64_t n = 0, m = 0;          // n of m
  int64_t taps = 0;              // of the kernels that the shapes fit
  std::vector<uint32_t> shapes;  // bit t: tap t stays

  // Throws unless the code is one that sparselth/ops/patterns.py encodes.
  explicit Pattern(const std::vector<int64_t>& code) {
    if (code.empty()) return;
    check(code);
    kind = Kind(code[0]);
    if (kind == kBlocks) box = {code[1], code[2], code[3]};
    if (kind == kNOfM) n = code[1], m = code[2];
    if (kind == kKernelShapes) {
      taps = code[1];
      for (size_t i = 2; i < code.size(); ++i) shapes.push_back(uint32_t(code[i]));
    }
  }

 private:
  static int bits(int64_t shape) {
    int count = 0;
    for (; shape > 0; shape >>= 1) count += shape & 1;
    return count;
  }

  static void check(const std::vector<int64_t>& code) {
    constexpr int64_t kMost = int64_t(1) << 30;
    const auto within = [&](size_t i, int64_t low, int64_t high) {
      return i < code.size() && code[i] >= low && code[i] <= high;
    };
    bool fits = false;
    if (code[0] == kBlocks) {
      fits = code.size() == 4 && within(1, 0, kMost) && within(2, 0, kMost) && within(3, 0, kMost);
    } else if (code[0] == kNOfM) {
      fits = code.size() == 3 && within(2, 2, 32) && within(1, 1, code[2] - 1);
    } else if (code[0] == kKernelShapes) {
      fits = code.size() >= 3 && code.size() <= 2 + 16 && within(1, 1, 31);
      for (size_t i = 2; fits && i < code.size(); ++i) {
        fits = within(i, 1, (int64_t(1) << code[1]) - 1) && bits(code[i]) == bits(code[2]);
        for (size_t j = 2; j < i; ++j) fits &= code[i] != code[j];
      }
    }
    if (fits) return;
    std::string text;
    for (const int64_t number : code) text += (text.empty() ? "" : ", ") + std::to_string(number);
    throw std::runtime_error("[" + text + "] is no pattern; see sparselth/ops/contract");
  }
};

// The groups of one tensor: boxes, numbered row by row.
struct Grouping {
  Axes axes;
  Axes box;                // extents of a whole group
  int64_t blocks[3] = {};  // along each axis
  bool shaped = false;     // kernels that keep one of the pattern's shapes
  int64_t first = 0;       // number of its first group among those of all tensors

  Grouping(const Pattern& pattern, const Axes& axes) : axes(axes), box(pattern.box) {
    if (pattern.kind == Pattern::kKernelShapes) {
      box = {1, 1, 0};
      shaped = axes.taps == pattern.taps;
    }
    if (pattern.kind == Pattern::kNOfM) box = {1, pattern.m, 1};
    if (box.out == 0 || box.out > axes.out) box.out = axes.out;
    if (box.inputs == 0 || box.inputs > axes.inputs) box.inputs = axes.inputs;
    if (box.taps == 0 || box.taps > axes.taps) box.taps = axes.taps;
    if (axes.size() == 0) return;
    blocks[0] = (axes.out + box.out - 1) / box.out;
    blocks[1] = (axes.inputs + box.inputs - 1) / box.inputs;
    blocks[2] = (axes.taps + box.taps - 1) / box.taps;
  }

  int64_t groups() const { return blocks[0] * blocks[1] * blocks[2]; }
  // The first group of an out block and an input block.
  int64_t group(int64_t out_block, int64_t input_block) const {
    return (out_block * blocks[1] + input_block) * blocks[2];
  }
};

// The groupings of a list, numbered through.
inline std::vector<Grouping> groupings_of(const Pattern& pattern, const std::vector<Axes>& list) {
  std::vector<Grouping> all;
  int64_t first = 0;
  for (const Axes& axes : list) {
    all.emplace_back(pattern, axes).first = first;
    first += all.back().groups();
  }
  return all;
}

}  // namespace sparselth
