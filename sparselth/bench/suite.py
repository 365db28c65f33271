"""What `sparselth bench` measures: a few problems of each op, against the best that torch has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..checks import check_device, check_name
from ..errors import SparselthError
from ..ops.checks import check_sparsity
from . import conv, linear, optimizer, selection, step
from .layers import Layer, conv_problem
from .ratios import Ratio, row_of
from .timing import best_times

Candidates = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Case:
    """One comparison.

    op: what is compared.  problem: on what.  sparsity: in [0, 1).  ratios: what is made of the
    times, the main one first.  candidates: makes what is timed, by name.
    """

    op: str
    problem: str
    sparsity: float
    ratios: tuple[Ratio, ...]
    candidates: Callable[[], Candidates]
    device: str = "cpu"


@dataclass(frozen=True)
class Bench:
    """A set of cases.  sparsities: those measured unless others are asked for."""

    what: str
    sparsities: tuple[float, ...]
    cases: Callable[[float, str], Iterator[Case]]
    devices: tuple[str, ...] = ("cpu",)


def _conv(sparsity: float, device: str) -> Iterator[Case]:
    for layer in (Layer(64, 64, 32), Layer(64, 256, 8), Layer(128, 16, 32)):

        def candidates(layer: Layer = layer) -> Candidates:
            problem = conv_problem(layer, sparsity)
            return {**conv.sparse_steps(problem), **conv.dense_steps(problem, "dense")}

        yield Case("masked_conv2d", str(layer), sparsity, conv.RATIOS[:2], candidates)


def _linear(sparsity: float, device: str) -> Iterator[Case]:
    for features in linear.FEATURES:

        def candidates(features: int = features) -> Candidates:
            return linear.candidates(features, sparsity)

        name = linear.name_of(features)
        yield Case("masked_linear", name, sparsity, linear.RATIOS, candidates)


def _projection(sparsity: float, device: str) -> Iterator[Case]:
    for problem in ("resnet20", "vgg11"):
        for allocation, shown in (("uniform", "per layer"), ("global", "global")):

            def candidates(problem: str = problem, allocation: str = allocation) -> Candidates:
                return selection.projections(problem, allocation, sparsity, device)

            name = f"{problem}, {shown}"
            yield Case("admm_project_", name, sparsity, selection.RATIOS, candidates, device)


def _optimizer(sparsity: float, device: str) -> Iterator[Case]:
    for name, (op, _) in optimizer.OPTIMIZERS.items():
        for network in optimizer.NETWORKS:

            def candidates(network: str = network, name: str = name) -> Candidates:
                return optimizer.candidates(network, name, sparsity, device)

            yield Case(op, network, sparsity, (optimizer.ratio_of(name),), candidates, device)


def _step(sparsity: float, device: str) -> Iterator[Case]:
    network, names = "resnet20", ("sparse", "dense", "dense channels_last")

    def candidates() -> Candidates:
        return {name: step.CONTESTANTS[name](network, sparsity) for name in names}

    ratio = Ratio("best dense fp32", ("dense", "dense channels_last"))
    yield Case("training step", network, sparsity, (ratio,), candidates)


_EVERYWHERE = ("cpu", "cuda")

BENCHES: dict[str, Bench] = {
    "conv": Bench(
        "a masked 3x3 convolution, forward and backward", (0.5, 0.8, 0.9, 0.95, 0.99), _conv
    ),
    "linear": Bench(
        "a masked linear layer, forward and backward", (0.5, 0.8, 0.9, 0.95, 0.99), _linear
    ),
    "projection": Bench("ADMM's projection", (0.9,), _projection, _EVERYWHERE),
    "optimizer": Bench("an optimizer's step on masks", (0.9,), _optimizer, _EVERYWHERE),
    "step": Bench("a whole training step, batch 128 of 32x32 images", (0.9, 0.95), _step),
}


def cases(
    name: str, *, sparsities: Sequence[float] | None = None, device: str = "cpu"
) -> list[Case]:
    """Return what a benchmark compares.

    name: one of `BENCHES`.  sparsities: each in [0, 1).  device: "cpu" or "cuda".

    Raises SparselthError for another name, sparsity or device, and for a GPU where the benchmark
    is one of a CPU's layout.
    """
    check_name("benchmark", name, BENCHES)
    bench = BENCHES[name]
    kind = check_device(device).type
    if kind not in bench.devices:
        raise SparselthError(
            f"`sparselth bench {name}` measures kernels of the CPU; got device {device!r}. On a "
            "GPU, `make gpu` in the repository measures all there is"
        )
    shares = bench.sparsities if sparsities is None else [check_sparsity(s) for s in sparsities]
    return [case for share in sorted(set(shares)) for case in bench.cases(share, kind)]


def measure(case: Case, *, seconds: float = 1.0) -> dict[str, Any]:
    """Time the candidates of a case in turn, and return what a result file holds of it.

    seconds: how long they take turns, nine calls at least. Times are in milliseconds.
    """
    torch.manual_seed(0)
    best, rounds = best_times(case.candidates(), seconds=seconds)
    facts = {"threads": torch.get_num_threads(), "rounds": rounds, "device": case.device}
    where = {"op": case.op, "problem": case.problem, "sparsity": case.sparsity}
    return row_of(best, case.ratios, **facts, **where)
