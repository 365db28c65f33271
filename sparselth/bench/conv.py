"""masked_conv2d and its alternatives: forward and backward through autograd, steady state.

`sparse` gets and returns activations in the kernels' own layout, as between the layers of a model;
`sparse, layout converted` gets and returns ordinary tensors. Dense is oneDNN through torch with
the mask multiplied into the weight beforehand, so that its cost is not counted against dense. Of
contiguous and channels_last the better one counts, for every baseline that has both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from ..nn import sparsify
from ..ops import masked_conv2d
from ..ops.lanes.convert import enter_lanes
from ..ops.plan import conv_plan
from .layers import ConvProblem
from .ratios import Ratio

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
    Ratio("torch.nn.utils.prune", both_layouts("prune")),
    Ratio("best dense bf16", both_layouts("dense bf16")),
    Ratio("best dense bf16, ours in bf16", both_layouts("dense bf16"), ours=("sparse bf16",)),
)


def step(call, x: Tensor, weight: Tensor, grad: Tensor) -> Callable[[], object]:
    """Return forward and backward: y = call(x, weight), then both gradients."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    return lambda: torch.autograd.grad(call(x, weight), (x, weight), grad)


def sparse_steps(p: ConvProblem) -> dict[str, Callable[[], object]]:
    """Return ours, with the conversion of layouts outside and inside."""
    plan = conv_plan(p.mask, p.groups)

    def call(x, w):
        return masked_conv2d(
            x, w, p.mask, stride=p.stride, padding=p.padding, groups=p.groups, plan=plan
        )

    narrow = [enter_lanes(t.to(torch.bfloat16)) for t in (p.x, p.grad)]
    return {
        "sparse": step(call, enter_lanes(p.x), p.weight, enter_lanes(p.grad)),
        "sparse bf16": step(call, narrow[0], p.weight.to(torch.bfloat16), narrow[1]),
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
        **{"auto" + s: of(sparsify(plain(), {"0.weight": p.mask}), m) for s, m in LAYOUTS.items()},
        **{"dense" + s: of(masked(), m) for s, m in LAYOUTS.items()},
    }


def candidates(p: ConvProblem) -> dict[str, Callable[[], object]]:
    """Return ours and everything that torch has, by name."""
    return {
        **sparse_steps(p),
        **dense_steps(p, "dense"),
        **masked_dense_steps(p),
        **pruned_steps(p),
        **dense_steps(p, "dense bf16", torch.bfloat16),
    }
