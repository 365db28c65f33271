"""The score axis: what ranks the weights. A registry of plain functions, or your own."""

from .context import Score, ScoreContext, needs
from .gradient import snip
from .values import magnitude, random

SCORES: dict[str, Score] = {
    "magnitude": magnitude,
    "random": random,
    "snip": snip,
}

__all__ = ["SCORES", "Score", "ScoreContext", "magnitude", "needs", "random", "snip"]
