"""The score axis: what ranks the weights. A registry of plain functions, or your own."""

from .context import Score, ScoreContext, needs
from .flow import synflow
from .gradient import grasp, grasp_abs, snip
from .values import magnitude, random

SCORES: dict[str, Score] = {
    "magnitude": magnitude,
    "random": random,
    "snip": snip,
    "grasp": grasp,
    "grasp-abs": grasp_abs,
    "synflow": synflow,
}

__all__ = [
    "SCORES",
    "Score",
    "ScoreContext",
    "grasp",
    "grasp_abs",
    "magnitude",
    "needs",
    "random",
    "snip",
    "synflow",
]
