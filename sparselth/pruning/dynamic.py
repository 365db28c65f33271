"""Masks that change while a sparse network trains: weak weights go, and as many others wake."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..checks import check_name, check_number, check_whole
from ..errors import SparselthError
from ..nn import masks_of, move_masks
from ..nn.dense_gradients import DenseGradients
from ..ops.selection import topk_mask
from .processes import from_first_process, mean_over_processes
from .selecting import last_where_pruned
from .step_count import CountsSteps

DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda part: (1 + math.cos(math.pi * part)) / 2,
    "constant": lambda part: 1.0,
}
"""What the share that is dropped is multiplied with, by the part of the steps that is done."""

GROWS = ("gradient", "random")


class DynamicSparsity(CountsSteps):
    """Moves the masks of a sparse model while it trains: `step()` after each optimizer's step.

    Every so often, in each layer, the kept weights of smallest magnitude are dropped and as many
    others are woken, at zero: those of the largest gradient, or any. A layer keeps as many weights
    as it had. `RigL` and `SET` are this with the settings of their papers.

    model: made sparse by `sparsify`; with any masks, ERK ones say.
    grow: "gradient" or "random".  drop: the share of a layer's weights that is dropped, times the
    decay, "cosine" towards `end` or "constant".  every: so many steps lie between two times.
    end: no mask moves from this step on.

    For "gradient" the step before a move computes its gradients densely, for all weights; it must
    not run within torch.compile. Where gradients are accumulated, `step()` comes after the
    optimizer's step. A layer that no gradient reached in that step stays as it is, and so does a
    frozen one always; where the gradients overflowed, as they do at times when the loss is scaled
    for float16, the move is put off by a step. A weight that wakes has no momentum, if the
    optimizer is one of `sparselth.optim` or kept by `keep_on_mask`. Masks move alike in every
    process of a group.

    Raises SparselthError for a model without masks, and for settings that are none.
    """

    _kept = ("late",)

    def __init__(
        self,
        model: nn.Module,
        *,
        end: int,
        grow: str = "gradient",
        drop: float = 0.3,
        every: int = 100,
        decay: str = "cosine",
    ) -> None:
        check_name("grow", grow, GROWS)
        check_name("decay", decay, DECAYS)
        self.model, self.grow, self.decay = model, grow, decay
        self.drop = check_number("drop", drop, above=0.0, most=1.0)
        self.every = check_whole("every", every, 1)
        self.end = check_whole("end", end, self.every + 1)
        self.eager_only = grow == "gradient"
        self.steps = 0
        self.late = False  # a move was put off
        self._gradients = DenseGradients(model)
        self._collect_before_a_move()

    def step(self) -> bool:
        """Count a step, and move the masks where it is time to; say whether it did.

        Raises SparselthError where no gradient was seen in the step before, and on NaN or Inf in a
        weight.
        """
        self.steps += 1
        moved = self._due(self.steps) and self._move()
        self._collect_before_a_move()
        return moved

    def _due(self, step: int) -> bool:
        return (self.late or step % self.every == 0) and step < self.end

    def _collect_before_a_move(self) -> None:
        if self.grow == "gradient" and self._due(self.steps + 1):
            self._gradients.start()

    @torch.no_grad()
    def _move(self) -> bool:
        masks = masks_of(self.model)
        trained = {name: self.model.get_parameter(name) for name in masks}
        weights = {name: w.detach() for name, w in trained.items() if w.requires_grad}
        share = self.drop * DECAYS[self.decay](self.steps / self.end)
        kept = {name: int(masks[name].count_nonzero()) for name in weights}
        # No more than are asleep: those dropped may come back, and that alone would move nothing.
        dropped = {
            name: min(round(share * count), masks[name].numel() - count)
            for name, count in kept.items()
        }
        # Before the gradients: that a weight is NaN is no overflow that the next step is free of.
        stay = topk_mask(
            [last_where_pruned(weight, masks[name]) for name, weight in weights.items()],
            [kept[name] - dropped[name] for name in weights],
            allocation="given",
            names=list(weights),
        )
        left = dict(zip(weights, stay, strict=True))
        wake = self._wakes(weights)
        self.late = wake is None
        if wake is None:
            return False
        woken = topk_mask(
            [last_where_pruned(score, ~left[name]) for name, score in wake.items()],
            [dropped[name] for name in wake],
            allocation="given",
            names=[f"the gradient of {name}" for name in wake],
        )
        moved = zip(wake, woken, strict=True)
        move_masks(self.model, {name: left[name] | new for name, new in moved})
        return bool(wake)

    def _wakes(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
        """Return what sleeping weights are woken by, the largest magnitude first.

        Without the layers that stay as they are; None where the gradients overflowed. What is
        decided by gradients is decided by their mean, which is the same in every process.
        """
        if self.grow == "random":
            # Above zero: what is to stay asleep for good is ranked by zero.
            drawn = {name: 1 - torch.rand(w.shape, device=w.device) for name, w in weights.items()}
            return dict(zip(drawn, from_first_process(drawn.values()), strict=True))
        found = self._gradients.stop()
        means = mean_over_processes(found[name] for name in weights)
        wake = {n: mean for n, mean in zip(weights, means, strict=True) if bool(mean.any())}
        if weights and not wake:
            raise SparselthError(
                "no gradient reached the masked weights in the step before: call backward on the "
                "model between two calls of step(), outside torch.compile"
            )
        finite = all(bool(mean.isfinite().all()) for mean in wake.values())
        return wake if finite else None

    def _resumed(self) -> None:
        if self._gradients.is_on:
            self._gradients.stop()
        self._collect_before_a_move()


class RigL(DynamicSparsity):
    """Drop by magnitude, grow by gradient, ever less; see `DynamicSparsity`.

    model, end, drop, every: as there. The paper ends at three quarters of the training, and takes
    no step of the optimizer where masks move; here that step is taken, too.

    Reference: Evci et al. 2020, arXiv:1911.11134, algorithm 1.
    """

    def __init__(self, model: nn.Module, *, end: int, drop: float = 0.3, every: int = 100) -> None:
        super().__init__(model, end=end, drop=drop, every=every)


class SET(DynamicSparsity):
    """Drop by magnitude, grow at random, always as many; see `DynamicSparsity`.

    model, end, drop: as there.  every: the paper moves masks once per epoch.

    Reference: Mocanu et al. 2018, arXiv:1707.04780, algorithm 1 (woken weights begin at zero, as
    in arXiv:1911.11134).
    """

    def __init__(self, model: nn.Module, *, end: int, every: int, drop: float = 0.3) -> None:
        super().__init__(model, end=end, grow="random", drop=drop, every=every, decay="constant")
