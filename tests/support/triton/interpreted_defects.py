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
    in_numpy,
    shrink,
)

pytestmark = in_numpy

# What is wrong, in which file, where, and the check that must notice.
DEFECTS = {
    "a digit too high": ("unstructured", "select.py", "(BINS - 1 - passed)", "(BINS - passed)"),
    "ties not ranked across chunks": (
        *("unstructured", "select.py"),
        *("range(first, chunk, MANY)", "range(first, 0, MANY)"),
    ),
    "ties ranked per tensor when global_": (
        *("ties", "select.py"),
        *("first = chunk * 0 if GLOBAL else word", "first = word"),
    ),
    "infinity not counted": (
        *("unstructured", "select.py"),
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
    "written in spite of NaN": (
        "projections",
        "admm_project.py",
        "if ALLOW_NONFINITE:",
        "if True:",
    ),
    "the dual of what is kept": (
        *("projections", "admm_project.py"),
        *("tl.where(kept, zero, v)", "v"),
    ),
    "momenta outside the mask": (
        *("steps", "masked_sgd.py"),
        *("tl.where(kept, buffer.to(DTYPE), zero)", "buffer.to(DTYPE)"),
    ),
    "moments outside the mask": (
        *("adamw", "masked_adamw.py"),
        *("tl.where(kept, mean.to(DTYPE), zero)", "mean.to(DTYPE)"),
    ),
    "the first tensor's step for all": (
        *("adamw", "masked_adamw.py"),
        *("pointer(table, segments, STEP, segment, tl", "pointer(table, segments, STEP, 0, tl"),
    ),
    "padding read from the next row": (
        *("convolutions", "masked_conv2d.py"),
        *("(column_of_x >= 0) & (column_of_x < width)", "(column_of_x < width)"),
    ),
    "channels of the first group": (
        *("convolutions", "masked_conv2d_grad_weight.py"),
        *("first_channel = group * c_in + first_in", "first_channel = first_in"),
    ),
    "blocks not turned round": (
        *("convolutions", "masked_conv2d.py"),
        *("place = lane[None, :] * SIZE + lane[:, None]", "place = lane[:, None] * SIZE + lane"),
    ),
    "negative results stored": (
        *("convolutions", "masked_conv2d.py"),
        *("tl.where(total < 0, 0, total)", "total"),
    ),
    "a row without its last block": (
        *("convolutions", "masked_conv2d.py"),
        *("range(begin, end)", "range(begin, end - 1)"),
    ),
    "pruned weights packed": (
        *("convolutions", "masked_conv2d.py"),
        *("tl.load(weight + at, there & kept,", "tl.load(weight + at, there,"),
    ),
    "a phase's offsets rounded to zero": (
        *("convolutions", "blocks.py"),
        'offsets = [at.div(stride[axis], rounding_mode="floor")',
        'offsets = [(at + 1).div(stride[axis], rounding_mode="floor")',
    ),
    "taps that miss a phase": ("convolutions", "blocks.py", "at % stride[axis] == 0", "at == at"),
    "one run of positions": (
        *("convolutions", "masked_conv2d_grad_weight.py"),
        *("(first + run < splits)", "(first + run < 1)"),
    ),
    "gradients of pruned weights": (
        *("convolutions", "masked_conv2d_grad_weight.py"),
        *("tl.where(kept != 0, total, 0.0)", "total + 0.0"),
    ),
    "channels of x as they come": (
        *("ordered", "masked_conv2d.py"),
        *("if x_order is not None:", "if False:"),
    ),
    "orders of x and y swapped": (
        *("ordered", "masked_conv2d.py"),
        *("(outs, ins) if transposed else (ins, outs)", "(ins, outs)"),
    ),
    "the bias of another channel": (
        *("ordered", "masked_conv2d.py"),
        *("tl.load(bias + out, out_there", "tl.load(bias + first_out + lane, out_there"),
    ),
    "results where channels do not lie": (
        *("ordered", "masked_conv2d.py"),
        *(
            "tl.store(to[:, None] + out[None, :]",
            "tl.store(to[:, None] + (first_out + lane)[None, :]",
        ),
    ),
    "weights packed as they come": (
        *("ordered", "masked_conv2d.py"),
        *("inside = tl.load(ins + inside, in_there", "tl.load(ins + inside, in_there"),
    ),
    "rows of dead channels left out": (
        *("ordered", "blocks.py"),
        *("rows = rows[counts.argsort(descending=True, stable=True)]", "rows = rows[counts > 0]"),
    ),
    "channels of dy as they come": (
        *("ordered", "masked_conv2d_grad_weight.py"),
        *("out = tl.load(outs + out, dy_there", "tl.load(outs + out, dy_there"),
    ),
    "a weight's gradient where its channel does not lie": (
        *("ordered", "masked_conv2d_grad_weight.py"),
        *("inside = tl.load(ins + inside, in_there", "tl.load(ins + inside, in_there"),
    ),
    "dead channels among the others": (
        *("ordered", "blocks.py"),
        *("mask = orders.applied(mask)", "orders.applied(mask)"),
    ),
    "settings in float32": (
        *("steps", "steps.py"),
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

    def convolutions(case, size):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            agreement.same_convolution(package, case, torch.float32, size)

    def ordered(case, dead):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            agreement.same_convolution(package, case, torch.float32, 16, dead=dead)

    step = (SIZES, st.sampled_from(TRUSTED), st.just(True), agreement.settings_of_steps())
    adamw = (SIZES, st.sampled_from(TRUSTED), st.just(True), agreement.settings_of_adamw())
    return {
        "adamw": quick(partial(agreement.same_adamw, package), examples, *adamw),
        "convolutions": quick(convolutions, examples, CONVOLUTIONS, st.just(16)),
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
