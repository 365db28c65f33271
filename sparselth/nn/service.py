"""What is derived from a mask for modules of one geometry."""

from __future__ import annotations

from torch import Tensor

from ..ops.kernel_choice.decide import Choice
from ..ops.plan import plan_of, plannable, work_of


class Service:
    """How modules of one geometry compute with a mask: its plan, and the choices made under it.

    plan: the mask's packed indices, or None.  work: see `plan.work_of`.  choices: kind of input
    -> how it is served.  always_dense: no kernel takes a weight of this size.
    """

    __slots__ = ("always_dense", "choices", "plan", "work")

    def __init__(self, mask: Tensor, groups: int) -> None:
        self.plan = plan_of(mask, groups)
        self.always_dense = mask.device.type == "cpu" and not plannable(mask.shape, groups)
        self.work = work_of(mask, groups)
        self.choices: dict[tuple, Choice] = {}
