"""A model's answer to a batch, with words for what a model cannot take or does not return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import called
from ..errors import SparselthError


def laid_out(x: Tensor) -> Tensor:
    """Return x in the layout that models are trained in: images on a GPU in channels_last."""
    images = x.device.type == "cuda" and x.dim() == 4
    return x.contiguous(memory_format=torch.channels_last) if images else x


def logits_of(model: nn.Module, x: Tensor, what: str) -> Tensor:
    """Call the model, and require logits, a tensor (N, classes).

    what: whose x it is, for errors.

    Raises SparselthError where the model cannot take x, or returns something else.
    """
    logits: Any = model(x) if torch.compiler.is_compiling() else called(model, (x,), f"x of {what}")
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        raise SparselthError(_no_logits(logits, len(x)))
    return logits


def _no_logits(got: Any, samples: int) -> str:
    shape = f" of shape {tuple(got.shape)}" if isinstance(got, Tensor) else ""
    return (
        f"the model returned a {type(got).__name__}{shape}; training by cross entropy takes "
        f"logits, a tensor ({samples}, classes): wrap the model in a module that returns them"
    )
