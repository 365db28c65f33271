"""The heap of csrc/common/kept_memory.h, alone."""

import ctypes
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.compiled import library_of

SOURCE = """
#include "common/kept_memory.h"
using sparselth::KeptMemory;
extern "C" {
KeptMemory* instance() { return &KeptMemory::instance(); }
KeptMemory* make() { return new KeptMemory; }
void* take(KeptMemory* memory, int64_t bytes) { return memory->take(bytes); }
void give(KeptMemory* memory, void* block, int64_t bytes) { memory->give(block, bytes); }
int64_t release(KeptMemory* memory) { return memory->release(); }
}
"""

MIB = 1 << 20
LEAST = MIB // 8
LATELY = 2048  # requests, after which what was not needed goes back

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="memory is kept on Linux")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return library_of(SOURCE, tmp_path_factory.mktemp("kept_memory"), "-lpthread")


class Heap:
    def __init__(self, path, made="make"):
        self.library = ctypes.CDLL(path)
        for name in ("make", "instance", "take"):
            getattr(self.library, name).restype = ctypes.c_void_p
        self.library.release.restype = ctypes.c_int64
        self.memory = ctypes.c_void_p(getattr(self.library, made)())

    def take(self, size):
        return self.library.take(self.memory, ctypes.c_int64(size))

    def give(self, block, size):
        self.library.give(self.memory, ctypes.c_void_p(block), ctypes.c_int64(size))

    def release(self):
        return self.library.release(self.memory)


@pytest.fixture
def heap(path):
    return Heap(path)


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(LEAST, 2 * MIB), st.integers(0, 30), st.booleans()), max_size=60)
)
def test_blocks_lie_apart_and_keep_what_is_written(path, requests):
    heap, live = Heap(path), []
    first = heap.take(LEAST)
    heap.give(first, LEAST)
    for size, place, gives in requests:
        block = heap.take(size)
        assert block % 64 == 0
        assert all(block + size <= other or other + least <= block for other, least, _ in live)
        live.append((block, size, len(live) % 251))
        ctypes.memset(block, live[-1][2], size)
        if gives:
            block, size, value = live.pop(place % len(live))
            # Its neighbors have not written to it.
            assert ctypes.string_at(block, size) == bytes([value]) * size
            heap.give(block, size)
    for block, size, value in live:
        assert ctypes.string_at(block, size) == bytes([value]) * size
        heap.give(block, size)
    assert heap.take(1 << 30) == first  # all ranges are one again
    heap.release()


def test_a_second_step_gets_what_the_first_one_had(heap):
    sizes = [8 * MIB, 8 * MIB, 3 * MIB + 1, 4 * MIB, LEAST]
    steps = []
    for _ in range(3):
        steps.append([heap.take(size) for size in sizes])
        for block, size in zip(reversed(steps[-1]), reversed(sizes), strict=True):
            heap.give(block, size)
    assert steps[0] == steps[1] == steps[2]


def test_release_gives_back_what_is_free_and_nothing_else(heap):
    blocks = [heap.take(16 * MIB) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 7, 16 * MIB)
    heap.give(blocks[0], 16 * MIB)
    heap.give(blocks[2], 16 * MIB)
    before = resident()
    freed = heap.release()
    assert abs(freed - 32 * MIB) < MIB
    assert before - resident() > 28 * MIB
    assert heap.release() == 0
    assert ctypes.string_at(blocks[1], 16 * MIB) == bytes([7]) * (16 * MIB)
    assert heap.take(16 * MIB) == blocks[0]


def test_what_was_needed_once_goes_back_after_a_while(heap):
    large = heap.take(64 * MIB)
    ctypes.memset(large, 1, 64 * MIB)
    heap.give(large, 64 * MIB)
    before = resident()

    def ask(times):
        for _ in range(times):
            heap.give(heap.take(LEAST), LEAST)

    ask(LATELY // 2)
    assert before - resident() < 8 * MIB  # the next step may want it
    ask(3 * LATELY)
    assert before - resident() > 56 * MIB


def test_more_than_a_segment_is_served_by_another(heap):
    blocks = [heap.take(1 << 30) for _ in range(5)]  # untouched: addresses alone
    assert len(set(blocks)) == 5
    for block in blocks:
        ctypes.memset(block + (1 << 30) - 1, 1, 1)
        heap.give(block, 1 << 30)
    assert heap.take(1 << 30) == blocks[0]


def test_threads_share_it(heap):
    failures = []

    def work(value):
        for round in range(200):
            size = LEAST + 64 * ((value + round) % 7)
            block = heap.take(size)
            ctypes.memset(block, value, size)
            if ctypes.string_at(block, size) != bytes([value]) * size:
                failures.append(value)
            heap.give(block, size)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


IN_ANOTHER_PROCESS = """
import ctypes, os, resource, sys, threading
library = ctypes.CDLL(sys.argv[1])
library.instance.restype = library.take.restype = ctypes.c_void_p
memory, size = ctypes.c_void_p(library.instance()), ctypes.c_int64(1 << 20)
"""

FORK = """
stop = threading.Event()
def work():
    while not stop.is_set():
        library.give(memory, ctypes.c_void_p(library.take(memory, size)), size)
thread = threading.Thread(target=work)
thread.start()
for _ in range(50):
    child = os.fork()
    if child == 0:
        block = library.take(memory, size)
        os._exit(0 if block else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
"""

NO_ADDRESSES = """
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
assert library.take(memory, size) is None
"""


@pytest.mark.parametrize("script", [FORK, NO_ADDRESSES], ids=["fork", "no addresses"])
def test_in_another_process(path, script):
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS + script, path]
    subprocess.run(command, check=True, timeout=60)
