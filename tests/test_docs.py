"""The documentation: its Python runs, its site builds without a warning, and nothing is missing.

The blocks of Python of a page run in order, in one namespace and an empty folder. A block of text
right after one is what it prints; with the title "Numbers vary", all but the numbers.
"""

import ast
import contextlib
import html.parser
import importlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import sparselth as sl
from sparselth import cli, pruning
from sparselth.ops.contract import ALL_SCHEMAS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READ = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
ROOMS = ("nn", "optim", "pruning", "training", "data", "models", "study", "ops")

BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```$(?:\n+^```text(?P<title>[^\n]*)\n(?P<output>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
WITH_PYTHON = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]


def name_of(page):
    return page.relative_to(ROOT).as_posix()


# --- the Python of the pages ------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_the_python_of_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A module of its own, so that classes defined there can be found again.
    namespace = {"__name__": "page"}
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        line = text[: found.start()].count("\n") + 1
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            code = "\n" * line + found["code"]  # so that errors name the page's lines
            exec(compile(code, str(page), "exec"), namespace)
        if found["output"] is not None:
            varies = "Numbers vary" in found["title"]
            expected, got = (comparable(t, varies) for t in (found["output"], printed.getvalue()))
            assert got == expected, f"{name_of(page)}, line {line}:\n{printed.getvalue()}"


def comparable(text, varies):
    lines = [line.rstrip() for line in text.strip().splitlines()]
    if not varies:
        return lines
    return [re.sub(r"\s+", " ", re.sub(r"[-+]?\d+(\.\d+)?", "#", line)).strip() for line in lines]


def test_the_tutorials_run():
    assert {page.parent.name for page in WITH_PYTHON} >= {"docs", "tutorials"}
    assert set((DOCS / "tutorials").glob("*.md")) <= set(WITH_PYTHON)


# --- what the pages name ----------------------------------------------------------------------


def without_code(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", READ, ids=name_of)
def test_every_file_that_a_page_links_to_is_there(page):
    text = without_code(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "#")):
            continue
        path = page.parent / target.partition("#")[0]
        assert path.exists(), target
        assert path.resolve().is_relative_to(ROOT), target


@pytest.mark.parametrize("page", READ, ids=name_of)
def test_every_make_target_that_a_page_names_is_there(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?<![\w-])make ([a-z][\w-]*)", commands(page)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("page", READ, ids=name_of)
def test_every_command_that_a_page_names_is_there(page):
    group = typer.main.get_command(cli.app)
    for line in re.findall(r"(?:^|`)sparselth ([a-z][^`\n#]*)", commands(page), re.MULTILINE):
        name, *arguments = line.split()
        assert name in group.commands, line
        options = {o for p in group.commands[name].params for o in p.opts} | {"--help"}
        for option in (a for a in arguments if a.startswith("--")):
            assert option in options, line


def commands(page):
    """Return what a page has as code, in lines and in blocks of shell."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return "\n".join([*blocks, *(f"`{code}`" for code in re.findall(r"`([^`\n]+)`", text))])


@pytest.mark.parametrize("page", READ, ids=name_of)
def test_every_name_of_the_package_that_a_page_says_is_there(page):
    for path in re.findall(r"(?<![\w.])sl((?:\.\w+)+)", page.read_text(encoding="utf-8")):
        thing = sl
        for part in path.split(".")[1:]:
            assert hasattr(thing, part), f"sl{path}"
            thing = getattr(thing, part)


def test_every_method_that_goes_by_a_name_is_described():
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    rules = [name for name in pruning.ALLOCATIONS if name != "given"]  # a mapping
    for name in (*pruning.SCORES, *pruning.PATTERNS, *pruning.SCHEDULES, *rules):
        assert f"`{name}`" in text or f'`"{name}"`' in text, name


def test_the_readme_has_no_figures_of_its_own():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| ")]
    assert rows
    assert set(rows) <= set((DOCS / "performance.md").read_text().splitlines())


# --- the site ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does: every warning is an error."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed; make setup does so")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


class Found(html.parser.HTMLParser):
    """What a page of the site defines, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.loads, self.links = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids.add(given.get("id"))
        if tag == "a":
            self.links.add(given.get("href"))
        elif tag == "link" and given.get("rel") in ("canonical", "prev", "next"):
            pass
        else:
            self.loads |= {given[name] for name in ("src", "href") if given.get(name)}


def test_a_site_loads_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        if "repository" not in page.parts:
            outside = {url for url in Found(page).loads if re.match(r"(https?:)?//", url)}
            assert not outside, page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_every_page_is_in_the_navigation(site):
    links = Found(site / "index.html").links
    for page in PAGES:
        target = page.relative_to(DOCS).with_suffix(".html").as_posix()
        assert target in links or target == "index.html", target


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_is_documented(site, room):
    ids = Found(site / "reference" / f"{room}.html").ids
    module = importlib.import_module(f"sparselth.{room}")
    for name in module.__all__:
        path = f"sparselth.{room}.{name}"
        hides_a_file = path in sys.modules and sys.modules[path] is not getattr(module, name)
        assert (f"{path}.{name}" if hides_a_file else path) in ids


def test_every_op_is_documented(site):
    ids = Found(site / "reference" / "contract.html").ids
    assert set(ALL_SCHEMAS) <= set(ids)


def test_every_public_name_of_the_top_level_is_documented(site):
    page = Found(site / "reference" / "sparselth.html")
    for name in sl.__all__:
        if name in ROOMS:
            target = f"{name}.html"
            assert any(link and link.partition("#")[0] == target for link in page.links)
        else:
            shown = f"sparselth.{name}" in page.ids
            assert shown or any(link and link.endswith(f".{name}") for link in page.links), name


# --- how docstrings are shown -----------------------------------------------------------------


@pytest.fixture
def as_markdown(monkeypatch):
    pytest.importorskip("griffe")
    monkeypatch.syspath_prepend(DOCS / "hooks")
    return importlib.import_module("docstrings").as_markdown


def test_arguments_become_a_list(as_markdown):
    text = "Do it.\n\nx, y (m): (N, C), one\nor\n    more.  k: a count.\nReturns z.\n\nRaises E."
    assert as_markdown(text) == (
        "Do it.\n\n- `x`, `y` (m): (N, C), one or more.\n- `k`: a count.\n\nReturns z.\n\nRaises E."
    )


def test_code_and_formulas_become_blocks(as_markdown):
    text = "Do it.\n\n    y = f(x)\n\nBut:\n    Z <- W + U\nfollows."
    assert as_markdown(text) == (
        "Do it.\n\n```python\ny = f(x)\n```\n\nBut:\n\n```text\nZ <- W + U\n```\n\nfollows."
    )


def test_signs_of_markdown_are_shown(as_markdown):
    assert as_markdown('"*.a", _b, [x] < y, `a*b`') == r'"\*.a", \_b, \[x\] &lt; y, `a*b`'


def test_names_are_links(as_markdown):
    assert as_markdown("See `f`, `g`.", {"f": "a.f"}) == "See [`f`][a.f], `g`."


def test_hooks_are_python_of_the_oldest_version():
    for path in (DOCS / "hooks").glob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
