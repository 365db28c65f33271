// to_lanes and from_lanes: tensors in, kernels of to_lanes.inl, tensors out.

#include "cpu/to_lanes.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "cpu/parallel.h"
#include "cpu/tensors.h"
#include "cpu/threads.h"

namespace sparselth {

#define SPARSELTH_ISA_FILE "cpu/to_lanes.inl"
#include "common/foreach_isa.h"

namespace {

// With one pixel both layouts are the same memory; channels are then the longer run.
bool walks_channels(const Tensor& t) { return !t.is_contiguous() || t.size(2) * t.size(3) == 1; }

// A tensor the kernels can walk: NCHW or NHWC without gaps.
Tensor walkable(const Tensor& t) {
  return t.is_contiguous() || is_channels_last(t) ? t : torch::stable::contiguous(t);
}

}  // namespace

Tensor to_lanes(const Tensor& input, int64_t lanes, int64_t halo) {
  const char* op = "to_lanes";
  check_dims(op, "input", input, 4);
  check_halo(op, halo);
  const Tensor x = walkable(input);
  with_lane_type(x.scalar_type(), op, [](auto) {});
  expect(lanes == running_lanes(x.scalar_type()), op, "this CPU's kernels take ",
         running_lanes(x.scalar_type()), " lanes, got ", lanes);
  Tensor out =
      empty_lanes(x, (x.size(0) + lanes - 1) / lanes, x.size(1), x.size(2), x.size(3), halo, lanes);
  if (out.numel() == 0) return out;
  with_lane_type(x.scalar_type(), "to_lanes", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(images_to_lanes<T>, data<T>(x), x.size(0), walks_channels(x),
                       lane_view<T>(out, halo, "to_lanes"), torch_threads(out.numel()));
  });
  return out;
}

void from_lanes_into(const Tensor& input, int64_t halo, const Tensor& images) {
  if (images.numel() == 0) return;
  with_lane_type(input.scalar_type(), "from_lanes", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(lanes_to_images<T>, lane_view<T>(input, halo, "to_lanes"), data<T>(images),
                       images.size(0), walks_channels(images), torch_threads(input.numel()));
  });
}

Tensor with_halo(const Tensor& input, int64_t halo, int64_t wanted) {
  if (halo >= wanted) return input;
  Tensor wide = empty_lanes(input, input.size(0), input.size(1), input.size(2) - 2 * halo,
                            input.size(3) - 2 * halo, wanted, input.size(4));
  with_lane_type(input.scalar_type(), "with_halo", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(copy_lanes<T>, lane_view<T>(input, halo, "to_lanes"),
                       lane_view<T>(wide, wanted, "to_lanes"), torch_threads(input.numel()));
  });
  return wide;
}

namespace {

Tensor from_lanes(const Tensor& input, int64_t batch, int64_t halo) {
  const Ints shape = checked_images("from_lanes", input, batch, halo);
  const Tensor whole = torch::stable::contiguous(input);
  Tensor images = torch::stable::new_empty(whole, shape);
  from_lanes_into(whole, halo, images);
  return images;
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("to_lanes", TORCH_BOX(&sparselth::to_lanes));
  m.impl("from_lanes", TORCH_BOX(&sparselth::from_lanes));
}
