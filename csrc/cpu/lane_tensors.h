// Activations in lanes between stable tensors and the kernels' plain data.
//
// The layout, (bundles, channels, H + 2 halo, W + 2 halo, lanes), stands in
// sparselth/ops/lanes/layout.py. A plane is one (bundle, channel) of it.
#pragma once

#include <type_traits>

#include "common/isa.h"
#include "cpu/lane_memory.h"
#include "cpu/tensors.h"

namespace sparselth {

// What a kernel sees of a tensor in lanes. An optional operand that is absent has no data.
template <class T>
struct LaneView {
  T* data = nullptr;
  int64_t bundles = 0, channels = 0, height = 0, width = 0, halo = 0, lanes = 0;

  int64_t planes() const { return bundles * channels; }
  int64_t row_size() const { return (width + 2 * halo) * lanes; }
  int64_t plane_size() const { return (height + 2 * halo) * row_size(); }
  int64_t bundle_size() const { return channels * plane_size(); }
  int64_t size() const { return bundles * bundle_size(); }
  // The first pixel inside the halo of row `y`.
  T* row(int64_t plane, int64_t y) const {
    return data + plane * plane_size() + (halo + y) * row_size() + halo * lanes;
  }
  // Pixel (y, x) of the bundle's first channel; it may lie in the halo.
  T* at(int64_t bundle, int64_t y, int64_t x) const {
    return row(bundle * channels, y) + x * lanes;
  }
};

// kLanes of an activation's type in the kernels that SPARSELTH_CALL_ISA calls.
inline int64_t running_lanes(ScalarType dtype) {
  const int64_t bytes = isa() == Isa::avx512 ? 64 : isa() == Isa::avx2 ? 32 : 16;
  return bytes / (dtype == ScalarType::Double ? 8 : 4);
}

template <class T>
inline constexpr ScalarType kScalarType = sizeof(T) == 1   ? ScalarType::Byte
                                          : sizeof(T) == 4 ? ScalarType::Float
                                                           : ScalarType::Double;
template <>
inline constexpr ScalarType kScalarType<Bf16> = ScalarType::BFloat16;
template <>
inline constexpr ScalarType kScalarType<Fp16> = ScalarType::Half;
template <class T>
inline constexpr ScalarType kScalarType<const T> = kScalarType<T>;

// Calls f(T{}) with the type that activations are stored in.
template <class F>
void with_lane_type(ScalarType dtype, const char* op, const F& f) {
  if (dtype == ScalarType::BFloat16) return f(Bf16{});
  if (dtype == ScalarType::Half) return f(Fp16{});
  with_compute_type(dtype, op, f);
}

// Images (batch, C, H, W) of a tensor in lanes with this halo and so many lanes.
inline Ints checked_images(const char* op, const Tensor& input, int64_t batch, int64_t halo,
                           int64_t lanes) {
  expect(input.dim() == 5 && halo >= 0 && halo <= input.size(2) / 2 && halo <= input.size(3) / 2,
         op, "takes (bundles, channels, H + 2 halo, W + 2 halo, lanes) and a halo that fits, got ",
         Extents(input), " and ", halo);
  expect(input.size(4) == lanes, op, "takes bundles of ", lanes, " images with ", isa_name(isa()),
         " registers, got ", input.size(4));
  // (batch + lanes - 1) / lanes, of any batch
  const int64_t bundles = batch / lanes + (batch % lanes > 0);
  expect(batch >= 0 && bundles == input.size(0), op, batch, " images do not fill ", input.size(0),
         " bundles of ", lanes);
  return {batch, input.size(1), input.size(2) - 2 * halo, input.size(3) - 2 * halo};
}

// The same of the kernels' own lanes.
inline Ints checked_images(const char* op, const Tensor& input, int64_t batch, int64_t halo) {
  const ScalarType dtype = input.scalar_type();
  with_lane_type(dtype, op, [](auto) {});
  return checked_images(op, input, batch, halo, running_lanes(dtype));
}

// A halo that a result gets.
inline void check_halo(const char* op, int64_t halo) {
  expect(halo >= 0 && halo <= (int64_t(1) << 30), op, "a halo of ", halo, " is outside [0, 2^30]");
}

// The kernels' view of `tensor`, which must be contiguous and outlive it. T: its values, const for
// an operand. lanes: what its last extent must be.
template <class T>
LaneView<T> lane_view(const Tensor& tensor, int64_t halo, int64_t lanes, const char* op) {
  constexpr ScalarType dtype = kScalarType<T>;
  expect(tensor.scalar_type() == dtype, op, "takes ", toString(dtype), " here, got ",
         toString(tensor.scalar_type()));
  checked_images(op, tensor, tensor.dim() == 5 ? tensor.size(0) * lanes : 0, halo, lanes);
  return {data<T>(tensor),           tensor.size(0), tensor.size(1), tensor.size(2) - 2 * halo,
          tensor.size(3) - 2 * halo, halo,           lanes};
}

// The same for bundles as the kernels of T take them.
template <class T>
LaneView<T> lane_view(const Tensor& tensor, int64_t halo, const char* op) {
  return lane_view<T>(tensor, halo, running_lanes(kScalarType<T>), op);
}

// An operand, kept alive and copied only where it has gaps.
template <class T>
class LaneOperand {
 public:
  LaneOperand(const Tensor& tensor, int64_t halo, const char* op)
      : tensor_(torch::stable::contiguous(tensor)), view_(lane_view<const T>(*tensor_, halo, op)) {}

