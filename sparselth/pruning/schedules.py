"""The schedule axis: what share is pruned after which part of the steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature

from ..checks import check_number
from ..errors import SparselthError, unknown_name
from ..ops.checks import check_sparsity
from .allocation import Sparsity

Schedule = Callable[[float, float, float], float]
"""(part of the steps that is done, sparsity before the first, sparsity after the last) -> sparsity.

The part is in (0, 1]; at 1 the result is the last sparsity.
"""


def one_shot(part: float, first: float, last: float) -> float:
    """Prune all in the first step."""
    return last


def linear(part: float, first: float, last: float) -> float:
    """Prune as many weights in each step."""
    return first + (last - first) * part


def exponential(part: float, first: float, last: float) -> float:
    """Prune the same share of what is left in each step (Frankle & Carbin 2019, 1803.03635)."""
    return 1 - (1 - first) ** (1 - part) * (1 - last) ** part


def cubic(part: float, first: float, last: float) -> float:
    """Prune much at first and ever less (Zhu & Gupta 2017, arXiv:1710.01878, equation 1)."""
    return last + (first - last) * (1 - part) ** 3


SCHEDULES: dict[str, Schedule] = {
    "one-shot": one_shot,
    "linear": linear,
    "exponential": exponential,
    "cubic": cubic,
}


def find_schedule(schedule: str | Schedule) -> Schedule:
    """Return a schedule by its name; one that is a function already as it is.

    Raises SparselthError for an unknown name, and for a function that does not end at the last
    sparsity, or never prunes.
    """
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise unknown_name("schedule", schedule, SCHEDULES)
        return SCHEDULES[schedule]
    if not callable(schedule):
        raise SparselthError(
            f"schedule must be one of {', '.join(SCHEDULES)} or a function of (part, first, "
            f"last), got {schedule!r}"
        )
    try:
        signature(schedule).bind(1.0, 0.0, 0.5)
    except TypeError as error:
        raise SparselthError(
            f"a schedule is a function of (part, first, last); got {schedule!r} ({error})"
        ) from None
    except ValueError:  # of what is written in C nobody knows
        pass
    end = check_number("what the schedule gives at the end", schedule(1.0, 0.0, 0.5))
    if abs(end - 0.5) > 1e-9:
        raise SparselthError(
            f"a schedule ends at the last sparsity; this one gives {end:g} for (1.0, 0.0, 0.5)"
        )
    return schedule


def scheduled(
    schedule: Schedule, part: float, first: float | Mapping[str, float], last: Sparsity
) -> Sparsity:
    """Return the sparsity after a part of the steps; of each layer by name where `last` is.

    part: in (0, 1]; the last sparsity itself at 1.  first: that before the first step.

    Raises SparselthError for a schedule that goes beyond the last sparsity on the way.
    """
    if part == 1:
        return last
    if isinstance(last, Mapping):
        start = first if isinstance(first, Mapping) else dict.fromkeys(last, first)
        return {n: _share(schedule, part, start.get(n, 0.0), end) for n, end in last.items()}
    assert not isinstance(first, Mapping)
    return _share(schedule, part, first, last)


def _share(schedule: Schedule, part: float, first: float, last: float) -> float:
    share = check_sparsity(schedule(part, first, check_sparsity(last)))
    if share > max(first, last) + 1e-9:
        raise SparselthError(
            f"the schedule prunes {share:g} after {part:g} of the steps, more than {last:g} at the "
            "end, and what is pruned does not come back; let it rise to the last sparsity"
        )
    return share
