"""What a network costs: parameters and multiplications, with and without a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SparselthError
from ...nn.kinds import kind_of

# Half a channel of 2048, the most a layer of the networks here has.
_PRECISION = 2.0**-12


@torch.no_grad()
def multiplications(model: nn.Module, image: Tensor) -> dict[str, int]:
    """Count the multiplications of every convolution and linear layer: weight name -> count.

    image: one input (1, C, H, W). The model is left in the mode it was in.
    """
    counts: dict[str, int] = {}
    hooks = []

    def count(name: str, transposed: bool) -> Callable[..., None]:
        def hook(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # (1, C_out, ...) or (1, ..., C_out): each weight serves every place of the output; of
            # the input, where weights are (C_in, C_out, ...).
            served = inputs[0] if transposed else output
            places = served.numel() // layer.weight.shape[0]
            counts[name] = counts.get(name, 0) + layer.weight.numel() * places

        return hook

    for name, layer in model.named_modules():
        kind = kind_of(layer)
        if kind is not None and kind.by_default and kind.base.maskable == ("weight",):
            hook = count(f"{name}.weight" if name else "weight", kind.transposed)
            hooks.append(layer.register_forward_hook(hook))
    training = model.training
    try:
        model.eval()(image)
    finally:
        model.train(training)
        for handle in hooks:
            handle.remove()
    return counts


def saving(counts: Mapping[str, int], masks: Mapping[str, Tensor]) -> float:
    """Return how many times fewer multiplications a masked network takes."""
    left = sum(
        count * (masks[name].float().mean().item() if name in masks else 1.0)
        for name, count in counts.items()
    )
    return sum(counts.values()) / left


def parameters(model: nn.Module) -> int:
    """Count the parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def width_for(build: Callable[[float], nn.Module], target: int, widest: float) -> float:
    """Return the width, at most `widest`, of the network nearest to `target` parameters.

    Layers have whole channels, so that no width may fit exactly.

    Raises `SparselthError` where even the narrowest network has more.
    """
    low, high = 0.0, widest
    while high - low > _PRECISION * widest:
        middle = (low + high) / 2
        if parameters(build(middle)) <= target:
            low = middle
        else:
            high = middle
    if low == 0.0:
        raise SparselthError(
            f"no narrower network has as few as {target} parameters; leave small-dense out, or "
            "lower the sparsity"
        )
    return min((low, high), key=lambda width: abs(parameters(build(width)) - target))
