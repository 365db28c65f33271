// How a kernel asks for parallelism without knowing torch.
#pragma once

#include <cstdint>
#include <functional>

namespace sparselth {

struct Threads {
  int64_t count;
  // Runs task(i) for i in [0, n), in parallel.
  std::function<void(int64_t n, const std::function<void(int64_t)>& task)> run;
};

}  // namespace sparselth
