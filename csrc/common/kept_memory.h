// A heap for large blocks, which keeps what is given back to it.
//
// A training step allocates the same activations every time. glibc's allocator serves them badly:
// blocks from the system come anew in each step, page by page and zeroed; freed ones in its heap
// are a few bytes too small for an aligned request of the same size, so that the heap grows to
// twice what is in use (measured on ResNet-20, 2026-11-29: 320 MB for 184 MB, glibc 2.36).
//
// Here a block is the first free range that is large enough, from the lowest address on, and ranges
// that touch are one. So what is in use stays together, and what lies above all that was in use
// lately is given back to the system.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <vector>

#include "common/huge_pages.h"

#if defined(__linux__)
#include <pthread.h>
#include <unistd.h>
#endif

namespace sparselth {

class KeptMemory {
 public:
  // What it serves; the rest is the C library's, which keeps small blocks well.
  static constexpr int64_t kLeast = 128 << 10, kMost = int64_t(1) << 30;
#if defined(__linux__)
  static constexpr bool kAvailable = true;
#else
  static constexpr bool kAvailable = false;
#endif

  // Uninitialized memory, aligned to 64 bytes, or nullptr where the system has none.
  // bytes: between kLeast and kMost.
  void* take(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    if (++taken_ % kLately == 0)
      for (Segment& segment : segments_) segment.forget();
    for (Segment& segment : segments_)
      if (char* block = segment.take(room(bytes))) return block;
    char* base = from_system(kSegment);
    if (!base) return nullptr;
    return segments_.emplace_back(base).take(room(bytes));
  }

  void give(void* block, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    for (Segment& segment : segments_)
      if (segment.has(static_cast<char*>(block)))
        return segment.give(static_cast<char*>(block), room(bytes));
  }

  // Gives what is free back to the system; returns the bytes.
  int64_t release() {
    const std::lock_guard lock(mutex_);
    int64_t bytes = 0;
    for (Segment& segment : segments_) bytes += segment.release();
    return bytes;
  }

  // Of the process, never destroyed: tensors may outlive everything.
  static KeptMemory& instance() {
    static KeptMemory* const memory = [] {
      auto* made = new KeptMemory;
#if defined(__linux__)
      // A child must not inherit a lock that another thread held.
      pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                     [] { instance().mutex_.unlock(); });
#endif
      return made;
    }();
    return *memory;
  }

 private:
  static constexpr int64_t kSegment = int64_t(4) << 30;  // of addresses; memory comes when touched
  static constexpr int64_t kLately = 2048;               // requests; a step of a ResNet-20 makes 80

  // Blocks are a page and a line apart: operands that begin at the same place in a page, or a cache
  // set, get in each other's way.
  static int64_t room(int64_t bytes) { return (bytes + 63) / 64 * 64 + 4096 + 64; }

  // A range of addresses and what is free in it.
  class Segment {
   public:
    explicit Segment(char* base) : base_(base), free_{{0, kSegment}} {}

    bool has(const char* block) const { return base_ <= block && block < base_ + kSegment; }

    char* take(int64_t bytes) {
      const auto range = std::find_if(free_.begin(), free_.end(),
                                      [&](const auto& r) { return r.second >= bytes; });
      if (range == free_.end()) return nullptr;
      const int64_t begin = range->first, size = range->second;
      free_.erase(range);
      if (size > bytes) free_[begin + bytes] = size - bytes;
      top_ = std::max(top_, begin + bytes);
      touched_ = std::max(touched_, top_);
      return base_ + begin;
    }

    void give(char* block, int64_t bytes) {
      const auto range = free_.emplace(block - base_, bytes).first;
      if (const auto after = std::next(range);
          after != free_.end() && range->first + range->second == after->first) {
        range->second += after->second;
        free_.erase(after);
      }
      if (range == free_.begin()) return;
      if (const auto before = std::prev(range); before->first + before->second == range->first) {
        before->second += range->second;
        free_.erase(range);
      }
    }

    // Ends a stretch of requests: gives back what lies above all that this one and the last used.
    void forget() {
      const int64_t keep = std::max({top_, top_before_, in_use_below()});
      to_system(base_, keep, touched_);
      touched_ = std::min(touched_, keep);
      top_before_ = top_;
      top_ = in_use_below();
    }

    int64_t release() {
      int64_t bytes = 0;
      for (const auto& [begin, size] : free_) {
        bytes += resident(base_, begin, std::min(begin + size, touched_));
        to_system(base_, begin, std::min(begin + size, touched_));
      }
      touched_ = top_ = top_before_ = in_use_below();
      return bytes;
    }

   private:
    // Where the last free range begins: nothing is in use above.
    int64_t in_use_below() const {
      if (free_.empty()) return kSegment;
      const auto& [begin, size] = *free_.rbegin();
      return begin + size == kSegment ? begin : kSegment;
    }

    char* base_;
    std::map<int64_t, int64_t> free_;  // offset -> bytes
    // Ends of what may have been written since it came from the system, and of what was in use in
    // this stretch and the last.
    int64_t touched_ = 0, top_ = 0, top_before_ = 0;
  };

#if defined(__linux__)
  static char* from_system(int64_t bytes) {
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    prefer_huge_pages(mapped, bytes);
    return static_cast<char*>(mapped);
  }

  // Calls f(address, bytes) with the whole pages of [begin, end), if there are any.
  template <class F>
  static void for_pages(char* base, int64_t begin, int64_t end, const F& f) {
    begin = (begin + page() - 1) / page() * page(), end = end / page() * page();
    if (begin < end) f(base + begin, end - begin);
  }

  static void to_system(char* base, int64_t begin, int64_t end) {
    for_pages(base, begin, end, [](char* at, int64_t bytes) { madvise(at, bytes, MADV_DONTNEED); });
  }

  // The bytes of [begin, end) that the system has given memory for.
  static int64_t resident(char* base, int64_t begin, int64_t end) {
    int64_t bytes = 0;
    for_pages(base, begin, end, [&](char* at, int64_t all) {
      std::vector<unsigned char> pages(all / page());
      if (mincore(at, all, pages.data()) != 0) return;
      for (unsigned char flags : pages) bytes += flags & 1 ? page() : 0;
    });
    return bytes;
  }

  static int64_t page() {
    static const int64_t size = sysconf(_SC_PAGESIZE);
    return size;
  }
#else
  static char* from_system(int64_t) { return nullptr; }
  static void to_system(char*, int64_t, int64_t) {}
  static int64_t resident(char*, int64_t, int64_t) { return 0; }
#endif

  std::mutex mutex_;
  std::vector<Segment> segments_;
  int64_t taken_ = 0;
};

}  // namespace sparselth
