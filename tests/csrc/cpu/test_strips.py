"""How convolutions through strips divide their work among any number of threads: tasks, counted."""

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.compiled import library_of

SOURCE = """
#include "cpu/strips.h"
using namespace sparselth;
// Adds to work[t], of each thread, the rows that it computes of all channels; and marks in
// seen[(bundle * total + row) * most_parts + channel] what is computed. Returns the runs.
extern "C" int64_t divide(int64_t bundles, int64_t total, int64_t channels, int64_t first_bytes,
                          int64_t row_bytes, int64_t room, int64_t threads, double* work,
                          int64_t* seen) {
  const Strips strips = divide_rows(total, bundles, first_bytes, row_bytes, threads, room);
  const StripTasks tasks(bundles, strips, channels, threads);
  int64_t thread = 0;
  const Threads one_by_one{threads, [&](int64_t n, const std::function<void(int64_t)>& task) {
    const int64_t count = threads < n ? threads : n;  // as run_parallel of parallel.h
    for (thread = 0; thread < count; ++thread)
      for (int64_t i = thread * n / count; i < (thread + 1) * n / count; ++i) task(i);
  }};
  tasks.run(one_by_one, [&](const StripAt& at, int64_t part, int64_t) {
    const int64_t first = part * channels / tasks.parts, last = (part + 1) * channels / tasks.parts;
    const int64_t begin = strips.begin(at.strip), end = strips.end(at.strip, total);
    work[thread] += double(end - begin) * double(last - first) / double(channels);
    for (int64_t row = begin; row < end; ++row)
      for (int64_t c = first; c < last; ++c) ++seen[(at.bundle * total + row) * channels + c];
  });
  return tasks.runs;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return ctypes.CDLL(library_of(SOURCE, tmp_path_factory.mktemp("strips")))


def divide(library, bundles, rows, channels, threads, columns=8, room=1 << 19):
    """Return the work of each thread, and how often each row of each channel is computed."""
    work = (ctypes.c_double * threads)()
    seen = (ctypes.c_int64 * (bundles * rows * channels))()
    row_bytes = channels * (columns + 2) * 64
    sizes = (bundles, rows, channels, 3 * row_bytes, row_bytes, room, threads)
    library.divide.restype = ctypes.c_int64
    library.divide(*map(ctypes.c_int64, sizes), work, seen)
    return list(work), list(seen)


# (bundles, channels, height and width) of batches of 128 and 64, 16 images to a bundle.
LAYERS = [(8, 16, 32), (8, 32, 16), (8, 64, 8), (4, 64, 32), (4, 128, 16), (4, 256, 8), (4, 512, 4)]


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("room", [1 << 17, 1 << 19, 1 << 20])
def test_threads_have_the_same_work(library, layer, threads, room):
    bundles, channels, size = layer
    work, seen = divide(library, bundles, size, channels, threads, size, room)
    assert set(seen) == {1}
    assert sum(work) == pytest.approx(bundles * size)
    # The longest decides: 12 threads at 8 bundles would leave a third idle, bundle by bundle.
    assert max(work) <= 1.2 * sum(work) / threads


@given(
    st.integers(0, 9), st.integers(1, 40), st.integers(1, 40), st.integers(1, 70), st.integers(1, 9)
)
def test_everything_is_computed_once(library, bundles, rows, channels, threads, thousands):
    work, seen = divide(library, bundles, rows, channels, threads, room=thousands * 1000)
    assert all(count == 1 for count in seen)
    assert sum(work) == pytest.approx(bundles * rows)
