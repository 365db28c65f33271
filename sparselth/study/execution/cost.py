"""What a network costs: parameters and multiplications, with and without a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from ...errors import SparselthError

# Half a channel of 2048, the most a layer of the networks here has.
_PRECISION = 2.0**-12


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
