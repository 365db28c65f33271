"""The scheduler, with cells that compute nothing: order, room, and what a failure takes with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselth.study import Cell
from sparselth.study.execution.jobs import CellError
from sparselth.study.execution.scheduler import execute


def cell(number):
    return Cell("resnet20", "mnist5k", 0.1, number)


class Ending:
    """A job that ends after it was asked for a number of times, and may fail then."""

    def __init__(self, executor, at, asked):
        self.executor, self.cell, self.left = executor, at, asked

    def finished(self):
        self.left -= 1
        return self.left < 0

    def result(self):
        self.executor.running.remove(self.cell)
        self.executor.done.append(self.cell)
        if self.cell in self.executor.failing:
            raise CellError(f"{self.cell.seed} is broken", "the traceback")


class Fake:
    """Runs nothing. asked: how often each job says that it has not ended yet."""

    poll_seconds = 0.0

    def __init__(self, slots=1, local=False, failing=(), asked=None, refusing=()):
        self.slots, self.local = slots, local
        self.failing, self.asked, self.refusing = set(failing), asked or {}, set(refusing)
        self.begun, self.running, self.done = [], [], []
        self.busiest = 0

    def submit(self, job):
        self.begun.append(job)
        if job in self.refusing:
            raise CellError(f"{job.seed} is broken", "the traceback")
        self.running.append(job)
        self.busiest = max(self.busiest, len(self.running))
        return Ending(self, job, self.asked.get(job, 0))


class Run:
    """What `execute` did with a graph, number -> numbers that it needs.

    empty: cells that end without a result.
    """

    def __init__(self, graph, executor, empty=()):
        self.ended, self.lost, self.watched = [], {}, []
        done_at_begin = {}

        def job(at):
            done_at_begin[at] = set(self.ended)
            return at

        def lose(failure):
            assert failure.cell not in self.lost
            self.lost[failure.cell] = failure

        def end(at):
            if at in empty:
                raise CellError(f"{at.seed} is broken", "the traceback")
            self.ended.append(at)

        needs = {cell(n): [cell(m) for m in wanted] for n, wanted in graph.items()}
        execute(needs, executor, job, end, lose, self.watched.append)
        for at, done in done_at_begin.items():
            assert set(needs[at]) <= done


@st.composite
def graphs(draw):
    """Return a graph, in which each needs some before it, and which of its numbers fail."""
    size = draw(st.integers(1, 12))
    graph = {
        n: draw(st.lists(st.integers(0, n - 1), max_size=3, unique=True)) if n else []
        for n in range(size)
    }
    return graph, draw(st.sets(st.integers(0, size - 1), max_size=3))


def ancestors(graph, number):
    found = set(graph[number])
    return found.union(*(ancestors(graph, n) for n in found))


@given(graphs(), st.integers(1, 5), st.data())
def test_a_failure_takes_its_descendants_and_nothing_else(drawn, slots, data):
    graph, failing = drawn
    asked = {cell(n): data.draw(st.integers(0, 4)) for n in graph}
    # Refused at the start, broken on the way, or ended with nothing to show.
    ways = {n: data.draw(st.integers(0, 2)) for n in failing}
    refusing, broken, empty = ([cell(n) for n in failing if ways[n] == way] for way in range(3))
    fake = Fake(slots, failing=broken, asked=asked, refusing=refusing)
    run = Run(graph, fake, empty)
    doomed = {n for n in graph if ancestors(graph, n) & failing}
    assert set(fake.begun) == {cell(n) for n in graph if n not in doomed}
    assert set(run.lost) == {cell(n) for n in doomed | failing}
    assert {*run.ended, *run.lost} == set(map(cell, graph))
    assert len(fake.begun) == len(set(fake.begun))
    assert len(run.ended) == len(set(run.ended))
    assert fake.busiest <= slots
    assert fake.running == []
    for at, failure in run.lost.items():
        if at.seed in doomed:
            roots = ancestors(graph, at.seed) & (failing - doomed)
            assert failure.cause.seed in roots
            assert failure.error == f"not run, as this failed: {failure.cause.label}"
        else:
            assert failure.error == f"{at.seed} is broken"
            assert (failure.trace, failure.cause) == ("the traceback", None)


@given(graphs())
def test_in_this_process_cells_run_in_their_order(drawn):
    graph, failing = drawn
    fake = Fake(local=True, failing=map(cell, failing))
    Run(graph, fake)
    assert fake.begun == sorted(fake.begun, key=lambda c: c.seed)


@pytest.mark.parametrize("slots", [1, 2, 3, 7])
def test_all_the_room_is_used(slots):
    fake = Fake(slots, asked=dict.fromkeys(map(cell, range(6)), 3))
    Run({n: [] for n in range(6)}, fake)
    assert fake.busiest == min(slots, 6)


def test_what_ended_makes_room_while_a_slow_one_goes_on():
    fake = Fake(2, asked={cell(0): 50})
    run = Run({0: [], 1: [], 2: [1], 3: [2]}, fake)
    assert [c.seed for c in run.ended] == [1, 2, 3, 0]
    assert run.watched[-1] == []
    assert {c.seed for c in run.watched[1]} <= {0, 2}


def test_the_first_in_order_goes_first_where_several_are_ready():
    fake = Fake(1)
    Run({3: [], 1: [], 2: [3], 0: []}, fake)
    assert [c.seed for c in fake.begun] == [3, 1, 2, 0]
    local = Fake(1, local=True)
    Run({3: [], 2: [3], 1: [], 0: []}, local)
    assert [c.seed for c in local.begun] == [3, 2, 1, 0]


def test_the_root_is_named_along_a_chain():
    run = Run({n: [n - 1] if n else [] for n in range(5)}, Fake(failing=[cell(1)]))
    assert [c.seed for c in run.ended] == [0]
    assert [f.cause and f.cause.seed for f in run.lost.values()] == [None, 1, 1, 1]


def test_nothing_to_run():
    run = Run({}, Fake())
    assert (run.ended, run.lost, run.watched) == ([], {}, [])
