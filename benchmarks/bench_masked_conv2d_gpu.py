"""masked_conv2d on a GPU against cuDNN: forward and backward through autograd, channels_last.

Times are medians of CUDA events with the L2 cache flushed before each call. Dense is cuDNN with
`benchmark=True` and the mask multiplied into the weight beforehand, so that its cost is not counted
against dense; float32 multiplies in TF32 on both sides, as torch's default has it. A second ratio
takes cuDNN in bfloat16, whatever the sparse one's type. `auto` is MaskedConv2d, which measures when
a mask is new. The column where a line crosses 1 is the sparsity from which sparse wins.

What says most is measured first, and each case is written down as soon as it is measured: a run
that is cut short has lost the least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from gpu_timing import cudnn, dense_milliseconds, milliseconds
from torch import Tensor, nn

import sparselth as sl
from sparselth.bench.layers import LAYERS, Layer
from sparselth.bench.ratios import Ratio, evaluate
from sparselth.ops.patterns import find_pattern

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")

# The 3 x 3 and 1 x 1 layers of ResNet-50's stages, as ImageNet's images reach them.
RESNET50 = (
    *(Layer(64, 64, 56), Layer(64, 128, 28), Layer(128, 256, 14), Layer(256, 512, 7)),
    *(Layer(64, 256, 56, kernel=1), Layer(128, 1024, 14, kernel=1)),
)
DTYPES = {"bf16": torch.bfloat16, "tf32": torch.float32}
PATTERNS = ("32x32", "16x1", "element", "64x64", "16x16", "8x1", "filter")
MAIN_PATTERNS = PATTERNS[:3]
SPARSITIES = (0.5, 0.9, 0.95, 0.98)
# Where `auto` is measured too: a module times every pass of every new mask, which takes a while.
AUTO = {("32x32", 0.5), ("32x32", 0.9), ("32x32", 0.95), ("element", 0.5), ("element", 0.98)}


@dataclass(frozen=True)
class Case:
    """A layer's tensors on the GPU, channels_last; its mask comes with the pattern."""

    layer: Layer
    x: Tensor
    weight: Tensor
    grad: Tensor

    @property
    def conv(self) -> dict[str, int]:
        layer = self.layer
        return {"stride": layer.stride, "padding": layer.kernel // 2, "groups": layer.groups}


def worth(case: tuple[str, str, Layer]) -> tuple[bool, bool, bool, bool, int]:
    """Order cases of a type, a pattern and a layer, those that say most first."""
    dtype, pattern, layer = case
    unusual = layer.kernel != 3 or layer.stride != 1 or layer.groups != 1
    few_channels, place = layer.channels < 128, PATTERNS.index(pattern)
    return dtype != "bf16", pattern not in MAIN_PATTERNS, unusual, few_channels, place


CASES = sorted(product(DTYPES, PATTERNS, [*RESNET50, *LAYERS]), key=worth)


@cache
def case_of(layer: Layer, dtype: torch.dtype) -> Case:
    """Draw a layer's tensors, once for all its masks."""
    draw = {"device": "cuda", "dtype": dtype}
    x = torch.randn(layer.batch, layer.channels, layer.size, layer.size, **draw)
    weight = torch.randn(
        layer.channels, layer.channels // layer.groups, layer.kernel, layer.kernel, **draw
    )
    y = F.conv2d(x, weight, stride=layer.stride, padding=layer.kernel // 2, groups=layer.groups)
    last = (
        t.contiguous(memory_format=torch.channels_last) for t in (x, weight, torch.randn_like(y))
    )
    return Case(layer, *last)


def _has_cuda_kernels() -> bool:
    return any(
        r.op == "masked_conv2d" and r.backend == "cuda" and r.available for r in sl.backends()
    )


def step(case: Case, call: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], object]:
    """Return forward and backward: y = call(x, weight), then both gradients."""
    x, weight = case.x.detach().requires_grad_(), case.weight.detach().requires_grad_()
    return lambda: torch.autograd.grad(call(x, weight), (x, weight), case.grad)


@cache
def dense_times(layer: Layer, dtype: str) -> float:
    """Time cuDNN's forward and backward of a layer, in milliseconds. dtype: of `DTYPES`."""
    case = case_of(layer, DTYPES[dtype])
    return dense_milliseconds(step(case, lambda x, w: F.conv2d(x, w, **case.conv)))


def masks_of(weight: Tensor, pattern: str) -> Iterator[tuple[float, Tensor]]:
    """Draw a mask for each sparsity that leaves something."""
    groups = find_pattern(pattern).groups(weight.shape)
    for sparsity in SPARSITIES:
        if kept := round((1 - sparsity) * groups):
            scores = torch.rand_like(weight, dtype=torch.float32)
            yield sparsity, sl.ops.topk_mask(scores, kept, pattern=pattern)


def sparse(case: Case, mask: Tensor) -> Callable[[], object]:
    """Return a step of our kernels, whatever the choice would be."""
    return step(case, lambda x, w: sl.ops.masked_conv2d(x, w, mask, **case.conv))


def auto(case: Case, mask: Tensor) -> Callable[[], object]:
    """Return a step of the module that chooses."""
    out, inside, kernel, _ = case.weight.shape
    module = nn.Conv2d(
        inside * case.layer.groups, out, kernel, bias=False, device="cuda",
        dtype=case.weight.dtype, **case.conv,
    )  # fmt: skip
    with torch.no_grad():
        module.weight.copy_(case.weight)
    model = sl.sparsify(
        nn.Sequential(module.to(memory_format=torch.channels_last)), {"0.weight": mask}
    )
    x = case.x.detach().requires_grad_()
    return lambda: torch.autograd.grad(model(x), (x, module.weight), case.grad)


@pytest.mark.parametrize(("dtype", "pattern", "layer"), CASES, ids=str)
def bench_masked_conv2d_cuda(benchmark, record_rows, layer, pattern, dtype):
    """Measure every sparsity of a pattern: one entry each among the results."""
    case = case_of(layer, DTYPES[dtype])
    with cudnn():
        dense = {
            f"dense {name}": dense_times(layer, name) for name in dict.fromkeys((dtype, "bf16"))
        }
        found = [
            (sparsity, times(case, pattern, sparsity, mask) | dense)
            for sparsity, mask in masks_of(case.weight, pattern)
        ]
    record_rows(
        _row(f"{layer}, {dtype}, {pattern}", sparsity, values | {"dense": dense[f"dense {dtype}"]})
        for sparsity, values in found
    )
    benchmark.pedantic(torch.cuda.synchronize, rounds=1)


def times(case: Case, pattern: str, sparsity: float, mask: Tensor) -> dict[str, float]:
    """Time our kernels on a mask, in milliseconds, by what chooses them."""
    values = {"sparse": milliseconds(sparse(case, mask))}
    if (pattern, sparsity) in AUTO:
        values["auto"] = milliseconds(auto(case, mask))
    if pattern in ("element", "16x1", "8x1") and _has_cuda_kernels():
        with sl.use_backend("cuda"):
            values["scattered"] = milliseconds(sparse(case, mask))
    return values


RATIOS = (
    Ratio("cuDNN, channels_last", ("dense",)),
    Ratio("cuDNN in bfloat16, channels_last", ("dense bf16",)),
    Ratio("cuDNN, channels_last, chosen by measuring", ("dense",), ours=("auto",)),
    Ratio(
        "cuDNN, channels_last, by the kernels for scattered masks", ("dense",), ours=("scattered",)
    ),
)


def _row(problem: str, sparsity: float, values: dict[str, float]) -> dict[str, object]:
    ratios = evaluate(values, [r for r in RATIOS if set(r.ours) <= set(values)])
    return {
        "op": "masked_conv2d, forward and backward",
        "device": "cuda",
        "problem": problem,
        "sparsity": sparsity,
        "unit": "ms",
        "values": {name: round(ms, 4) for name, ms in values.items()},
        "ratios": ratios,
        "speedup": ratios[RATIOS[0].over]["ratio"],
    }
