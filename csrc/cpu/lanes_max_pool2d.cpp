// Max pooling of activations in lanes on the CPU: tensors in, kernels of lanes_max_pool2d.inl.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/isa.h"
#include "cpu/lane_tensors.h"
#include "cpu/parallel.h"
#include "cpu/threads.h"

namespace sparselth {

struct PoolWindow {
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
};

#define SPARSELTH_ISA_FILE "cpu/lanes_max_pool2d.inl"
#include "common/foreach_isa.h"

namespace {

PoolWindow pool_window(const Ints& kernel, const Ints& stride, const Ints& padding,
                       const char* op) {
  constexpr int64_t kMost = 255;  // positions are bytes
  check_pair(op, "kernel", kernel, 1);
  check_pair(op, "stride", stride, 1);
  check_pair(op, "padding", padding, 0);
  for (int axis = 0; axis < 2; ++axis) {
    expect(kernel[axis] <= kMost && kernel[0] <= kMost / kernel[1], op,
           "takes windows of at most 255 pixels, got ", Extents(kernel));
    // Every window then has a pixel of the image in it.
    expect(padding[axis] <= kernel[axis] / 2, op, "takes a padding of at most half the kernel, ",
           Extents(kernel), ", got ", Extents(padding));
  }
  return {kernel[0], kernel[1], stride[0], stride[1], padding[0], padding[1]};
}

int64_t windows(int64_t size, int64_t kernel, int64_t stride, int64_t pad, const char* op) {
  expect(size >= 1 && size <= (int64_t(1) << 30) && size + 2 * pad >= kernel, op, "a window of ",
         kernel, " pixels does not fit into ", size, " padded by ", pad);
  return (size + 2 * pad - kernel) / stride + 1;
}

std::tuple<Tensor, Tensor> lanes_max_pool2d(const Tensor& input, int64_t batch, int64_t input_halo,
                                            const std::optional<Tensor>& scale,
                                            const std::optional<Tensor>& shift, bool relu,
                                            double upper, const Ints& kernel, const Ints& stride,
                                            const Ints& padding, int64_t halo) {
  const char* op = "lanes_max_pool2d";
  const PoolWindow w = pool_window(kernel, stride, padding, op);
  check_halo(op, halo);
  std::optional<std::tuple<Tensor, Tensor>> result;
  with_lane_type(input.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    using C = Compute<T>;
    const LaneOperand<T> x(input, input_halo, op);
    x.check_batch(batch, op);
    const LaneView<const T>& in = x.view();
    const PerChannel<C> scales(scale, in.channels, op), shifts(shift, in.channels, op);
    const int64_t p = windows(in.height, w.kernel_h, w.stride_h, w.pad_h, op);
    const int64_t q = windows(in.width, w.kernel_w, w.stride_w, w.pad_w, op);
    const Tensor y = empty_planes(input, p, q, halo);
    const Tensor position = empty_planes(input, p, q, 0, ScalarType::Byte);
    SPARSELTH_CALL_ISA(
        max_pool<T>, in, batch, {scales.data(), shifts.data(), nullptr, nullptr, C(upper)}, relu, w,
        lane_view<T>(y, halo, in.lanes, op), lane_view<uint8_t>(position, 0, in.lanes, op),
        torch_threads(position.numel() * w.kernel_h * w.kernel_w));
    result = {y, position};
  });
  return *result;
}

Tensor lanes_max_pool2d_backward(const Tensor& grad, int64_t batch, int64_t grad_halo,
                                 const Tensor& position, const Ints& input_hw, const Ints& kernel,
                                 const Ints& stride, const Ints& padding, int64_t halo) {
  const char* op = "lanes_max_pool2d_backward";
  const PoolWindow w = pool_window(kernel, stride, padding, op);
  check_halo(op, halo);
  check_pair(op, "input_hw", input_hw, 0);
  const Tensor places = torch::stable::contiguous(position);
  std::optional<Tensor> result;
  with_lane_type(grad.scalar_type(), op, [&](auto type) {
    using T = decltype(type);
    const LaneOperand<T> dy(grad, grad_halo, op);
    dy.check_batch(batch, op);
    const LaneView<const T>& in = dy.view();
    expect(in.height == windows(input_hw[0], w.kernel_h, w.stride_h, w.pad_h, op) &&
               in.width == windows(input_hw[1], w.kernel_w, w.stride_w, w.pad_w, op),
           op, "the gradient has ", in.height, " x ", in.width, " pixels, not one per window");
    check_extents(op, "positions", places,
                  {in.bundles, in.channels, in.height, in.width, in.lanes});
    result = empty_planes(grad, input_hw[0], input_hw[1], halo);
    SPARSELTH_CALL_ISA(max_pool_backward<T>, in, lane_view<const uint8_t>(places, 0, in.lanes, op),
                       w, lane_view<T>(*result, halo, in.lanes, op),
                       torch_threads(result->numel() * 2));
  });
  return *result;
}

}  // namespace
}  // namespace sparselth

STABLE_TORCH_LIBRARY_IMPL(sparselth, CPU, m) {
  m.impl("lanes_max_pool2d", TORCH_BOX(&sparselth::lanes_max_pool2d));
  m.impl("lanes_max_pool2d_backward", TORCH_BOX(&sparselth::lanes_max_pool2d_backward));
}
