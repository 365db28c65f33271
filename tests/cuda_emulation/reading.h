// Reading cases from stdin.
#pragma once

#include <vector>

#include "emulation.h"

inline void read_bytes(void* target, size_t bytes) {
  if (bytes != 0 && std::fread(target, 1, bytes, stdin) != bytes)
    emulation::fail("the case ends too early");
}

inline int64_t read_word() {
  int64_t word;
  read_bytes(&word, sizeof word);
  return word;
}

inline std::vector<int64_t> read_words(int64_t count) {
  std::vector<int64_t> words(count);
  read_bytes(words.data(), sizeof(int64_t) * words.size());
  return words;
}

// Exactly as long as asked for, so that AddressSanitizer sees the first byte too many; `offset`
// elements into its allocation, as a view lies.
struct Array {
  std::vector<char> memory;
  size_t skipped = 0;

  Array() = default;
  Array(int64_t count, size_t element, int64_t offset = 0)
      : memory((count + offset) * element, char(0xcd)), skipped(offset * element) {}

  void* data() const { return const_cast<char*>(memory.data()) + skipped; }
  size_t bytes() const { return memory.size() - skipped; }
  void write() const {
    if (bytes() != 0) std::fwrite(data(), 1, bytes(), stdout);
  }
};

inline Array read(int64_t count, size_t element, int64_t offset = 0) {
  Array array(count, element, offset);
  read_bytes(array.data(), array.bytes());
  return array;
}
