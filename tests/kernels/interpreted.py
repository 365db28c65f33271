"""The Triton kernels in Triton's interpreter. Collected by `test_interpreter.py` only.

TRITON_INTERPRET=1 must be set before the kernels are imported. bfloat16 is drawn where only its
bits matter: the interpreter's conversions to and from it are wrong for denormals and do not round.
"""

from __future__ import annotations

import importlib
import itertools
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import agreement
import pytest
import sparselth.kernels
import torch
import triton
import triton.language as tl
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from strategies import FLOATS, patterned_lists, tensor_lists

from sparselth.ops.patterns import Blocks, KernelShapes


@triton.jit
def count_up(into, n):
    for i in range(n):
        tl.store(into, i)


try:
    count_up[(1,)](torch.zeros(1, dtype=torch.int32), 2)
except triton.runtime.errors.InterpreterError as error:  # of triton 3.6 with numpy 2.4
    pytest.skip(f"triton's interpreter does not run here: {error}", allow_module_level=True)

TRUSTED = (torch.float16, torch.float32, torch.float64)
LISTS = agreement.lists(agreement.SHAPES, agreement.WEIGHTS, TRUSTED)
PATTERNED = patterned_lists(agreement.WEIGHTS, TRUSTED).map(
    lambda case: (*case[:3], case[3].encode())
)
BITS = tensor_lists(agreement.SHAPES, FLOATS)
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=3)
SIZES = st.lists(st.sampled_from([0, 1, 5, 300, 2000]), min_size=1, max_size=4)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Inf - Inf in numpy


def shrink(package, monkeypatch) -> None:
    """Give small tensors many chunks, chunks several tiles, and long tables several launches."""
    for name in ("select", "weight_overlap", "admm_project", "masked_sgd"):
        monkeypatch.setattr(importlib.import_module(f"{package.__name__}.{name}"), "BLOCK", 128)
    monkeypatch.setattr(
        importlib.import_module(f"{package.__name__}.patterns"), "EXPAND_BLOCK", 128
    )
    tables = importlib.import_module(f"{package.__name__}.tables")
    monkeypatch.setattr(tables, "MOST_CHUNKS", 6)
    monkeypatch.setattr(tables, "WORDS", tl.constexpr(64))


@pytest.fixture
def kernels(monkeypatch):
    shrink(sparselth.kernels, monkeypatch)
    return sparselth.kernels


@given(BITS)
@settings(max_examples=30)
def test_masks_of_entries_are_the_oracles(kernels, case):
    agreement.same_masks(kernels, (*case, []))


@given(PATTERNED)
@settings(max_examples=30)
def test_masks_of_groups_are_the_oracles(kernels, case):
    agreement.same_masks(kernels, case)


@given(LISTS, st.booleans())
@settings(max_examples=25)
def test_projections_are_the_oracles(kernels, case, ordered):
    agreement.same_projection(kernels, case, ordered)


@given(BITS, st.sampled_from([None, 0.1, 0.9]), SHARES)
@settings(max_examples=12)
def test_overlaps_are_the_oracles(kernels, case, density, shares):
    agreement.same_overlap(kernels, case, density, shares)


@given(SIZES, st.sampled_from(TRUSTED), st.booleans(), agreement.settings_of_steps())
@settings(max_examples=60)
def test_steps_are_the_oracles(kernels, sizes, dtype, masked, drawn):
    agreement.same_step(kernels, sizes, dtype, masked, drawn)


PATTERNS = (
    *("16x1", "1x16", "32x40", "filter", "channel", "kernel", Blocks(3, 0, 1), Blocks(0, 5, 2)),
    KernelShapes((0b111_100_000, 0b000_011_011, 0b101_010_001), taps=9),
)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("dtype", TRUSTED, ids=str)
def test_squares_are_added_in_the_order_of_the_contract(pattern, dtype):
    agreement.same_scores(sparselth.kernels, pattern, dtype)


def test_ties_go_to_the_first(kernels):
    agreement.same_ties(kernels)


@pytest.mark.parametrize("layouts", list(itertools.product([False, True], repeat=2)))
def test_channels_last_tensors_are_written_in_place(kernels, layouts):
    formats = [torch.channels_last if last else torch.contiguous_format for last in layouts]
    w, g, v, z, u = (torch.randn(4, 3, 5, 2) for _ in range(5))
    mask = torch.rand(w.shape) < 0.5
    got = [t.clone(memory_format=formats[0]) for t in (w, v, z, u)]
    grad = g.clone(memory_format=formats[1])
    step = (0.1, 0.9, 0.0, 0.01, True, 0.02)
    agreement.kernel(kernels, "masked_sgd_")(
        got[:1], [grad], got[1:2], [mask], got[2:3], got[3:], *step
    )
    agreement.kernel(kernels, "admm_project_")(got[:1], got[2:3], got[3:], [30], False, [], False)
    agreement.reference.masked_sgd_([w], [g], [v], [mask], [z], [u], *step)
    agreement.reference.admm_project_([w], [z], [u], [30], False, [], False)
    for a, b in zip(got, (w, v, z, u), strict=True):
        torch.testing.assert_close(a, b)


