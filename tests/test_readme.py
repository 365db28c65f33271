"""Every Python block of the README runs, and every command it names exists."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_block_runs(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[number], f"README.md, block {number + 1}", "exec"), {})
    assert capsys.readouterr().out.strip(), "a block shows something"


def test_there_are_blocks():
    assert BLOCKS


def test_every_file_it_shows_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target


def test_every_make_target_it_names_is_there():
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"\bmake (\w+)", README.read_text()):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
