// Parallelism through torch's own thread pool.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <functional>

#include "cpu/threads.h"

namespace sparselth {

inline Threads torch_threads() {
  const int64_t count = torch::stable::get_num_threads();
  return {count, [](int64_t n, const std::function<void(int64_t)>& task) {
            torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
              for (int64_t i = begin; i < end; ++i) task(i);
            });
          }};
}

}  // namespace sparselth
