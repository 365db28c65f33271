"""The report of a study as one HTML file, which needs nothing beside it, and as Markdown."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib import resources
from typing import Any

from ...errors import SparselthError
from ..analysis.intervals import MISSING, NO, UNCLEAR, YES
from .document import Picture, Section, Table, lead, title

try:
    from jinja2 import Environment
    from markupsafe import Markup
except ImportError as error:
    raise SparselthError(
        "a study writes its report with jinja2, which is not installed; run: "
        "pip install 'sparselth[study]'"
    ) from error

# Text of this length wants a wide column.
_LONG = 40

_MARKS = {YES: "yes", NO: "no", UNCLEAR: "open", MISSING: "open"}


def html(summary: Mapping[str, Any], sections: list[Section], images: Mapping[str, bytes]) -> str:
    """Return the report as HTML. images: SVG by file name; they become part of the page."""
    environment = Environment(autoescape=True, trim_blocks=True)
    environment.tests["picture"] = lambda block: isinstance(block, Picture)
    environment.filters["data_uri"] = lambda picture: _data_uri(images[picture.name])
    environment.filters["mark"] = _mark
    template = resources.files(__package__).joinpath("templates/report.html.j2").read_text("utf-8")
    return environment.from_string(template).render(
        title=title(summary), lead=lead(summary), sections=sections
    )


def markdown(summary: Mapping[str, Any], sections: list[Section], folder: str) -> str:
    """Return the report as Markdown. folder: of the images, as seen from the file."""
    parts = [f"# {title(summary)}", lead(summary)]
    for section in sections:
        parts += [f"## {section.title}", *section.text]
        for block in section.blocks:
            if isinstance(block, Picture):
                parts.append(f"![{block.alt}]({folder}/{block.name})")
            else:
                parts.append(_markdown_table(block))
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    lines = [_row(table.headers), _row(["---"] * len(table.headers)), *map(_row, table.rows)]
    if table.caption:
        lines[:0] = [f"**{table.caption}**", ""]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    # A bar would end the cell, and a star or a line below would be set in other type.
    escaped = [_escaped(cell) for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _escaped(text: str) -> str:
    text = " ".join(text.split())  # a new line would end the row
    for sign in ("\\", "|", "*", "_"):
        text = text.replace(sign, f"\\{sign}")
    return text


def _mark(cell: str) -> Markup:
    """Return the class of a table's cell."""
    kind = _MARKS.get(cell, "long" if len(cell) > _LONG else "")
    return Markup(f' class="{kind}"') if kind else Markup("")


def _data_uri(image: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(image).decode()
