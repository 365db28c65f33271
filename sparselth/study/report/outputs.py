"""Write the report of a study into its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...files import write_atomically
from ..analysis.tables import accuracy_rows, cost_rows
from ..execution.folder import RunFolder
from .pages import html, markdown
from .plots import draw
from .sections import sections

PLOTS = "plots"

_TABLES = ("differences", "winning", "conditions", "claims", "sanity", "overlaps", "timing")


def write_report(summary: dict[str, Any], path: Path) -> None:
    """Write report.html, report.md with its plots, and the tables as CSV.

    All of it follows from the summary alone.
    """
    folder = RunFolder(path)
    folder.write_table("accuracy.csv", accuracy_rows(summary))
    folder.write_table("cost.csv", cost_rows(summary))
    for name in _TABLES:
        folder.write_table(f"{name}.csv", summary.get(name, []))
    images, pictures = {}, {}
    for name, alt, image in draw(summary):
        images[name], pictures[name] = image, alt
        write_atomically(path / PLOTS / name, image)
    for path_of_before in (path / PLOTS).glob("*.svg"):
        if path_of_before.name not in images:
            path_of_before.unlink()
    contents = sections(summary, pictures)
    write_atomically(path / "report.html", html(summary, contents, images))
    write_atomically(path / "report.md", markdown(summary, contents, PLOTS))
