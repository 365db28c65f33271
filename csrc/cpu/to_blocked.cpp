// to_blocked and from_blocked: tensors in, kernels of to_blocked.inl, tensors out.

#include "cpu/to_blocked.h"

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

#define SPARSELTH_ISA_FILE "cpu/to_blocked.inl"
#include "common/foreach_isa.h"

namespace {

// With one pixel both layouts are the same memory; channels are then the longer run.
bool walks_channels(const Tensor& t) { return !t.is_contiguous() || t.size(2) * t.size(3) == 1; }

// A tensor the kernels can walk: float or double, NCHW or NHWC without gaps.
Tensor walkable(const Tensor& t) {
  const Tensor wide = widened(t);
  return wide.is_contiguous() || is_channels_last(wide) ? wide : torch::stable::contiguous(wide);
}

}  // namespace

Tensor to_blocked(const Tensor& input, int64_t lanes, int64_t halo) {
  const char* op = "to_blocked";
  check_dims(op, "input", input, 4);
  check_halo(op, halo);
  const Tensor x = walkable(input);
  with_compute_type(x.scalar_type(), op, [](auto) {});
  expect(lanes == running_lanes(x.scalar_type()), op, "this CPU's kernels take ",
         running_lanes(x.scalar_type()), " lanes, got ", lanes);
  Tensor blocked = empty_blocked(x, (x.size(0) + lanes - 1) / lanes, x.size(1), x.size(2),
                                 x.size(3), halo, lanes);
  if (blocked.numel() == 0) return blocked;
  with_compute_type(x.scalar_type(), "to_blocked", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(images_to_blocks<T>, data<T>(x), x.size(0), walks_channels(x),
                       blocked_view<T>(blocked, halo, "to_blocked"),
                       torch_threads(blocked.numel()));
  });
  return blocked;
}

void from_blocked_into(const Tensor& blocked, int64_t halo, const Tensor& images) {
  if (images.numel() == 0) return;
  with_compute_type(blocked.scalar_type(), "from_blocked", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(blocks_to_images<T>, blocked_view<T>(blocked, halo, "to_blocked"),
                       data<T>(images), images.size(0), walks_channels(images),
                       torch_threads(blocked.numel()));
  });
}

Tensor with_halo(const Tensor& blocked, int64_t halo, int64_t wanted) {
  if (halo >= wanted) return blocked;
  Tensor wide = empty_blocked(blocked, blocked.size(0), blocked.size(1), blocked.size(2) - 2 * halo,
                              blocked.size(3) - 2 * halo, wanted, blocked.size(4));
  with_compute_type(blocked.scalar_type(), "with_halo", [&](auto type) {
    using T = decltype(type);
    SPARSELTH_CALL_ISA(copy_blocks<T>, blocked_view<T>(blocked, halo, "to_blocked"),
                       blocked_view<T>(wide, wanted, "to_blocked"), torch_threads(blocked.numel()));
  });
  return wide;
}

namespace {

Tensor from_blocked(const Tensor& blocked, int64_t batch, int64_t halo) {
  const Ints shape = checked_images("from_blocked", blocked, batch, halo);
  const Tensor whole = torch::stable::contiguous(blocked);
  Tensor images = torch::stable::new_empty(whole, shape);
  from_blocked_into(whole, halo, images);
  return images;
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("to_blocked", TORCH_BOX(&sparselth::to_blocked));
  m.impl("from_blocked", TORCH_BOX(&sparselth::from_blocked));
}
