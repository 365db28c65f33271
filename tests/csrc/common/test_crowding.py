"""When passes run on fewer threads, by csrc/common/crowding.h, on a clock of our own."""

import ctypes

import pytest
from support.compiled import library_of

SOURCE = """
#include <vector>
#include "common/crowding.h"
using sparselth::Crowding, sparselth::ShareOfPass;
extern "C" {
Crowding* make() { return new Crowding; }
void drop(Crowding* c) { delete c; }
int64_t threads(Crowding* c, int64_t most, int64_t now) { return c->threads(most, now); }
void saw(Crowding* c, const int64_t* times, const int64_t* tasks, int64_t count, int64_t now) {
  std::vector<ShareOfPass> shares;
  for (int64_t i = 0; i < count; ++i) shares.push_back({times[i], tasks[i]});
  c->saw(shares.data(), count, now);
}
}
"""

MILLISECOND = 1_000_000


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    library = ctypes.CDLL(library_of(SOURCE, tmp_path_factory.mktemp("crowding")))
    library.make.restype = ctypes.c_void_p
    library.threads.restype = ctypes.c_int64
    return library


class Passes:
    """Passes of `most` threads, one after the other, and the time that they take."""

    def __init__(self, library, most):
        self.library, self.most, self.now = library, most, 0
        self.crowding = ctypes.c_void_p(library.make())

    def threads(self):
        return self.library.threads(
            self.crowding, ctypes.c_int64(self.most), ctypes.c_int64(self.now)
        )

    def run(self, milliseconds=1.0, held_up=0.0, tasks=None):
        """Run a pass; its last thread is held up if there is more than one. Return the threads."""
        count = self.threads()
        tasks = [10] * count if tasks is None else tasks
        times = [int(milliseconds * MILLISECOND * each / 10) for each in tasks]
        if count > 1:
            times[-1] += int(held_up * MILLISECOND)
        self.now += max(times)
        if count > 1:
            array = ctypes.c_int64 * count
            self.library.saw(
                self.crowding,
                array(*times),
                array(*tasks),
                ctypes.c_int64(count),
                ctypes.c_int64(self.now),
            )
        return count

    def forward(self, milliseconds):
        self.now += int(milliseconds * MILLISECOND)


@pytest.fixture
def passes(library):
    made = []

    def make(most):
        made.append(Passes(library, most))
        return made[-1]

    yield make
    for one in made:
        library.drop(one.crowding)


def test_calm_passes_run_on_all_threads(passes):
    two = passes(2)
    assert {two.run(held_up=0.3) for _ in range(1000)} == {2}


def test_one_slow_pass_is_no_crowd(passes):
    two = passes(2)
    for _ in range(20):
        assert two.run(held_up=4) == 2
        assert {two.run() for _ in range(20)} == {2}


def test_a_thread_that_is_held_up_again_and_again_is_given_up_for_a_while(passes):
    two = passes(2)
    assert two.run(held_up=4) == 2
    assert two.run(held_up=4) == 2
    assert two.run() == 1
    two.forward(60)
    assert two.run() == 2, "it is tried again"
    assert {two.run() for _ in range(1000)} == {2}


def test_a_crowd_that_stays_is_tried_ever_more_rarely(passes):
    two = passes(2)
    begin, together = two.now, 0
    while two.now - begin < 10_000 * MILLISECOND:
        together += two.run(held_up=4) == 2
    assert together <= 2 * 20, "two passes in the time of each try"
    # and it ends within a second
    end = two.now
    while two.run() == 1:
        pass
    assert two.now - end <= 1000 * MILLISECOND


def test_one_of_many_threads_is_given_up_at_a_time(passes):
    many = passes(32)
    for _ in range(2):
        many.run(held_up=4)
    assert many.run() == 28
    for _ in range(2):
        many.run(held_up=4)
    assert many.run() == 25


def test_shares_of_another_size_are_no_crowd(passes):
    """Three tasks on two threads: one has twice the work."""
    two = passes(2)
    assert {two.run(milliseconds=20, tasks=[10, 20]) for _ in range(50)} == {2}
    assert {two.run(milliseconds=20, tasks=[10, 0]) for _ in range(50)} == {2}


def test_there_is_always_one_thread(passes):
    two = passes(2)
    for _ in range(100):
        two.run(held_up=9)
        assert two.threads() >= 1
