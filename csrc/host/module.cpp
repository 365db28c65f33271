// sparselth._host: what has to be compiled but needs no torch. Facts about the CPU stand here,
// plan building in plan.cpp.
//
// pybind11 cannot be used beside torch's stable ABI, hence a module of its own.
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "common/isa.h"
#include "host.h"

namespace py = pybind11;

namespace {

// __builtin_cpu_supports also asks whether the operating system saves the registers.
std::map<std::string, bool> cpu_features() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return {
      {"sse4.2", __builtin_cpu_supports("sse4.2") != 0},
      {"avx", __builtin_cpu_supports("avx") != 0},
      {"avx2", __builtin_cpu_supports("avx2") != 0},
      {"fma", __builtin_cpu_supports("fma") != 0},
      {"avx512f", __builtin_cpu_supports("avx512f") != 0},
      {"avx512bw", __builtin_cpu_supports("avx512bw") != 0},
      {"avx512vl", __builtin_cpu_supports("avx512vl") != 0},
      {"avx512dq", __builtin_cpu_supports("avx512dq") != 0},
      {"avx512vnni", __builtin_cpu_supports("avx512vnni") != 0},
  };
#elif defined(__aarch64__)
  return {{"neon", true}};
#else
  return {};
#endif
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "Plan building and CPU facts; independent of torch.";
  m.def("cpu_features", &cpu_features, "Return the vector instruction sets this CPU offers.");
  m.def(
      "simd_level", [] { return sparselth::isa_name(sparselth::isa()); },
      "Return what the CPU kernels run on: 'avx512', 'avx2' or 'portable'.");
  m.attr("compiler") = __VERSION__;
  sparselth::host::register_plan(m);
}
