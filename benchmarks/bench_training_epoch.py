"""A whole epoch of training: data, steps and evaluation, as `sl.train` runs them.

Synthetic 32 x 32 images, cropped and mirrored anew in each epoch. `prune` is the same loop with
`torch.nn.utils.prune`, `dense` that of a model whose weights were multiplied with the masks
beforehand; `sparse bf16` has `Recipe(precision="bf16")`. A second benchmark says what share of the
sparse epoch the data and the optimizer take.

On a GPU images stay on the device and steps are bfloat16 in CUDA graphs, but for `prune`, which is
eager, as people run it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from gpu_timing import cudnn, require_cudnn
from torch import nn
from torch.nn.utils import prune

import sparselth as sl
from sparselth.bench.conv import both_layouts
from sparselth.bench.ratios import Ratio
from sparselth.data import Batches, ImageSet
from sparselth.models import build
from sparselth.training import Recipe, evaluate
from sparselth.training.loop import optimizer_for
from sparselth.training.step import TrainingStep

# What a data set holds: enough for stable times on a CPU, CIFAR-10's size on a GPU.
IMAGES = {"cpu": (1024, 256), "cuda": (50_000, 10_000)}
ROUNDS = {"cpu": 3, "cuda": 1}
SPARSITIES = {"cpu": (0.9, 0.95, 0.98), "cuda": (0.95,)}
CASES = [
    (device, sparsity)
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else []))
    for sparsity in SPARSITIES[device]
]


def image_set(device: str) -> ImageSet:
    """Draw images and labels."""
    train, test = IMAGES[device]
    images = torch.randint(0, 256, (train + test, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (train + test,))
    parts = images[:train], labels[:train], images[train:], labels[train:]
    return ImageSet("random", *parts, 10, (0.5,) * 3, (0.3,) * 3, flip=True)


class Epoch:
    """One epoch after another of a network."""

    def __init__(
        self,
        model: nn.Module,
        device: str,
        form: str,
        layout: torch.memory_format,
        precision: str = "fp32",
    ):
        precision = "bf16" if device == "cuda" and form == "graph" else precision
        recipe = Recipe(step=form, precision=precision)
        self.model = model.to(device, memory_format=layout)
        self.optimizer = optimizer_for(model, recipe)
        self.step = TrainingStep(model, self.optimizer, recipe, torch.device(device))
        self.batches = Batches(
            image_set(device), recipe.batch_size, 0, augment=True, device=torch.device(device)
        )
        self.epoch = 0
        self.data_seconds = 0.0

    def __call__(self) -> None:
        self.model.train()
        asked = time.perf_counter()
        for step, (x, labels) in enumerate(self.batches.train(self.epoch)):
            self.data_seconds += time.perf_counter() - asked
            self.step(x, labels, self.batches.images_in(step))
            asked = time.perf_counter()
        evaluate(self.model, self.batches)
        self.epoch += 1


def contestants(device: str, sparsity: float) -> dict[str, Callable[[], Epoch]]:
    """Return what makes each contestant, by name."""
    form = "graph" if device == "cuda" else "eager"

    def made(
        change: Callable[[nn.Module, dict[str, torch.Tensor]], object],
        form: str,
        layout: torch.memory_format,
        precision: str = "fp32",
    ) -> Epoch:
        torch.manual_seed(0)
        model = build("resnet20", num_classes=10, in_channels=3).to(device)
        change(model, sl.find_masks(model, sparsity=sparsity))
        return Epoch(model, device, form, layout, precision)

    def multiplied(model: nn.Module, masks: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, mask in masks.items():
                model.get_parameter(name).mul_(mask)

    def pruned(model: nn.Module, masks: dict[str, torch.Tensor]) -> None:
        for name, mask in masks.items():
            module = model.get_submodule(name.rpartition(".")[0])
            prune.custom_from_mask(module, "weight", mask.float())

    last = torch.channels_last
    found = {
        "sparse": lambda: made(
            sl.sparsify, form, last if device == "cuda" else torch.contiguous_format
        ),
        "dense channels_last": lambda: made(multiplied, form, last),
        "prune channels_last": lambda: made(pruned, "eager", last),
    }
    if device == "cpu":
        found["sparse bf16"] = lambda: made(sl.sparsify, form, torch.contiguous_format, "bf16")
        found["dense"] = lambda: made(multiplied, form, torch.contiguous_format)
        found["prune"] = lambda: made(pruned, "eager", torch.contiguous_format)
    return found


def best_times(epochs: dict[str, Epoch], rounds: int) -> dict[str, float]:
    """Return the milliseconds of each contestant's best round."""
    best = dict.fromkeys(epochs, float("inf"))
    for at in range(1 + rounds):  # the first brings choices, plans and graphs in
        for name, epoch in epochs.items():
            begun = time.perf_counter()
            epoch()  # waits for the device: evaluation reads its result
            if at > 0:
                best[name] = min(best[name], 1e3 * (time.perf_counter() - begun))
    return best


@pytest.mark.parametrize(("device", "sparsity"), CASES)
def bench_training_epoch(benchmark, record, device, sparsity):
    """Time epochs in turn; the best round counts."""
    epochs = {name: make() for name, make in contestants(device, sparsity).items()}
    if device == "cuda":
        with cudnn():
            require_cudnn()
            best = best_times(epochs, ROUNDS[device])
    else:
        best = best_times(epochs, ROUNDS[device])
    theirs = {"torch.nn.utils.prune": both_layouts("prune"), "dense": both_layouts("dense")}
    ratios = [Ratio(name, of) for name, of in theirs.items()]
    if device == "cpu":
        ours = ("sparse bf16",)
        ratios += [Ratio(f"{name}, ours in bf16", of, ours) for name, of in theirs.items()]
    record(
        best,
        *ratios,
        op="training epoch",
        device=device,
        problem="resnet20",
        sparsity=sparsity,
    )
    benchmark.pedantic(lambda: None, rounds=1)


@pytest.mark.parametrize("sparsity", SPARSITIES["cpu"])
def bench_training_epoch_shares(benchmark, record, sparsity):
    """Time the data and the optimizer within sparse epochs: totals over the epochs."""
    epoch = contestants("cpu", sparsity)["sparse"]()
    began, updates = [0.0], [0.0]

    def before(*_: object) -> None:
        began[0] = time.perf_counter()

    def after(*_: object) -> None:
        updates[0] += time.perf_counter() - began[0]

    epoch()
    epoch.optimizer.register_step_pre_hook(before)
    epoch.optimizer.register_step_post_hook(after)
    epoch.data_seconds, begun = 0.0, time.perf_counter()
    for _ in range(4):
        epoch()
    values = {
        "epoch": 1e3 * (time.perf_counter() - begun),
        "data": 1e3 * epoch.data_seconds,
        "optimizer": 1e3 * updates[0],
    }
    record(
        values,
        Ratio("its data (ratio: how often they fit into it)", ("epoch",), ("data",)),
        Ratio("its optimizer and masks (likewise)", ("epoch",), ("optimizer",)),
        op="sparse training epoch",
        problem="resnet20",
        sparsity=sparsity,
    )
    benchmark.pedantic(lambda: None, rounds=1)
