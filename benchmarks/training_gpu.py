"""The contestants of a whole training step on a GPU: bfloat16 autocast, channels_last, a graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from gpu_timing import in_graph
from torch import nn

import sparselth as sl
from sparselth.models import build
from sparselth.ops.patterns import find_pattern

BATCH = 256
SGD_OPTIONS = {"lr": 1e-3, "momentum": 0.9}


def model_and_masks(
    name: str, pattern: str, sparsity: float, device: str = "cuda"
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Build a network, channels_last, and masks for its convolutions but the first."""
    model = build(name, num_classes=10, in_channels=3)
    model = model.to(device, memory_format=torch.channels_last)
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)][1:]
    weights = {f"{n}.weight": model.get_parameter(f"{n}.weight") for n in convolutions}
    groups = [find_pattern(pattern).groups(w.shape) for w in weights.values()]
    kept = [max(1, round((1 - sparsity) * n)) for n in groups]
    masks = sl.ops.topk_mask([w.detach() for w in weights.values()], kept, pattern=pattern)
    return model, dict(zip(weights, masks, strict=True))


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: int = BATCH
) -> Callable[[], None]:
    """Return a step in bfloat16 on `batch` images of 32 x 32, where the model is."""
    device = next(model.parameters()).device
    images = torch.randn(batch, 3, 32, 32, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        # A cache of casts would outlive the capture it was filled in.
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def captured(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """Return a training step, as a CUDA graph."""
    return in_graph(training_step(model, optimizer), before=optimizer.zero_grad)


def dense(
    name: str, pattern: str, sparsity: float, device: str = "cuda"
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return the plain model and plain torch's optimizer; the masks cost nothing."""
    model, masks = model_and_masks(name, pattern, sparsity, device)
    with torch.no_grad():
        for key, mask in masks.items():
            model.get_parameter(key).mul_(mask)
    return model, torch.optim.SGD(model.parameters(), **SGD_OPTIONS, fused=True)


def sparse(
    name: str, pattern: str, sparsity: float, device: str = "cuda"
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return the model after `sparsify`, every layer free to choose dense, and our optimizer."""
    model, masks = model_and_masks(name, pattern, sparsity, device)
    sl.sparsify(model, masks)
    return model, sl.optim.SGD(model.parameters(), **SGD_OPTIONS)
