// The torch side of the convolutions of single kept weights: tiles and plans from tensors.
#pragma once

#include <optional>

#include "entries_tile.cuh"
#include "launch.cuh"

namespace sparselth::cuda {

using Ints = std::vector<int64_t>;

inline Ints shape_of(const Tensor& t) { return Ints(t.sizes().begin(), t.sizes().end()); }

// What a launch needs to know.
struct EntriesCall {
  EntriesTile tile;
  EntriesPlan plan;

  // rows: channels of the result.
  EntriesCall(const char* op, const ConvPass& pass, const Tensor& words, int64_t rows) {
    STD_TORCH_CHECK(cut_into_tiles(pass, tile), "sparselth::", op,
                    ": the kernel reaches too far for shared memory");
    STD_TORCH_CHECK(words.scalar_type() == ScalarType::Int && words.is_contiguous(),
                    "sparselth::", op, ": the plan must be contiguous and int32");
    plan = read_plan(static_cast<const int32_t*>(words.const_data_ptr()), words.numel(), rows,
                     tile.columns);
    STD_TORCH_CHECK(plan.count >= 0, "sparselth::", op,
                    ": the plan belongs to another mask; rebuild it");
    STD_TORCH_CHECK(int64_t(tile.tiles()) * (plan.slots / kRows) < (int64_t(1) << 31),
                    "sparselth::", op, ": too many tiles for one launch");
  }
};

// As dispatch_float, without float64: sums are in float32.
template <class F>
void dispatch_entries(ScalarType dtype, const char* op, F&& f) {
  STD_TORCH_CHECK(dtype != ScalarType::Double, "sparselth::", op,
                  ": float32, float16 or bfloat16 only");
  dispatch_float(dtype, op, [&]<class T>(T* none) {
    if constexpr (sizeof(T) < 8) f(none);
  });
}

}  // namespace sparselth::cuda
