"""The score axis: what ranks the weights. A registry of plain functions, or your own."""

from functools import partial

from ...checks import kind
from .activation import apoz, bn_scale, conditional_entropy, dropnet, hrank, mean_activation
from .context import Score, ScoreContext, needs
from .filters import fpgm, fpgm_after_norm, l1, l2
from .flow import synflow
from .gradient import grasp, grasp_abs, snip, taylor, taylor_filter
from .greedy import greedy_forward
from .lasso import lasso
from .learned import lfpc
from .values import magnitude, magnitude_init, movement, random

SCORES: dict[str, Score] = {
    "magnitude": magnitude,
    "random": random,
    "magnitude-init": magnitude_init,
    "movement": movement,
    "snip": snip,
    "grasp": grasp,
    "grasp-abs": grasp_abs,
    "synflow": synflow,
    "taylor": taylor,
    "taylor-filter": taylor_filter,
    "l1": l1,
    "l2": l2,
    "fpgm": fpgm,
    "fpgm-mix": fpgm_after_norm(0.1),
    "hrank": hrank,
    "dropnet": dropnet,
    "mean-activation": mean_activation,
    "apoz": apoz,
    "bn-scale": bn_scale,
    "conditional-entropy": conditional_entropy,
    "lasso": lasso,
    "greedy-forward": greedy_forward,
    "lfpc": lfpc,
}


def name_of(score: Score) -> str:
    """Return what errors call a score: its name here, or its own."""
    while isinstance(score, partial):
        score = score.func
    names = (name for name, known in SCORES.items() if known is score)
    return next(names, getattr(score, "__name__", kind(score)))


__all__ = ["SCORES", "Score", "ScoreContext", "fpgm_after_norm", "name_of", "needs"]
