// sparselth._host: what has to be compiled but needs no torch. Facts about the CPU stand here,
// plan building in plan.cpp.
//
// pybind11 cannot be used beside torch's stable ABI, hence a module of its own.
#include <pybind11/stl.h>

#include <map>
#include <string>

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

std::string simd_level() {
  auto features = cpu_features();
  const auto has = [&](const char* name) { return features.count(name) != 0 && features[name]; };
  if (has("avx512f") && has("avx512bw") && has("avx512vl") && has("avx512dq")) return "avx512";
  if (has("avx2") && has("fma")) return "avx2";
  if (has("neon")) return "neon";
  return "baseline";
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "Plan building and CPU facts; independent of torch.";
  m.def("cpu_features", &cpu_features, "Return the vector instruction sets this CPU offers.");
  m.def("simd_level", &simd_level, "Return 'avx512', 'avx2', 'neon' or 'baseline'.");
  m.attr("compiler") = __VERSION__;
  sparselth::host::register_plan(m);
}
