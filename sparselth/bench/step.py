"""The contestants of a whole training step: batch 128 of 32 x 32 images, ten classes.

`dense` is plain torch: a plain model whose weights were multiplied with the masks beforehand, and
torch's own SGD. `reference` keeps the masks as a user without kernels must, multiplying them in.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from .. import optim
from ..models import build
from ..nn import sparsify
from ..ops import use_backend
from ..pruning import find_masks
from .ratios import Ratio

BATCH = 128
MODELS = ("resnet20", "vgg11")
LARGER_MODELS = ("mobilenetv2", "resnet18")
SGD_OPTIONS: dict[str, Any] = {"lr": 1e-3, "momentum": 0.9}

Step = Callable[[], None]

_OURS = ("sparse", "sparse channels_last")
_OURS_BF16 = ("sparse bf16", "sparse bf16 channels_last")
_DENSE = ("dense", "dense channels_last")
_DENSE_BF16 = ("dense bf16 channels_last",)
RATIOS = (
    Ratio("best dense fp32", _DENSE, _OURS),
    Ratio("dense fp32 with masks kept", ("reference", "reference channels_last"), _OURS),
    Ratio("torch.nn.utils.prune", ("prune", "prune channels_last"), _OURS),
    Ratio("dense bf16", _DENSE_BF16, _OURS),
    Ratio("best dense fp32, ours in bf16", _DENSE, _OURS_BF16),
    Ratio("dense bf16, ours in bf16", _DENSE_BF16, _OURS_BF16),
)


def _model_and_masks(name: str, sparsity: float) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    model = build(name, num_classes=10, in_channels=3)
    return model, find_masks(model, sparsity=sparsity)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    layout: torch.memory_format,
    around: Callable[[], AbstractContextManager] = nullcontext,
) -> Step:
    """Return one step. around: the context that forward and loss are computed in."""
    model = model.to(memory_format=layout)
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=layout)
    labels = torch.randint(0, 10, (BATCH,))

    def run() -> None:
        optimizer.zero_grad()
        with around():
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return run


def dense(
    name: str,
    sparsity: float,
    layout: torch.memory_format,
    around: Callable[[], AbstractContextManager] = nullcontext,
) -> Step:
    """Train the plain model by plain torch; the masks cost nothing."""
    model, masks = _model_and_masks(name, sparsity)
    with torch.no_grad():
        for key, mask in masks.items():
            model.get_parameter(key).mul_(mask)
    optimizer = torch.optim.SGD(model.parameters(), **SGD_OPTIONS)
    return _step(model, optimizer, layout, around)


def sparse(
    name: str,
    sparsity: float,
    layout: torch.memory_format,
    around: Callable[[], AbstractContextManager] = nullcontext,
) -> Step:
    """Train with `sparsify`, every layer free to choose dense."""
    model, masks = _model_and_masks(name, sparsity)
    sparsify(model, masks)
    return _step(model, optim.SGD(model.parameters(), **SGD_OPTIONS), layout, around)


def reference(name: str, sparsity: float, layout: torch.memory_format) -> Step:
    """Train the same modules densely, the mask multiplied in every step."""
    run = sparse(name, sparsity, layout)

    def forced() -> None:
        with use_backend("reference"):
            run()

    return forced


def pruned(name: str, sparsity: float, layout: torch.memory_format) -> Step:
    """Train the plain model with the masks of `torch.nn.utils.prune`."""
    model, masks = _model_and_masks(name, sparsity)
    for key, mask in masks.items():
        module = model.get_submodule(key.rpartition(".")[0])
        prune.custom_from_mask(module, "weight", mask.to(torch.float32))
    return _step(model, torch.optim.SGD(model.parameters(), **SGD_OPTIONS), layout)


_autocast = partial(torch.autocast, "cpu", torch.bfloat16)

# By the name of a candidate: (network, sparsity) -> step.
CONTESTANTS: dict[str, Callable[[str, float], Step]] = {
    "sparse": partial(sparse, layout=torch.contiguous_format),
    "sparse channels_last": partial(sparse, layout=torch.channels_last),
    "dense": partial(dense, layout=torch.contiguous_format),
    "dense channels_last": partial(dense, layout=torch.channels_last),
    "reference": partial(reference, layout=torch.contiguous_format),
    "reference channels_last": partial(reference, layout=torch.channels_last),
    "dense bf16 channels_last": partial(dense, layout=torch.channels_last, around=_autocast),
    "sparse bf16": partial(sparse, layout=torch.contiguous_format, around=_autocast),
    "sparse bf16 channels_last": partial(sparse, layout=torch.channels_last, around=_autocast),
    "prune": partial(pruned, layout=torch.contiguous_format),
    "prune channels_last": partial(pruned, layout=torch.channels_last),
}
