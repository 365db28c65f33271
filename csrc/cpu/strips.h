// How a convolution through strips divides its work, see lane_strips.inl: rows into strips, strips
// and output channels among threads. Plain arithmetic, the same on every instruction set.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/cache.h"
#include "cpu/threads.h"

namespace sparselth {

// How a pass divides its rows: strips of `rows`, the last one with what is left.
struct Strips {
  int64_t count, rows;

  int64_t begin(int64_t strip) const { return strip * rows; }
  int64_t end(int64_t strip, int64_t total) const {
    return strip + 1 == count ? total : (strip + 1) * rows;
  }
  int64_t longest(int64_t total) const { return std::max(rows, total - (count - 1) * rows); }
};

// So many steps of the longest of `threads` that take turns at `tasks`.
inline int64_t turns(int64_t tasks, int64_t threads) { return (tasks + threads - 1) / threads; }

// Strips that fit into the second-level cache, and more of them where threads would wait for each
// other otherwise. Strips have a multiple of kMostTileRows rows, so that every tile fits.
//
// total: rows to divide. first_bytes: of scratch for a strip of one row.  row_bytes: for each
// further one.  room: bytes of scratch.
inline Strips divide_rows(int64_t total, int64_t bundles, int64_t first_bytes, int64_t row_bytes,
                          int64_t threads, int64_t room = l2_bytes() / 2) {
  constexpr int64_t kMostTileRows = 4;
  constexpr double kReadAgain = 0.5;            // what a strip costs besides its own rows, in rows
  row_bytes = std::max<int64_t>(1, row_bytes);  // of no channels
  const int64_t fit = std::max<int64_t>(kMostTileRows, 1 + (room - first_bytes) / row_bytes);
  const int64_t least = (total + fit - 1) / fit;
  Strips best{1, 0};
  double best_cost = 0;
  for (int64_t count = std::max<int64_t>(1, least);; ++count) {
    const int64_t rows =
        std::max<int64_t>(kMostTileRows, total / count / kMostTileRows * kMostTileRows);
    const Strips strips{std::max<int64_t>(1, total / rows), rows};
    const double cost = double(turns(bundles * strips.count, threads)) *
                        (double(strips.longest(total)) + kReadAgain);
    if (best.rows == 0 || cost < best_cost) best = strips, best_cost = cost;
    if (rows == kMostTileRows) return best;
  }
}

// A strip, and the one that its thread takes next, if there is one.
struct StripAt {
  int64_t bundle, strip;
  bool has_next;
  int64_t next_bundle, next_strip;
};

// Runs of neighboring strips of all bundles, and parts of the output channels where there are fewer
// strips than threads: each part reads the strip for itself.
struct StripTasks {
  int64_t bundles, parts = 1, runs = 1;
  Strips strips;

  StripTasks(int64_t bundles, const Strips& strips, int64_t most_parts, int64_t threads)
      : bundles(bundles), strips(strips) {
    constexpr double kRead = 0.15;  // of what computing all channels of a strip costs
    const int64_t whole = std::max<int64_t>(1, bundles * strips.count);
    double best_cost = 0;
    for (int64_t some = 1; some <= std::clamp<int64_t>(most_parts, 1, threads); ++some) {
      const int64_t at_once = std::min(threads / some, whole);
      const double cost = double(turns(whole, at_once)) * (1.0 / double(some) + kRead);
      if (some == 1 || cost < best_cost) parts = some, runs = at_once, best_cost = cost;
    }
  }

  // Calls f(at, part, run), a run of neighboring strips and a part at a time.
  template <class F>
  void run(const Threads& threads, const F& f) const {
    const int64_t total = bundles * strips.count;
    threads.run(runs * parts, [&](int64_t task) {
      const int64_t run = task / parts, end = (run + 1) * total / runs;
      for (int64_t i = run * total / runs; i < end; ++i)
        f(StripAt{i / strips.count, i % strips.count, i + 1 < end, (i + 1) / strips.count,
                  (i + 1) % strips.count},
          task % parts, run);
    });
  }
};

}  // namespace sparselth