  // One that goes with `other`, or none.
  LaneOperand(const std::optional<Tensor>& tensor, int64_t halo, const LaneOperand<T>& other,
              const char* op) {
    if (!tensor) return;
    *this = LaneOperand(*tensor, halo, op);
    const LaneView<const T>&a = other.view_, &b = view_;
    expect(a.bundles == b.bundles && a.channels == b.channels && a.height == b.height &&
               a.width == b.width,
           op, "takes tensors of one shape without their halos, got ", Extents(*tensor));
  }

  const LaneView<const T>& view() const { return view_; }

  void check_batch(int64_t batch, const char* op) const {
    checked_images(op, *tensor_, batch, view_.halo, view_.lanes);
  }

 private:
  std::optional<Tensor> tensor_;
  LaneView<const T> view_;
};

// One value per channel, or none. T: what activations are computed in.
template <class T>
class PerChannel {
 public:
  PerChannel(const std::optional<Tensor>& values, int64_t channels, const char* op) {
    if (!values) return;
    expect(values->scalar_type() == kScalarType<T>, op, "takes ", toString(kScalarType<T>),
           " values per channel, got ", toString(values->scalar_type()));
    check_extents(op, "values per channel", *values, {channels});
    tensor_ = torch::stable::contiguous(*values);
  }
  const T* data() const { return tensor_ ? sparselth::data<T>(*tensor_) : nullptr; }

 private:
  std::optional<Tensor> tensor_;
};

// Uninitialized memory for bundles of any shape.
inline Tensor empty_lanes(const Tensor& like, int64_t bundles, int64_t channels, int64_t height,
                          int64_t width, int64_t halo, int64_t lanes,
                          std::optional<ScalarType> dtype = std::nullopt) {
  return empty_kept(like, {bundles, channels, height + 2 * halo, width + 2 * halo, lanes},
                    dtype.value_or(like.scalar_type()));
}

// Uninitialized memory for a result with planes of height x width.
inline Tensor empty_planes(const Tensor& like, int64_t height, int64_t width, int64_t halo,
                           std::optional<ScalarType> dtype = std::nullopt) {
  return empty_lanes(like, like.size(0), like.size(1), height, width, halo, like.size(4), dtype);
}

}  // namespace sparselth