def test_a_table_is_written_once(kernels, monkeypatch):
    tables = importlib.import_module("sparselth.kernels.tables")
    tensors = [torch.randn(10), torch.randn(20)]
    columns = [tables.addresses(tensors)]
    first, again = (
        tables.make_table([10, 20], columns, block=8, device=torch.device("cpu")) for _ in range(2)
    )
    other = tables.make_table([10, 19], columns, block=8, device=torch.device("cpu"))
    assert first.words is again.words
    assert first.words is not other.words
    assert first.words[:6].tolist() == [0, 2, 10, 20, *columns[0]]
    assert first.chunks == 5


# What is wrong, in which file, where, and the check that must notice.
DEFECTS = {
    "a digit too high": ("entries", "select.py", "(BINS - 1 - passed)", "(BINS - passed)"),
    "ties not ranked across chunks": (
        *("entries", "select.py"),
        *("range(first, chunk, MANY)", "range(first, 0, MANY)"),
    ),
    "ties ranked per tensor when pooled": (
        *("ties", "select.py"),
        *("first = chunk * 0 if POOLED else word", "first = word"),
    ),
    "infinity not counted": (
        *("entries", "select.py"),
        *("(keys >= infinity(DTYPE))", "(keys > infinity(DTYPE))"),
    ),
    "masks of an overlap ignored": ("overlaps", "select.py", "if INSIDE:", "if False:"),
    "sums not rounded": (
        *("projections", "select.py"),
        *("found = sums.to(found.dtype)", "found = sums"),
    ),
    "ins added side by side": (
        *("order", "patterns.py"),
        "(BLOCK, 2, LANES >> (step + 1)))\n        first, second = "
        "tl.split(tl.permute(halves, (0, 2, 1)))",
        "(BLOCK, LANES >> (step + 1), 2))\n        first, second = tl.split(halves)",
    ),
    "outs added last": (
        *("order", "patterns.py"),
        *("column += squares_of(found)", "partial += squares_of(found)"),
    ),
    "the last of equal shapes": (
        *("ties", "patterns.py"),
        "first = tl.min(tl.where(bits == best[:, None], lane[None, :], LANES), 1)",
        "first = tl.max(tl.where(bits == best[:, None], lane[None, :], -1), 1)",
    ),
    "ties of N:M from the end": (
        *("ties", "patterns.py"),
        *("(rival < lane)", "(rival > lane)"),
    ),
    "NaN below all": (
        *("patterns", "patterns.py"),
        *("tl.where(scores != scores, ONE_NAN,", "tl.where(scores != scores, 0,"),
    ),
    "written in spite of NaN": ("projections", "admm_project.py", "if ORDERED:", "if True:"),
    "the dual of what is kept": (
        *("projections", "admm_project.py"),
        *("tl.where(kept, zero, v)", "v"),
    ),
    "momenta outside the mask": (
        *("steps", "masked_sgd.py"),
        *("tl.where(kept, buffer.to(DTYPE), zero)", "buffer.to(DTYPE)"),
    ),
    "settings in float32": (
        *("steps", "masked_sgd.py"),
        *("bits.to(tl.float64, bitcast=True)", "bits.to(tl.float64, bitcast=True).to(tl.float32)"),
    ),
}


@pytest.fixture
def copied(tmp_path, monkeypatch, request):
    """Return a function that copies the kernels under a new name, with a defect or none."""

    def copy(name, defect=None):
        package = tmp_path / name
        shutil.copytree(Path(sparselth.kernels.__file__).parent, package)
        if defect:
            file, right, wrong = defect
            source = (package / file).read_text(encoding="utf-8")
            assert source.count(right) == 1, f"{file} no longer has {right!r} once"
            (package / file).write_text(source.replace(right, wrong), encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        module = importlib.import_module(name)
        shrink(module, monkeypatch)
        return module

    yield copy
    for name in [name for name in sys.modules if name.startswith("kernels_copy")]:
        del sys.modules[name]


def quick(check, examples, *strategies) -> Callable[[], None]:
    """Return a check over cases that are drawn alike on every run, and not made smaller."""

    @settings(max_examples=examples, phases=(Phase.generate,), database=None)
    @given(st.tuples(*strategies))
    def run(case):
        check(*case)

    return run


def checks(package, examples) -> dict[str, Callable[[], None]]:
    """Return a check of each kind."""

    def order():
        for pattern in PATTERNS:
            agreement.same_scores(package, pattern, torch.float32)

    def entries(case):
        agreement.same_masks(package, (*case, []))

    step = (SIZES, st.sampled_from(TRUSTED), st.just(True), agreement.settings_of_steps())
    return {
        "entries": quick(entries, examples, BITS),
        "patterns": quick(partial(agreement.same_masks, package), examples, PATTERNED),
        "projections": quick(
            partial(agreement.same_projection, package), examples, LISTS, st.just(False)
        ),
        "overlaps": quick(
            partial(agreement.same_overlap, package), examples, BITS, st.just(0.5), SHARES
        ),
        "steps": quick(partial(agreement.same_step, package), examples, *step),
        "order": order,
        "ties": partial(agreement.same_ties, package),
    }


def test_kernels_without_a_defect_pass(copied):
    for check in checks(copied("kernels_copy_right"), 2).values():
        check()


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_noticed(copied, defect):
    check, *change = DEFECTS[defect]
    package = copied("kernels_copy_" + defect.replace(" ", "_").replace(":", "_"), change)
    with pytest.raises(AssertionError):
        checks(package, 40)[check]()
