"""What a score is given, and what it declares to need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from torch import Tensor, nn

from ...checks import check_name
from ...errors import SparselthError
from .batches import Batch, Loss
from .derivatives import BatchLosses
from .maps import feature_maps, following_norms


@dataclass(frozen=True)
class ScoreContext:
    """What a score may look at besides the weights.

    model: whose weights are ranked; these are not to be written to. Its modes and buffers, and
    torch's random numbers, are put back after a score that declares what it `needs`.
    data: batches (x, y) as the model and the loss take them, on the model's device.  loss: called
    as loss(model(x), y), a scalar, the mean over the batch.  Both None where `find_masks` got none.
    masks: what is left to choose among, parameter name -> bool mask; empty where all is.
    initial: the weights before training, parameter name -> tensor; None where none were given.
    kept: how many weights or groups of each layer will stay, parameter name -> count; None with
    "global", which decides by the scores, and for patterns that fix it.
    transposed: the weights that are (in, out, ...), as those of transposed convolutions.
    """

    model: nn.Module
    data: Iterable[Batch] | None = None
    loss: Loss | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    initial: Mapping[str, Tensor] | None = None
    kept: Mapping[str, int] | None = None
    transposed: frozenset[str] = frozenset()

    def gradients(self, weights: Iterable[str], *, temperature: float = 1.0) -> dict[str, Tensor]:
        """Return dL/dw of the mean loss over all batches, in training mode, without what is pruned.

        weights: whose, by name; zero where the loss does not depend on one.  temperature: what the
        logits are divided by.
        Returns float32 for 16-bit weights. In a process group, over the batches of all processes.

        Raises SparselthError for no batch, a batch that is no pair, and a loss that is not a finite
        scalar.
        """
        return self._losses(weights, temperature).gradients()

    def gradients_by_batch(self, weights: Iterable[str]) -> Iterator[tuple[dict[str, Tensor], int]]:
        """Yield the gradients of each batch's own loss, and how many examples it has.

        weights, and what is raised: as for `gradients`.
        """
        return self._losses(weights, 1.0).gradients_by_batch()

    def hessian_product(
        self, weights: Iterable[str], vector: Mapping[str, Tensor], *, temperature: float = 1.0
    ) -> dict[str, Tensor]:
        """Return H v: the Hessian of the mean loss by the weights, times a vector of their names.

        weights, temperature, and what is raised: as for `gradients`.
        """
        return self._losses(weights, temperature).hessian_product(vector)

    def activations(self, weights: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, map): what the layer of a weight gives on a batch, after its activation.

        That is the map after the first activation function that follows the layer, with what norms,
        poolings and additions do to it on the way; where channels are mixed before any, the last
        map before that. In evaluation mode, without what is pruned, for every call of the layer and
        of those that share its weight; x of `data` alone is read.
        weights: whose layers, by name.
        Yields (N, C, ...), one channel per filter, float32 or float64.

        Raises SparselthError for no batch, for a layer that is not called, and NaN or Inf in a map.
        """
        return feature_maps(self.model, list(weights), self._data(), self.masks)

    def norms(self, weights: Iterable[str]) -> dict[str, nn.Module]:
        """Return the batch norm that each weight's layer goes into first, by the weight's name.

        weights: whose layers, by name. The first x of `data` shows which one follows.

        Raises SparselthError naming the layers that none follows, and those without a scale.
        """
        return following_norms(self.model, list(weights), self._data())

    def filters(self, weight: str, values: Tensor) -> Tensor:
        """Return values of a weight's shape by filter: (C_out, all that makes one output)."""
        turned = values.transpose(0, 1) if weight in self.transposed else values
        return turned.flatten(1)

    def _losses(self, weights: Iterable[str], temperature: float) -> BatchLosses:
        data = self._data()
        if self.loss is None:
            raise SparselthError('a score reads the loss and got none; declare needs("loss")')
        return BatchLosses(self.model, self.loss, data, weights, self.masks, temperature)

    def _data(self) -> Iterable[Batch]:
        if self.data is None:
            raise SparselthError('a score reads data and got none; declare needs("data")')
        return self.data


Score = Callable[[Mapping[str, Tensor], ScoreContext], Mapping[str, Tensor]]
S = TypeVar("S", bound=Score)

UNITS = ("weight", "filter", "channel")
NEEDS = ("data", "loss", "initial", "kept", "norms")


def needs(
    *names: str, signed: bool = False, steps: int = 1, unit: str = "weight"
) -> Callable[[S], S]:
    """Declare what a score cannot do without, and how it is used.

    names: of the context, "data", "loss", "initial" and "kept", and "norms" for batch norms in the
    model; `find_masks` refuses to begin without them.
    signed: the largest values stay, not the largest magnitudes. Single weights or units only.
    steps: in how many steps it prunes where `find_masks` is not told.
    unit: what a score ranks. "weight": it returns a tensor of each weight's shape. "filter" or
    "channel": one value for each output or input of a weight, (C_out,) or (C_in,), and the pattern
    is that one.

    Raises SparselthError for an unknown unit, and for a name that no context has.
    """
    check_name("unit", unit, UNITS)
    for name in names:
        check_name("need", name, NEEDS)

    def declare(score: S) -> S:
        score.declared = Declared(names, signed, steps, unit)  # type: ignore[attr-defined]
        return score

    return declare


@dataclass(frozen=True)
class Declared:
    """What a score declared: see `needs`."""

    names: tuple[str, ...] = ()
    signed: bool = False
    steps: int = 1
    unit: str = "weight"


def declared(score: Score) -> Declared:
    """Return what a score declared, or the function of a partial one; else nothing at all."""
    if isinstance(score, partial) and not hasattr(score, "declared"):
        return declared(score.func)
    return getattr(score, "declared", Declared())
