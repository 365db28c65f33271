"""How ADMM's penalty weight rho changes from one Z/U update to the next.

A schedule is a function of what the update measured and of the number of updates done, this one
included; it returns the factor on rho. The functions here make schedules; `RHO_SCHEDULES` names
those that need no settings.
"""

from __future__ import annotations

from collections.abc import Callable

from ..checks import check_callable, check_name, check_number, check_whole
from .residuals import ADMMUpdate

RhoSchedule = Callable[[ADMMUpdate, int], float]


def constant() -> RhoSchedule:
    """Leave rho as it is: the schedule that always returns 1."""
    return lambda update, count: 1.0


def growing(factor: float = 1.3) -> RhoSchedule:
    """Multiply rho by `factor` (>= 1) at every Z/U update.

    Reference: Ye et al. 2019, "Adversarial Robustness vs Model Compression, or Both?",
    arXiv:1903.12561 (their `multi_rho` code: 1.3).

    Raises SparselthError on a factor below 1.
    """
    factor = check_number("the factor that rho grows by", factor, least=1)
    return lambda update, count: factor


def staged(updates: int, stages: int = 4, factor: float = 10.0) -> RhoSchedule:
    """Multiply rho by `factor` after every `updates` updates, through `stages` values of rho.

    The public PyTorch code of Zhang et al. 2018 (arXiv:1804.03294) for CIFAR goes from 1e-4 to 1e-1
    in four stages; it also starts each stage from U = 0, while here U is rescaled.

    Raises SparselthError on updates < 1, stages < 1 or a factor below 1.
    """
    updates = check_whole("updates of a stage of rho", updates, 1)
    stages = check_whole("stages of rho", stages, 1)
    factor = check_number("the factor between stages of rho", factor, least=1)
    last = updates * (stages - 1)
    return lambda update, count: factor if count % updates == 0 and count <= last else 1.0


def balanced(ratio: float = 10.0, factor: float = 2.0) -> RhoSchedule:
    """Keep the residuals alike: `factor` times rho where the primal one is `ratio` times the dual.

    And rho / `factor` where it is the other way round.

    Reference: Boyd et al. 2011, section 3.4.1, eq. (3.13).

    Raises SparselthError unless ratio > 1 and factor > 1.
    """
    ratio = check_number("the ratio of a balanced rho", ratio, above=1)
    factor = check_number("the factor of a balanced rho", factor, above=1)

    def schedule(update: ADMMUpdate, count: int) -> float:
        if update.primal > ratio * update.dual:
            return factor
        return 1 / factor if update.dual > ratio * update.primal else 1.0

    return schedule


RHO_SCHEDULES: dict[str, Callable[[], RhoSchedule]] = {
    "constant": constant,
    "growing": growing,
    "balanced": balanced,
}


def find_schedule(schedule: str | RhoSchedule) -> RhoSchedule:
    """Return a schedule by its name in `RHO_SCHEDULES`, or the one given.

    schedule: "constant", "growing" (by 1.3) or "balanced" (10, 2), or a function (update, count) ->
    factor on rho.

    Raises SparselthError for an unknown name, or what is no function.
    """
    if not isinstance(schedule, str):
        takes = f"a function of an ADMMUpdate and a count, or one of {', '.join(RHO_SCHEDULES)}"
        check_callable("rho_schedule", schedule, takes)
        return schedule
    check_name("rho schedule", schedule, RHO_SCHEDULES)
    return RHO_SCHEDULES[schedule]()
