// The torch side of the convolutions of single kept weights: tiles and plans from tensors.
#pragma once

#include "launch_conv.cuh"
#include "unstructured_tile.cuh"

namespace sparselth::cuda {

// What a launch needs to know.
struct UnstructuredCall {
  UnstructuredTile tile;
  UnstructuredPlan plan;

  // rows: channels of the result.  mask: whose plan it is.
  UnstructuredCall(const char* op, const ConvPass& pass, const Tensor& words, const Tensor& mask,
                   int64_t rows) {
    const bool fits = cut_into_tiles(pass, tile);
    const int32_t* first = plan_words(op, words, mask);
    plan = read_plan(first, words.numel(), rows, tile.columns, mask.numel());
    check_conv(op, fits, plan.count >= 0, tile.all_tiles() * (plan.slots / kRows));
  }
};

// As dispatch_float, without float64: sums are in float32.
template <class F>
void dispatch_unstructured(ScalarType dtype, const char* op, F&& f) {
  expect(dtype != ScalarType::Double, op, "float32, float16 or bfloat16 only");
  dispatch_float(dtype, op, [&]<class T>(T* none) {
    if constexpr (sizeof(T) < 8) f(none);
  });
}

}  // namespace sparselth::cuda
