"""What is derived from a mask for modules of one geometry."""

from __future__ import annotations

from torch import Tensor

from ..ops.kernel_choice.decide import Choice
from ..ops.plan import forget_plan, plan_of, plannable, takes_plan, work_of


class Service:
    """How modules of one geometry compute with a mask: its plan, and the choices made under it.

    has_plan: whether kernels take one of the mask.  work: see `plan.work_of`.  choices: kind of
    input -> how it is served.  measured_at: the work for which they were measured.  always_dense:
    no kernel takes a weight of this size.

    before: of a mask that this one came from, whose choices hold while the work is near.
    """

    __slots__ = (
        *("_doubts", "_groups", "_mask", "_plan"),
        *("always_dense", "choices", "has_plan", "measured_at", "work"),
    )

    def __init__(self, mask: Tensor, groups: int, before: Service | None = None) -> None:
        self._mask, self._groups = mask, groups
        self._plan: Tensor | None = None
        self.has_plan = takes_plan(mask, groups)
        self.always_dense = mask.device.type == "cpu" and not plannable(mask.shape, groups)
        self.work = work_of(mask, groups)
        self.choices: dict[tuple, Choice] = {}
        self.measured_at = self.work
        if before is not None and _near(self.work, before.measured_at):
            self.choices, self.measured_at = before.choices, before.measured_at
        # Kind of input -> how often its choice came out in doubt, and forwards since.
        self._doubts: dict[tuple, list[int]] = {}

    @property
    def plan(self) -> Tensor | None:
        """The mask's packed indices, built when they are first asked for; None without."""
        if self._plan is None and self.has_plan:
            self._plan = plan_of(self._mask, self._groups)
        return self._plan

    def choose(self, key: tuple, choice: Choice) -> None:
        """Note how a kind of input is served.

        A plan is as large as four weights for each that is kept: it stays where it is used only.
        """
        self.choices[key] = choice
        if self._plan is not None and not any(made.sparse for made in self.choices.values()):
            self._plan = None
            forget_plan(self._mask)

    def note_doubt(self, key: tuple) -> int:
        """Count a measurement that left a choice in doubt; return how many there were."""
        doubt = self._doubts.setdefault(key, [0, 0])
        doubt[:] = doubt[0] + 1, 0
        return doubt[0]

    def is_due(self, key: tuple, forwards: int) -> bool:
        """Count a forward by a choice in doubt; say whether it is time to make it anew."""
        doubt = self._doubts.setdefault(key, [1, 0])
        doubt[1] += 1
        return doubt[1] >= forwards


def _near(work: float, measured_at: float) -> bool:
    # Sparse kernels only win by less work: a fifth of it is about what a choice is won by.
    return 0.8 * measured_at <= work <= 1.02 * measured_at
