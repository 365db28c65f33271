"""The plots of a study: one small figure each, which a page can lay out for any screen."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from .document import settings
from .plots_accuracy import accuracies, differences, times
from .plots_overlap import overlaps


def draw(summary: dict[str, Any]) -> Iterator[tuple[str, str, bytes]]:
    """Yield every plot: its file name, what it shows, and its content, SVG."""
    for setting in settings(summary):
        for draw_some in (accuracies, differences, overlaps, times):
            for name, alt, figure in draw_some(summary, setting):
                # With several settings each has its own files.
                several = len(settings(summary)) > 1
                place = f"-{setting['model'].replace(':', '.')}-{setting['data']}"
                yield f"{name}{place if several else ''}.svg", alt, _svg(figure, name)


def _svg(figure: Figure, name: str) -> bytes:
    image = io.BytesIO()
    # The same numbers give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(image, format="svg", metadata={"Date": None})
    return image.getvalue()
