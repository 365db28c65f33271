"""masked_conv2d against the alternatives: forward and backward through autograd, steady state.

`sparse` gets and returns activations in the kernels' own layout, as between the layers of a model;
`sparse, layout converted` gets and returns ordinary tensors. Dense is oneDNN through torch with
the mask multiplied into the weight beforehand, so that its cost is not counted against dense. Of
contiguous and channels_last the better one counts, for every baseline that has both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import sparseprop_baseline
import torch
import torch.nn.functional as F
from problems import AUTO_SPARSITIES, LAYERS, SPARSITIES, ConvProblem, conv_problem
from ratios import Ratio
from torch import Tensor, nn
from torch.nn.utils import prune

import sparselth as sl
from sparselth.ops.plan import conv_plan

LAYOUTS = {"": torch.contiguous_format, " channels_last": torch.channels_last}


def both_layouts(name: str) -> tuple[str, ...]:
    return tuple(name + layout for layout in LAYOUTS)


RATIOS = (
    Ratio("best dense fp32", both_layouts("dense")),
    Ratio(
        "best dense fp32, our layout converted inside",
        both_layouts("dense"),
        ours=("sparse, layout converted",),
    ),
    Ratio("best dense fp32, mask multiplied in the step", both_layouts("reference")),
    Ratio("SparseProp", ("SparseProp over batch", "SparseProp over width")),
    Ratio("torch.nn.utils.prune", both_layouts("prune")),
    Ratio("best dense bf16", both_layouts("dense bf16")),
)


def step(call, x: Tensor, weight: Tensor, grad: Tensor) -> Callable[[], object]:
    """Return forward and backward: y = call(x, weight), then both gradients."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    return lambda: torch.autograd.grad(call(x, weight), (x, weight), grad)


def in_lanes(images: Tensor) -> Tensor:

    return in_lanes(images)


def sparse_steps(p: ConvProblem) -> dict[str, Callable[[], object]]:
    """Return ours, with the conversion of layouts outside and inside."""
    plan = conv_plan(p.mask, p.groups)

    def call(x, w):
        return sl.ops.masked_conv2d(
            x, w, p.mask, stride=p.stride, padding=p.padding, groups=p.groups, plan=plan
        )

    return {
        "sparse": step(call, in_lanes(p.x), p.weight, in_lanes(p.grad)),
        "sparse, layout converted": step(call, p.x, p.weight, p.grad),
    }


def dense_steps(
    p: ConvProblem, name: str, dtype: torch.dtype = torch.float32
) -> dict[str, Callable[[], object]]:
    """Return dense convolution with the mask already multiplied in, in both layouts."""

    def call(x, w):
        return F.conv2d(x, w, stride=p.stride, padding=p.padding, groups=p.groups)

    def cast(t, layout):
        return t.to(dtype).contiguous(memory_format=layout)

    tensors = (p.x, p.weight * p.mask, p.grad)
    return {
        name + suffix: step(call, *(cast(t, layout) for t in tensors))
        for suffix, layout in LAYOUTS.items()
    }


def masked_dense_steps(p: ConvProblem) -> dict[str, Callable[[], object]]:
    """Return dense convolution with the mask multiplied in the step, in both layouts."""

    def of(layout):
        mask = p.mask.contiguous(memory_format=layout)

        def call(x, w):
            w = torch.where(mask, w, 0.0)
            return F.conv2d(x, w, stride=p.stride, padding=p.padding, groups=p.groups)

        return step(call, *(t.contiguous(memory_format=layout) for t in (p.x, p.weight, p.grad)))

    return {"reference" + suffix: of(layout) for suffix, layout in LAYOUTS.items()}


def plain_module(p: ConvProblem) -> nn.Conv2d:
    """Return the layer as a user has it, with this problem's weight."""
    out_channels, channels, kernel, _ = p.weight.shape
    conv = nn.Conv2d(
        channels * p.groups, out_channels, kernel, p.stride, p.padding, groups=p.groups, bias=False
    )
    conv.weight.data.copy_(p.weight)
    return conv


def module_step(
    p: ConvProblem, module: nn.Module, weight: nn.Parameter, layout: torch.memory_format
) -> Callable[[], object]:
    """Return forward and backward of a module that holds its weight itself."""
    x = p.x.contiguous(memory_format=layout).detach().requires_grad_()
    grad = p.grad.contiguous(memory_format=layout)
    return lambda: torch.autograd.grad(module(x), (x, weight), grad)


def pruned_steps(p: ConvProblem) -> dict[str, Callable[[], object]]:
    """Return what torch itself offers for training with a mask, in both layouts."""

    def of(layout):
        module = prune.custom_from_mask(plain_module(p), "weight", p.mask)
        module = module.to(memory_format=layout)
        return module_step(p, module, module.weight_orig, layout)

    return {"prune" + suffix: of(layout) for suffix, layout in LAYOUTS.items()}


def auto_steps(p: ConvProblem) -> dict[str, Callable[[], object]]:
    """Return the layer as a module, plain with a masked weight or made sparse, in both layouts.

    The sparse module chooses between sparse and dense.
    """

    def of(model: nn.Module, layout: torch.memory_format) -> Callable[[], object]:
        model = model.to(memory_format=layout)
        return module_step(p, model, model.get_parameter("0.weight"), layout)

    def plain() -> nn.Module:
        return nn.Sequential(plain_module(p))

    def masked() -> nn.Module:
        model = plain()
        with torch.no_grad():
            model.get_parameter("0.weight").mul_(p.mask)
        return model

    return {
        **{
            "auto" + s: of(sl.sparsify(plain(), {"0.weight": p.mask}), m)
            for s, m in LAYOUTS.items()
        },
        **{"dense" + s: of(masked(), m) for s, m in LAYOUTS.items()},
    }


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def bench_masked_conv2d(compare, layer, sparsity):
    problem = conv_problem(layer, sparsity)
    theirs, reason = sparseprop_baseline.candidates(problem)
    if reason:
        warnings.warn(f"SparseProp is left out: {reason}", stacklevel=1)
    compare(
        {
            **sparse_steps(problem),
            **dense_steps(problem, "dense"),
            **masked_dense_steps(problem),
            **pruned_steps(problem),
            **theirs,
            **dense_steps(problem, "dense bf16", torch.bfloat16),
        },
        *RATIOS,
        op="masked_conv2d",
        problem=str(layer),
        sparsity=sparsity,
        left_out={"SparseProp": reason} if reason else {},
    )


@pytest.mark.parametrize("sparsity", AUTO_SPARSITIES)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def bench_masked_conv2d_auto(compare, layer, sparsity):
    problem = conv_problem(layer, sparsity)
    compare(
        auto_steps(problem),
        Ratio("best dense fp32", both_layouts("dense"), ours=both_layouts("auto")),
        op="MaskedConv2d, which chooses between sparse and dense",
        problem=str(layer),
        sparsity=sparsity,
    )
