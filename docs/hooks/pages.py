"""What the site adds to the pages: the reference's lists of names, and files from outside docs/.

Pages link to files of the repository, such as a table of benchmarks, by the path that works where
the code is read (`../benchmarks/results/...`). Here every such file is taken along, and those that
it links to.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
from docstrings import as_markdown, path_in

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
OUTSIDE = "repository"
"""The folder of the site where the files from outside docs/ go."""

_LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#:]+)(?=[)#])")
_OPS = re.compile(r"^<!-- ops of the contract -->$", re.MULTILINE)
_NAMES = re.compile(r"^<!-- names of (\S+) -->$", re.MULTILINE)

ROOMS = ("nn", "optim", "pruning", "training", "data", "models", "study", "ops")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take along what is linked to outside docs/."""
    known = set(DOCS.rglob("*.md"))
    waiting = sorted(known)
    while waiting:
        page = waiting.pop()
        if page.suffix != ".md":
            continue
        for _, target in _local_links(page, page.read_text(encoding="utf-8")):
            if target not in known and not target.is_relative_to(DOCS):
                known.add(target)
                waiting.append(target)
                files.append(File.generated(config, _uri(target), abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to where files are in the site, and list names where a page asks for it."""
    assert page.file.abs_src_path is not None
    source = Path(page.file.abs_src_path)
    if page.file.src_uri.startswith(f"{OUTSIDE}/"):
        page.meta["search"] = {"exclude": True}
    elif page.file.src_uri.startswith("reference/"):
        page.meta["search"] = {"boost": 0.5}  # after the pages that explain
    here = posixpath.dirname(page.file.src_uri)
    moved = {text: posixpath.relpath(_uri(t), here) for text, t in _local_links(source, markdown)}
    markdown = _LINK.sub(lambda m: moved.get(m["target"], m["target"]), markdown)
    markdown = _OPS.sub(lambda m: _contract(), markdown)
    return _NAMES.sub(lambda m: _reference(m[1]), markdown)


def _local_links(page: Path, text: str) -> Iterator[tuple[str, Path]]:
    """Yield the links of a page to files that are there, as written and as paths."""
    for match in _LINK.finditer(text):
        target = (page.parent / match["target"]).resolve()
        if target.is_dir():
            target = target / "README.md"
        if target.is_file() and target.is_relative_to(ROOT):
            yield match["target"], target


def _uri(path: Path) -> str:
    """Return where a file is in the site, as its Markdown source."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"{OUTSIDE}/{path.relative_to(ROOT).as_posix()}"


# --- the reference ----------------------------------------------------------------------------


@cache
def _package() -> griffe.Module:
    """Return the package as it can be read, without importing it."""
    return griffe.load("sparselth", search_paths=[ROOT], resolve_aliases=True)  # type: ignore


def public_names(module: str) -> list[str]:
    """Return the names in `__all__` of a module of the package."""
    path = module.split(".")[1:]
    return [str(name) for name in (_package()[path] if path else _package()).exports or ()]


def _path(module: str, name: str) -> str:
    """Return where a public name is found."""
    return path_in(_package()[module.split(".")[1:]], name)


def _reference(module: str) -> str:
    """Write what mkdocstrings makes the documentation of a module's public names from."""
    names = public_names(module)
    if module != "sparselth":
        return "\n\n".join(f"::: {_path(module, name)}" for name in names)
    links, own = [], []
    for name in names:
        room, _, there = _package().imports.get(name, "").rpartition(".")
        if name in ROOMS:
            continue
        if room.removeprefix("sparselth.") in ROOMS and there in public_names(room):
            path = _path(room, there)
            links.append(f"| [`sl.{name}`][{path}] | {_first_line(path)} |")
        else:
            own.append(f"::: sparselth.{name}")
    return "\n".join(["| name | |", "|---|---|", *links, "", *own])


def _contract() -> str:
    """Write what the ops say of themselves; the package is imported, for what they registered."""
    from sparselth.ops.contract import ALL_SCHEMAS, describe

    parts = []
    for op in ALL_SCHEMAS:
        schema, _, text = describe(op).partition("\n\n")
        body, _, _ = text.rpartition("\n\n")  # what all of them raise stands above
        parts += [f"## {op}", f"```text\n{_wrapped(schema)}\n```", as_markdown(body)]
    return "\n\n".join(parts)


def _wrapped(schema: str) -> str:
    """Break a schema into a line per argument."""
    name, _, rest = schema.partition("(")
    arguments, _, result = rest.rpartition(") -> ")
    lines = re.split(r", (?![^\[(]*[\])])", arguments)
    return f"{name}(\n" + "".join(f"    {line},\n" for line in lines) + f") -> {result}"


def _first_line(path: str) -> str:
    docstring = _package()[path.split(".")[1:]].docstring
    return "" if docstring is None else as_markdown(docstring.value).splitlines()[0]
