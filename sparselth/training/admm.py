"""Drive ADMM from the training loop: its penalty in every step, its update every few epochs."""

from __future__ import annotations

from typing import Any

from ..checks import check_whole, kind
from ..errors import SparselthError
from ..optim import MaskedOptimizer
from ..pruning import ADMM
from .distributed import World


class ADMMSchedule:
    """The regularizer that pulls weights towards a sparse set while they train.

    admm: a `sparselth.ADMM` of the model that is trained. Its `update()` is called at the end of
    every `every`-th epoch, every: a count of epochs, >= 1. `residuals` keeps |W - Z| / |W| of
    each update; the last says how much the hard prune that follows will change.

    Raises SparselthError for what is no `sparselth.ADMM`, or an `every` that is no count.

    Reference: Zhang et al., 2018, "A Systematic DNN Weight Pruning Framework using ADMM".
    """

    def __init__(self, admm: ADMM, every: int = 1) -> None:
        if not isinstance(admm, ADMM):
            raise SparselthError(f"admm must be a sparselth.ADMM, got {kind(admm)}")
        self.admm = admm
        self.every = check_whole("every, which counts epochs,", every, 1)
        self.residuals: list[float] = []

    def attach(self, optimizer: MaskedOptimizer) -> None:
        """Let the fused step of `optimizer` add the penalty's gradient."""
        optimizer.admm = self.admm

    def end_epoch(self, epoch: int) -> None:
        """Project, when `epoch`, counted from 1, closes a round.

        Raises SparselthError on NaN or Inf in a weight, or processes that differ.
        """
        if epoch % self.every == 0:
            self.residuals.append(self.admm.update().relative)
            projected = dict(zip(self.admm.parameters, self.admm.z, strict=True))
            World.current().check_same("ADMM's projection", projected)

    def state_dict(self) -> dict[str, Any]:
        """Return ADMM's state and the residuals so far, for a checkpoint."""
        return {"admm": self.admm.state_dict(), "residuals": self.residuals}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned: `state`, of the same model.

        Raises SparselthError when it belongs to another.
        """
        self.admm.load_state_dict(state["admm"])
        self.residuals = state["residuals"]
