"""Defects put into the Triton kernels, each of which the checks must notice in the interpreter.

Collected by `test_kernels_interpreter.py` only.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import sparselth.kernels
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from support.triton import agreement
from support.triton.defects import DEFECTS
from support.triton.interpreting import (
    BITS,
    CONVOLUTIONS,
    LISTS,
    ORDERED,
    PATTERNED,
    PATTERNS,
    SHARES,
    SIZES,
    TRUSTED,
    WIDE,
    in_numpy,
    shrink,
)

pytestmark = in_numpy


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

    def convolutions(case, size):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            agreement.same_convolution(package, case, torch.float32, size)

    def boxes(case, shape):
        agreement.same_wide_convolution(package, case, shape)

    def ordered(case, dead):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            agreement.same_convolution(package, case, torch.float32, 16, dead=dead)

    step = (SIZES, st.sampled_from(TRUSTED), st.just(True), agreement.settings_of_steps())
    adamw = (SIZES, st.sampled_from(TRUSTED), st.just(True), agreement.settings_of_adamw())
    return {
        "adamw": quick(partial(agreement.same_adamw, package), examples, *adamw),
        "convolutions": quick(convolutions, examples, CONVOLUTIONS, st.just(16)),
        "boxes": quick(boxes, examples, WIDE, st.sampled_from([(16, 16), (16, 128)])),
        "ordered": quick(ordered, examples, ORDERED, agreement.DEAD),
        "unstructured": quick(entries, examples, BITS),
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
