"""What counts the steps of a training, and goes on from where it was left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from ..checks import check_whole, kind
from ..errors import SparselthError


class CountsSteps(ABC):
    """Counts a training's steps; its state is how many, and which method counted them.

    _kept: attributes that belong to the state besides; a state of before they did lacks them.
    """

    steps: int
    _kept: tuple[str, ...] = ()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, besides the model's own state: the steps done."""
        kept = {name: getattr(self, name) for name in self._kept}
        return {"method": type(self).__name__, "steps": self.steps} | kept

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned; the model has its own already.

        Raises SparselthError for what is none, or another method's.
        """
        mine = type(self).__name__
        if not isinstance(state, Mapping) or state.keys() - self._kept != {"method", "steps"}:
            raise SparselthError(
                f"a state of {mine} holds its method and its steps, got {kind(state)}"
            )
        if state["method"] != mine:
            raise SparselthError(f"the state is of {state['method']}, not of {mine}")
        for name in state.keys() & self._kept:
            if not isinstance(state[name], type(getattr(self, name))):
                raise SparselthError(f"a state of {mine} has {kind(state[name])} for {name}")
        self.steps = check_whole("steps", state["steps"], 0)
        for name in state.keys() & self._kept:
            setattr(self, name, state[name])
        self._resumed()

    @abstractmethod
    def _resumed(self) -> None:
        """Be as one that has counted so far."""
