"""masked_conv2d on a GPU against cuDNN: forward and backward through autograd, channels_last.

Times are medians of CUDA events with the L2 cache flushed before each call. Dense is cuDNN with
`benchmark=True` and the mask multiplied into the weight beforehand, so that its cost is not counted
against dense; float32 multiplies in TF32 on both sides, as torch's default has it. A second ratio
takes the fastest of cuDNN's types, whatever the sparse one's. `auto` is
MaskedConv2d, which measures when a mask is new. The column where a line crosses 1 is the sparsity
from which sparse wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from problems import LAYERS, SPARSITIES, Layer
from ratios import Ratio, evaluate
from torch import Tensor, nn

import sparselth as sl
from sparselth.ops.patterns import find_pattern
from sparselth.ops.plan import conv_plan

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")

# The 3 x 3 and 1 x 1 layers of ResNet-50's stages, as ImageNet's images reach them.
RESNET50 = (
    *(Layer(64, 64, 56), Layer(64, 128, 28), Layer(128, 256, 14), Layer(256, 512, 7)),
    *(Layer(64, 256, 56, kernel=1), Layer(128, 1024, 14, kernel=1)),
)
DTYPES = {"bf16": torch.bfloat16, "tf32": torch.float32}
PATTERNS = ("64x64", "32x32", "16x16", "16x1", "8x1", "filter", "element")
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


def case_of(layer: Layer, dtype: torch.dtype) -> Case:
    """Draw a layer's tensors."""
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


def milliseconds(call: Callable[[], object]) -> float:
    """Return the median of some calls with a cold L2 cache."""
    from triton.testing import do_bench

    return do_bench(call, warmup=2, rep=10, return_mode="median")


@cache
def dense_milliseconds(layer: Layer, dtype: str) -> float:
    """Time cuDNN's forward and backward of a layer. dtype: of DTYPES, or "fp32" without TF32."""
    case = case_of(layer, DTYPES.get(dtype, torch.float32))
    with torch.backends.cudnn.flags(benchmark=True, allow_tf32=dtype != "fp32"):
        return milliseconds(step(case, lambda x, w: F.conv2d(x, w, **case.conv)))


def masks_of(weight: Tensor, pattern: str) -> Iterator[tuple[float, Tensor]]:
    """Draw a mask for each sparsity that leaves something."""
    groups = find_pattern(pattern).groups(weight.shape)
    for sparsity in SPARSITIES:
        if kept := round((1 - sparsity) * groups):
            scores = torch.rand_like(weight, dtype=torch.float32)
            yield sparsity, sl.ops.topk_mask(scores, kept, pattern=pattern)


def sparse(case: Case, mask: Tensor) -> Callable[[], object]:
    """Return a step of our kernels, whatever the choice would be."""
    plan = conv_plan(mask, case.layer.groups)
    return step(case, lambda x, w: sl.ops.masked_conv2d(x, w, mask, plan=plan, **case.conv))


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layer", [*LAYERS, *RESNET50], ids=str)
def bench_masked_conv2d_cuda(benchmark, layer, dtype):
    """Measure every pattern and sparsity of a layer: one entry each among the results."""
    case = case_of(layer, DTYPES[dtype])
    dense = {name: dense_milliseconds(layer, name) for name in (*DTYPES, "fp32")}
    with torch.backends.cudnn.flags(benchmark=True, allow_tf32=True):
        found = []
        for pattern in PATTERNS:
            for sparsity, mask in masks_of(case.weight, pattern):
                values = {"sparse": milliseconds(sparse(case, mask)), "dense": dense[dtype]}
                values |= {f"dense {name}": ms for name, ms in dense.items()}
                if (pattern, sparsity) in AUTO:
                    values["auto"] = milliseconds(auto(case, mask))
                if pattern in ("element", "16x1", "8x1") and _has_cuda_kernels():
                    with sl.use_backend("cuda"):
                        values["scattered"] = milliseconds(sparse(case, mask))
                found.append((pattern, sparsity, values))
    benchmark.extra_info["rows"] = [
        _row(f"{layer}, {dtype}, {pattern}", sparsity, values)
        for pattern, sparsity, values in found
    ]
    benchmark.pedantic(torch.cuda.synchronize, rounds=1)


RATIOS = (
    Ratio("cuDNN, channels_last", ("dense",)),
    Ratio("the fastest cuDNN of bf16, tf32, fp32", tuple(f"dense {n}" for n in (*DTYPES, "fp32"))),
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
