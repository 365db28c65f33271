// Builds plans from numpy masks.

#include "common/plan.h"

#include <pybind11/numpy.h>

#include "host/host.h"

namespace py = pybind11;

namespace sparselth::host {
namespace {

using Mask = py::array_t<bool, py::array::c_style | py::array::forcecast>;

py::array_t<int32_t> conv_plan(const Mask& mask, int64_t groups) {
  if (mask.ndim() != 4)
    throw std::runtime_error("a plan needs a (C_out, C_in/groups, kH, kW) mask");
  const std::vector<int32_t> plan =
      build_plan(reinterpret_cast<const uint8_t*>(mask.data()), mask.shape(0), mask.shape(1),
                 mask.shape(2) * mask.shape(3), groups);
  return py::array_t<int32_t>(py::ssize_t(plan.size()), plan.data());
}

}  // namespace

void register_plan(py::module_& m) {
  m.def("conv_plan", &conv_plan, py::arg("mask"), py::arg("groups"),
        "Return a mask's packed indices as int32; see csrc/common/plan.h for the layout.");
}

}  // namespace sparselth::host
