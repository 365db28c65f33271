// How many threads to use while other programs want the same cores.
//
// A parallel pass ends with its last thread. Where another program takes a core for a slice of some
// milliseconds, one thread stands still and the others wait for it, in pass after pass: 2 threads
// beside one busy program took 4.3 times as long for a training step, where a fair share would be
// 1.5 to 2 (2 cores of an AMD EPYC, 2026-11-28). So passes are watched. Where one thread was held
// up, the next passes run on a thread fewer, which leaves a core to the other program; after a
// while the full number is tried again.
//
// It decides who runs a task, never how work is divided: results do not depend on it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>

namespace sparselth {

// One thread's part of a pass.
struct ShareOfPass {
  int64_t nanoseconds = 0, tasks = 0;
};

// Times are in nanoseconds on any steady clock. Several threads may call: what they see of each
// other may be late, which costs time only.
class Crowding {
 public:
  // Threads for the next pass, of `most`.
  int64_t threads(int64_t most, int64_t now) {
    const int64_t fewer = fewer_.load(std::memory_order_relaxed);
    if (fewer == 0) return most;
    if (now < until_.load(std::memory_order_relaxed)) return std::max<int64_t>(1, most - fewer);
    fewer_.store(0, std::memory_order_relaxed);
    tried_.store(now, std::memory_order_relaxed);
    strikes_.store(0, std::memory_order_relaxed);
    return most;
  }

  // What a pass by `count` threads took.
  void saw(const ShareOfPass* shares, int64_t count, int64_t now) {
    if (!held_up(shares, count)) {
      const int64_t strikes = strikes_.load(std::memory_order_relaxed);
      if (strikes > 0) strikes_.store(strikes - 1, std::memory_order_relaxed);
      return;
    }
    const int64_t strikes = strikes_.load(std::memory_order_relaxed) + kStrike;
    strikes_.store(strikes, std::memory_order_relaxed);
    if (strikes < kEnough) return;
    // Crowded again right after another try: wait longer for the next.
    const bool again = now - tried_.load(std::memory_order_relaxed) < kShortest;
    const int64_t pause =
        again ? std::min(2 * pause_.load(std::memory_order_relaxed), kLongest) : kShortest;
    pause_.store(pause, std::memory_order_relaxed);
    fewer_.store(fewer_.load(std::memory_order_relaxed) + std::max<int64_t>(1, count / kAtOnce),
                 std::memory_order_relaxed);
    until_.store(now + pause, std::memory_order_relaxed);
    strikes_.store(0, std::memory_order_relaxed);
  }

 private:
  // Whether the slowest thread took much longer than its tasks take others.
  static bool held_up(const ShareOfPass* shares, int64_t count) {
    double fastest = 0, excess = 0, expected = 0;  // fastest: per task
    for (int64_t i = 0; i < count; ++i) {
      if (shares[i].tasks == 0) continue;
      const double each = double(shares[i].nanoseconds) / double(shares[i].tasks);
      if (fastest == 0 || each < fastest) fastest = each;
    }
    for (int64_t i = 0; i < count; ++i) {
      const double usual = fastest * double(shares[i].tasks);
      const double more = double(shares[i].nanoseconds) - usual;
      if (more > excess) excess = more, expected = usual;
    }
    return excess > kHeldUp && excess > kMuch * expected;
  }

  // A slice of the scheduler is 1 to 4 ms; what tasks differ by, and page faults, are less.
  static constexpr double kHeldUp = 1e6, kMuch = 0.25;
  // Two of ten passes are enough.
  static constexpr int64_t kStrike = 10, kEnough = 12;
  static constexpr int64_t kShortest = 50'000'000, kLongest = 800'000'000;
  static constexpr int64_t kAtOnce = 8;  // of so many threads one is given up at a time

  std::atomic<int64_t> fewer_{0}, strikes_{0}, until_{0}, pause_{0};
  std::atomic<int64_t> tried_{std::numeric_limits<int64_t>::min() / 2};
};

}  // namespace sparselth
