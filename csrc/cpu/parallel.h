// Parallelism through torch's own thread pool.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <functional>

#include "cpu/threads.h"

namespace sparselth {

// Threads for `work` multiply-adds or moved values. Waking the pool costs some microseconds, so
// small work stays on the calling thread.
inline Threads torch_threads(int64_t work) {
  constexpr int64_t kWorkPerThread = 1 << 15;
  const int64_t most = torch::stable::get_num_threads();
  const int64_t count = std::clamp<int64_t>(work / kWorkPerThread, 1, most);
  if (count == 1)
    return {1, [](int64_t n, const std::function<void(int64_t)>& task) {
              for (int64_t i = 0; i < n; ++i) task(i);
            }};
  return {count, [](int64_t n, const std::function<void(int64_t)>& task) {
            torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
              for (int64_t i = begin; i < end; ++i) task(i);
            });
          }};
}

}  // namespace sparselth
