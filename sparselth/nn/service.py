"""What is derived from a mask for modules of one geometry."""

from __future__ import annotations

from torch import Tensor

from ..ops.kernel_choice.decide import Choice
from ..ops.plan import plan_of, plannable, work_of


class Service:
    """How modules of one geometry compute with a mask: its plan, and the choices made under it.

    plan: the mask's packed indices, or None.  work: see `plan.work_of`.  choices: kind of input
    -> how it is served.  measured_at: the work for which they were measured.  always_dense: no
    kernel takes a weight of this size.

    before: of a mask that this one came from, whose choices hold while the work is near.
    """

    __slots__ = ("_doubts", "always_dense", "choices", "measured_at", "plan", "work")

    def __init__(self, mask: Tensor, groups: int, before: Service | None = None) -> None:
        self.plan = plan_of(mask, groups)
        self.always_dense = mask.device.type == "cpu" and not plannable(mask.shape, groups)
        self.work = work_of(mask, groups)
        self.choices: dict[tuple, Choice] = {}
        self.measured_at = self.work
        if before is not None and _near(self.work, before.measured_at):
            self.choices, self.measured_at = before.choices, before.measured_at
        # Kind of input -> how often its choice came out in doubt, and forwards since.
        self._doubts: dict[tuple, list[int]] = {}

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
