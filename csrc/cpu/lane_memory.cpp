// What Python asks of the memory of activations in lanes, through ctypes: no tensor is involved.
#include "cpu/lane_memory.h"

// Gives what is kept for the next step back to the system; returns the bytes.
extern "C" __attribute__((visibility("default"))) int64_t sparselth_release_lane_memory() {
  return sparselth::KeptMemory::instance().release();
}
