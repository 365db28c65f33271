"""Weights to select from, and the ways torch offers to do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..models import build
from ..ops import admm_project_
from ..pruning import prunable_parameters
from .ratios import Ratio

PROBLEMS = ("resnet20", "vgg11", "resnet18", "flat-25M")
KEPT = 0.1


def _resnet18() -> list[tuple[int, ...]]:
    """Return the shapes of ResNet-18's convolutions for small images, but for the first."""
    shapes: list[tuple[int, ...]] = []
    inputs = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            shapes += [(width, inputs, 3, 3), (width, width, 3, 3)]
            shapes += [(width, inputs, 1, 1)] * (block == 0 and inputs != width)
            inputs = width
    return shapes


def weights_of(problem: str, device: str) -> list[Tensor]:
    """Draw the prunable weights of a network, or one flat tensor."""
    if problem == "flat-25M":
        return [torch.randn(25_000_000, device=device)]
    if problem == "resnet18":
        return [torch.randn(shape, device=device) for shape in _resnet18()]
    model = build(problem, num_classes=10, in_channels=3)
    return [torch.randn_like(p, device=device) for p in prunable_parameters(model).values()]


def _by_kthvalue(magnitude: Tensor, k: int) -> Tensor:
    return magnitude.kthvalue(magnitude.numel() - k + 1).values


def _by_topk(magnitude: Tensor, k: int) -> Tensor:
    return magnitude.topk(k, sorted=False).values.min()


def _by_sort(magnitude: Tensor, k: int) -> Tensor:
    return magnitude.sort(descending=True).values[k - 1]


# The k-th largest magnitude of a flat tensor. All of them keep every tie.
THRESHOLDS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "kthvalue": _by_kthvalue,
    "topk": _by_topk,
    "sort": _by_sort,
}


def project_by(
    threshold: Callable[[Tensor, int], Tensor], global_: bool
) -> Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Sequence[int]], None]:
    """Return ADMM's projection as tools of the field do it: a threshold, then layer by layer."""

    def run(weights, z, u, k) -> None:
        sums = [w + dual for w, dual in zip(weights, u, strict=True)]
        if global_:
            cuts = [threshold(torch.cat([v.abs().flatten() for v in sums]), k[0])] * len(sums)
        else:
            cuts = [threshold(v.abs().flatten(), n) for v, n in zip(sums, k, strict=True)]
        for v, z_l, u_l, cut in zip(sums, z, u, cuts, strict=True):
            z_l.copy_(torch.where(v.abs() >= cut, v, 0.0))
            u_l.copy_(v - z_l)

    return run


RATIOS = (
    Ratio("the best of kthvalue, topk and sort", tuple(THRESHOLDS), ours=("fused",)),
    Ratio("the memory it must move", ("memory",), ours=("fused",)),
    Ratio("a device copy of the bytes its passes move", ("copy",), ours=("fused",)),
)


def projections(
    problem: str, allocation: str, sparsity: float, device: str
) -> dict[str, Callable[[], object]]:
    """Return the projection of a problem's weights, by ours, by torch's, and what memory allows."""
    weights = weights_of(problem, device)
    sizes = [w.numel() for w in weights]
    global_ = allocation == "global"
    counts = [round((1 - sparsity) * n) for n in ([sum(sizes)] if global_ else sizes)]

    def projection(call: Callable[..., object]) -> Callable[[], object]:
        z, u = ([torch.zeros_like(w) for w in weights] for _ in range(2))
        return lambda: call(weights, z, u, counts)

    def fused(weights, z, u, k) -> None:
        admm_project_(weights, z, u, k=k, allocation=allocation)

    return {
        "fused": projection(fused),
        **{name: projection(project_by(f, global_)) for name, f in THRESHOLDS.items()},
        "memory": memory_floor(sum(sizes), device),
        **({"copy": device_copy(sum(sizes), CUDA_BYTES)} if device == "cuda" else {}),
    }


def memory_floor(total: int, device: str) -> Callable[[], None]:
    """Return the least that a projection of `total` values moves: W and U in, Z and U out."""
    w, z, u = (torch.zeros(total, device=device) for _ in range(3))

    def run() -> None:
        torch.add(w, u, out=z)
        u.zero_()

    return run


# What the passes of the CUDA projection read and write of a float32 weight: W and U once for each
# digit of the magnitude and once more, Z read, Z and U written.
CUDA_BYTES = 3 * 8 + 12 + 8


def device_copy(total: int, bytes_each: int) -> Callable[[], object]:
    """Return a copy within a GPU's memory that moves as many bytes, reading half of them."""
    source = torch.zeros(total * bytes_each // 2, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
