// Entry points of the torch-free module `_host`. Each file registers what it brings.
#pragma once

#include <pybind11/pybind11.h>

namespace sparselth::host {

void register_plan(pybind11::module_& m);

}  // namespace sparselth::host
