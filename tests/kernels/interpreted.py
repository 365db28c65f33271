"""The Triton kernels in Triton's interpreter. Collected by `test_interpreter.py` only.

TRITON_INTERPRET=1 must be set before the kernels are imported. bfloat16 is drawn where only its
bits matter: the interpreter's conversions to and from it are wrong for denormals and do not round.
"""

from __future__ import annotations

import dataclasses
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
from quick_interpreter import speed_up
from strategies import FLOATS, ConvCase, conv_cases, patterned_lists, tensor_lists

from sparselth.ops import gpu_conv, reference
from sparselth.ops.patterns import Blocks, KernelShapes

speed_up()


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
CONVOLUTIONS = conv_cases(batches=(0, 1, 2, 5), extent=9)  # many tiles, since those are small too
SIZES = st.lists(st.sampled_from([0, 1, 5, 300, 700]), min_size=1, max_size=4)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Inf - Inf in numpy


def shrink(package, monkeypatch) -> None:
    """Give small tensors many chunks, chunks several tiles, and long tables several launches."""
    for name in ("select", "weight_overlap", "admm_project", "masked_sgd", "masked_adamw"):
        monkeypatch.setattr(importlib.import_module(f"{package.__name__}.{name}"), "BLOCK", 128)
    monkeypatch.setattr(
        importlib.import_module(f"{package.__name__}.patterns"), "EXPAND_BLOCK", 128
    )
    tables = importlib.import_module(f"{package.__name__}.tables")
    monkeypatch.setattr(tables, "MOST_CHUNKS", 6)
    monkeypatch.setattr(tables, "WORDS", tl.constexpr(64))
    forward, grad_weight = (
        importlib.import_module(f"{package.__name__}.masked_conv2d{suffix}")
        for suffix in ("", "_grad_weight")
    )
    small = dict.fromkeys((16, 32, 64), 32)
    monkeypatch.setattr(forward, "BLOCK_M", small)
    monkeypatch.setattr(grad_weight, "BLOCK_K", small)
    monkeypatch.setattr(grad_weight, "LEAST_STEPS", 1)


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


@given(SIZES, st.sampled_from(TRUSTED), st.booleans(), agreement.settings_of_adamw())
@settings(max_examples=60)
def test_adamw_is_the_oracles(kernels, sizes, dtype, masked, drawn):
    agreement.same_adamw(kernels, sizes, dtype, masked, drawn)


SINGLE = st.sampled_from([torch.float16, torch.float32])


@pytest.fixture
def precise():
    """Multiply float32 as float32; TF32 is what cuDNN does, and no GPU is needed for it."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@given(CONVOLUTIONS, SINGLE, st.sampled_from([16, 32, 64]))
@settings(max_examples=60)
def test_convolutions_are_the_oracles(kernels, precise, case, dtype, size):
    agreement.same_convolution(kernels, case, dtype, size)


def whole_blocks(**changes) -> ConvCase:
    """Return a case of blocks of 16 that have all their channels."""
    case = ConvCase(
        *(2, 2, 32, 16, (7, 6), (3, 3), (2, 1), (1, 1), (1, 1)),
        *(0.02, True, "channels_last", False, 0),
    )
    return dataclasses.replace(case, **changes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("density", [0.001, 0.02, 1.0])
def test_convolutions_of_whole_blocks_are_the_oracles(kernels, precise, dtype, density):
    agreement.same_convolution(kernels, whole_blocks(density=density), dtype, 16)


def test_offsets_of_64_bits(kernels, precise, monkeypatch):
    for name in ("masked_conv2d", "masked_conv2d_grad_weight"):
        module = importlib.import_module(f"{kernels.__name__}.{name}")
        monkeypatch.setattr(module, "MOST_32_BIT", 0)
    agreement.same_convolution(kernels, whole_blocks(), torch.float32, 16)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_ops_keep_the_layout_and_find_the_blocks_again(kernels, precise, layout):
    x = torch.randn(2, 8, 5, 5).contiguous(memory_format=layout)
    weight, mask = torch.randn(12, 8, 3, 3), torch.rand(12, 8, 3, 3) < 0.3
    conv = ([1, 1], [1, 1], [1, 1], 1)
    for _ in range(2):
        y = gpu_conv.masked_conv2d(x, weight, mask, None, None, *conv)
        torch.testing.assert_close(
            y, reference.masked_conv2d(x, weight, mask, None, None, *conv), rtol=1e-4, atol=1e-4
        )
        assert y.is_contiguous(memory_format=layout)
        positive = gpu_conv.masked_conv2d_relu(x, weight, mask, None, None, *conv)
        assert torch.equal(positive, y.relu())
        dw = gpu_conv.masked_conv2d_grad_weight(y, x, mask, None, *conv)
        assert dw[mask].all()
        mask.logical_not_()  # noticed, though no plan was rebuilt
    pruned = mask & (torch.arange(12) < 2).view(-1, 1, 1, 1)  # cuDNN's, by compaction
    assert gpu_conv.found_of(None, pruned, 1).serving() == "compaction"
    torch.testing.assert_close(
        gpu_conv.masked_conv2d(x, weight, pruned, None, None, *conv),
        reference.masked_conv2d(x, weight, pruned, None, None, *conv),
    )
    plan = gpu_conv.block_plan(mask, 1)
    assert gpu_conv.work_of(plan) == 1.0  # nothing to leave out: cuDNN does it
    with pytest.raises(ValueError, match="belongs to another mask"):
        gpu_conv.masked_conv2d(x, weight[:8], mask[:8], None, plan, *conv)


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
        *("for split in range(splits)", "for split in range(1)"),
    ),
    "gradients of pruned weights": (
        *("convolutions", "masked_conv2d_grad_weight.py"),
        *("total.to(dw.dtype.element_ty), there & kept)", "total.to(dw.dtype.element_ty), there)"),
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
        with torch.backends.cudnn.flags(allow_tf32=False):
            agreement.same_convolution(package, case, torch.float32, size)

    step = (SIZES, st.sampled_from(TRUSTED), st.just(True), agreement.settings_of_steps())
    adamw = (SIZES, st.sampled_from(TRUSTED), st.just(True), agreement.settings_of_adamw())
    return {
        "adamw": quick(partial(agreement.same_adamw, package), examples, *adamw),
        "convolutions": quick(convolutions, examples, CONVOLUTIONS, st.just(16)),
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
