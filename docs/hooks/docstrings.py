"""The docstrings of this project as Markdown: `as_markdown`, and the extension that applies it.

They are plain sentences. A line `name: what it is.` describes an argument or a field, also several
of them on a line with two spaces between; code and formulas are indented by four spaces; names
stand in backticks.
"""

from __future__ import annotations

import ast
import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import griffe

_NAME = r"\*{0,2}[a-z_]\w*(?: \(\w+\))?"
_NAMES = rf"{_NAME}(?:, {_NAME})*"
_ITEM = re.compile(rf"(?P<names>{_NAMES}): (?P<text>.*)", re.DOTALL)
_NEXT_ITEM = re.compile(rf"(?<=[.)])  (?={_NAMES}: )")
_SENTENCE = re.compile(r"(?:Returns|Raises|Warns|Reference:) ?")
_INLINE_CODE = re.compile(r"(`+[^`]+`+)")
_SPECIAL = re.compile(r"([*_\[\]])")


def as_markdown(text: str, links: Mapping[str, str] | None = None) -> str:
    """Turn a docstring into Markdown.

    links: name in backticks -> path of what it stands for.
    """
    lines = _whole(_NEXT_ITEM.sub("\n", text.strip()).splitlines())
    parts = []
    for kind, run in itertools.groupby(lines, _kind):
        if kind == "code":
            parts.append(_code("\n".join(run)))
        elif kind == "prose":
            parts.extend(_paragraphs(list(run), links or {}))
    return "\n\n".join(parts)


def _whole(lines: list[str]) -> list[str]:
    """Join lines that are indented because they go on, and not because they are code."""
    whole: list[str] = []
    for line in lines:
        before = whole[-1] if whole else ""
        if _kind(line) == "code" and _kind(before) == "prose" and not before.endswith(":"):
            whole[-1] = f"{before} {line.strip()}"
        else:
            whole.append(line)
    return whole


def _kind(line: str) -> str:
    if not line.strip():
        return "blank"
    return "code" if line.startswith("    ") else "prose"


def _code(text: str) -> str:
    text = textwrap.dedent(text).rstrip()
    try:
        is_python = bool(ast.parse(text).body) and "(" in text
    except SyntaxError:
        is_python = False
    return f"```{'python' if is_python else 'text'}\n{text}\n```"


def _paragraphs(lines: list[str], links: Mapping[str, str]) -> Iterator[str]:
    """Yield the paragraphs and the lists that lines without a gap are."""
    pieces: list[list[str]] = []
    for line in lines:
        begins = not pieces or pieces[-1][-1].rstrip().endswith((".", ":", ")"))
        if begins and (not pieces or _ITEM.match(line) or _SENTENCE.match(line)):
            pieces.append([])
        pieces[-1].append(line.strip())
    texts = (" ".join(piece) for piece in pieces)
    for listed, run in itertools.groupby(texts, lambda text: bool(_ITEM.match(text))):
        if listed:
            yield "\n".join(_item(text, links) for text in run)
        else:
            yield from (_prose(text, links) for text in run)


def _item(text: str, links: Mapping[str, str]) -> str:
    found = _ITEM.match(text)
    assert found is not None
    names = re.sub(r"(?<!\()(\*{0,2}\b[a-z_]\w*)", r"`\1`", found["names"])
    return f"- {names}: {_prose(found['text'], links)}"


def _prose(text: str, links: Mapping[str, str]) -> str:
    return "".join(
        _linked(piece, links) if piece.startswith("`") else _escaped(piece)
        for piece in _INLINE_CODE.split(text)
    )


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def _linked(code: str, links: Mapping[str, str]) -> str:
    name = code.strip("`").partition("(")[0]
    return f"[{code}][{links[name]}]" if name in links else code


class Docstrings(griffe.Extension):
    """Writes every docstring of the package as Markdown before it is shown."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        links = public_paths(pkg) if pkg.name == "sparselth" else {}
        seen: set[str] = set()
        waiting: list[griffe.Object] = [pkg]
        while waiting:
            thing = waiting.pop()
            if thing.path in seen:
                continue
            seen.add(thing.path)
            if thing.docstring is not None:
                own = {thing.name, *thing.members, *_arguments(thing)}
                others = {name: path for name, path in links.items() if name not in own}
                thing.docstring.value = as_markdown(thing.docstring.value, others)
            waiting.extend(m for m in thing.members.values() if not m.is_alias)  # type: ignore


def _arguments(thing: griffe.Object) -> list[str]:
    function = thing.members.get("__init__", thing)
    return [each.name for each in function.parameters] if function.is_function else []  # type: ignore


def public_paths(package: griffe.Module) -> dict[str, str]:
    """Return what names in docstrings stand for: name, also behind "sparselth." -> path.

    A name that two rooms have for different things is left out.
    """
    found: dict[str, set[str]] = {}
    paths: dict[str, str] = {}
    for room in package.modules.values():
        for name in map(str, room.exports or ()):
            there = room.members.get(name)
            if there is None:
                continue
            canonical = there.target_path if there.is_alias else there.path
            found.setdefault(name, set()).add(canonical)
            paths.setdefault(name, path_in(room, name))
            paths[f"{room.path}.{name}"] = path_in(room, name)
    return {name: path for name, path in paths.items() if len(found.get(name, "1")) == 1}


def path_in(room: griffe.Module, name: str) -> str:
    """Return where a public name of a room is found: a function may hide its file."""
    imported = room.imports.get(name, "")
    hidden = imported == f"{room.path}.{name}.{name}"
    return imported if hidden else f"{room.path}.{name}"
