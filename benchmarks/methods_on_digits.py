"""What ways of pruning reach on digits: masks that move, allocations, rounds, refits, penalties.

python benchmarks/methods_on_digits.py [--seeds 3] [--out FILE]

VGG-11 at an eighth of its width on mnist5k, five epochs at 0.1 for whatever trains. Prints a table
of test accuracies, mean and standard deviation over seeds, and writes all of them as JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparselth as sl
from sparselth import pruning
from sparselth.data import batches_of
from sparselth.optim import GroupLasso
from sparselth.study.execution.environment import environment
from sparselth.training.evaluate import evaluate

SPARSITY, FILTERS, RATE = 0.95, 0.75, 0.1
RECIPE = sl.Recipe(epochs=5, learning_rate=RATE, batch_size=64, augment=False)


class Bench:
    """One seed: its data, its initialization and the network trained from that."""

    def __init__(self, seed: int) -> None:
        self.data, self.seed = sl.data.load("mnist5k"), seed
        self.recipe = sl.Recipe(**{**RECIPE.__dict__, "seed": seed})
        self.steps = -(-len(self.data.train_labels) // RECIPE.batch_size) * RECIPE.epochs
        self.source = batches_of(self.data, 64, seed, False, torch.device("cpu"))
        self.batches = list(islice(self.source.train(0), 8))
        self.initial = self.new().state_dict()
        dense = self.new()
        self.dense_accuracy = self.trained(dense)
        self.final = copy.deepcopy(dense.state_dict())

    def new(self) -> nn.Module:
        torch.manual_seed(self.seed)
        return sl.models.build("vgg11", num_classes=10, in_channels=1, width=0.125)

    def pretrained(self) -> nn.Module:
        model = self.new()
        model.load_state_dict(self.final)
        return model

    def trained(self, model: nn.Module, **options: Any) -> float:
        history = sl.train(model, self.data, self.recipe, **options)
        return history.records[-1].test_accuracy

    def accuracy(self, model: nn.Module) -> float:
        return evaluate(model, self.source)

    def random_erk(self) -> nn.Module:
        model = self.new()
        masks = sl.find_masks(model, score="random", sparsity=SPARSITY, allocation="erk")
        return sl.sparsify(model, masks)


def fine_tuned(bench: Bench, **search: Any) -> float:
    model = bench.pretrained()
    return bench.trained(model, masks=sl.find_masks(model, **search))


def annealed(bench: Bench) -> float:
    shares = pruning.annealed_sparsities(
        bench.pretrained(),
        SPARSITY,
        data=bench.batches,
        loss=cross_entropy,
        steps=40,
        seed=bench.seed,
    )
    return fine_tuned(bench, sparsity=shares)


def moving(bench: Bench, make: Callable[[nn.Module], Any]) -> float:
    model = bench.random_erk()
    return bench.trained(model, pruning=make(model))


def gradual(bench: Bench) -> float:
    model = bench.new()
    end = bench.steps * 3 // 4
    return bench.trained(model, pruning=pruning.GradualPruning(model, SPARSITY, end=end, every=20))


def rounds(bench: Bench, count: int) -> float:
    model = bench.pretrained()
    found = sl.prune_and_finetune(model, bench.data, bench.recipe, SPARSITY, rounds=count)
    return found.history.records[-1].test_accuracy


def lasso(bench: Bench) -> Iterator[tuple[str, float]]:
    name = f"LASSO channels, {FILTERS:.0%} of the inputs"
    model = bench.pretrained()
    masks = sl.find_masks(model, score="lasso", sparsity=FILTERS, data=bench.batches)
    cut = sl.densify(sl.sparsify(copy.deepcopy(model), masks))
    yield f"{name}: cut", bench.accuracy(cut)
    data = list(islice(bench.source.train(0), 40))
    pruning.reconstruct(model, masks, data)
    yield f"{name}: refitted", bench.accuracy(model)
    yield f"{name}: refitted and fine-tuned", bench.trained(model, masks=masks)


def group_lasso(bench: Bench) -> Iterator[tuple[str, float]]:
    model = bench.new()
    weights = list(pruning.prunable_parameters(model).values())
    accuracy = bench.trained(model, regularizer=GroupLasso(weights, 0.01))
    alive = [bool(row.any()) for w in weights for row in w.detach().flatten(1)]
    yield "group lasso 0.01 on filters, from the initialization", accuracy
    yield "  share of filters that it leaves, percent", 100 * sum(alive) / len(alive)


def contestants(bench: Bench) -> Iterator[tuple[str, float]]:
    yield "dense", bench.dense_accuracy
    end = bench.steps * 3 // 4
    kept = f"{SPARSITY:.0%}, from the initialization"
    yield f"random masks that stay (ERK), {kept}", bench.trained(bench.random_erk())
    yield f"SET, {kept}", moving(bench, lambda m: pruning.SET(m, end=end, every=79))
    yield f"RigL, {kept}", moving(bench, lambda m: pruning.RigL(m, end=end, every=20))
    yield f"gradual pruning (cubic), {kept}", gradual(bench)
    tuned = f"{SPARSITY:.0%} of a trained network, fine-tuned"
    for allocation in ("uniform", "erk", "global", "lamp"):
        accuracy = fine_tuned(bench, sparsity=SPARSITY, allocation=allocation)
        yield f'magnitude, "{allocation}", {tuned}', accuracy
    yield f"magnitude, annealed, {tuned}", annealed(bench)
    yield f"magnitude in 3 rounds of five epochs, {tuned}", rounds(bench, 3)
    yield from lasso(bench)
    yield from group_lasso(bench)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    facts = {
        "command": "python benchmarks/methods_on_digits.py",
        **environment(torch.device("cpu")),
        "network": "VGG-11 at 0.125 of its width on mnist5k",
    }
    found: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        for name, value in contestants(Bench(seed)):
            found.setdefault(name, []).append(round(value, 2))
            print(f"seed {seed}  {value:6.2f}  {name}", flush=True)
        if options.out:
            options.out.write_text(json.dumps(facts | {"accuracies": found}, indent=1) + "\n")
    for name, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{statistics.fmean(values):6.1f} ± {spread:.1f}  {name}")


if __name__ == "__main__":
    main()
