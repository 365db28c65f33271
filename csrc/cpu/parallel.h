// Parallelism through torch's own thread pool.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "common/crowding.h"
#include "cpu/threads.h"

namespace sparselth {

inline int64_t nanoseconds_now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

inline Crowding& crowding() {
  static Crowding all;
  return all;
}

// Runs task(i) for i in [0, n) on up to `most` threads, each a run of neighbors.
inline void run_parallel(int64_t most, int64_t n, const std::function<void(int64_t)>& task) {
  const int64_t count = std::min(crowding().threads(most, nanoseconds_now()), n);
  if (count <= 1) {
    for (int64_t i = 0; i < n; ++i) task(i);
    return;
  }
  std::vector<ShareOfPass> shares(count);
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; ++share) {
      const int64_t first = share * n / count, last = (share + 1) * n / count;
      const int64_t start = nanoseconds_now();
      for (int64_t i = first; i < last; ++i) task(i);
      shares[share] = {nanoseconds_now() - start, last - first};
    }
  });
  crowding().saw(shares.data(), count, nanoseconds_now());
}

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
  return {count, [count](int64_t n, const std::function<void(int64_t)>& task) {
            run_parallel(count, n, task);
          }};
}

}  // namespace sparselth
