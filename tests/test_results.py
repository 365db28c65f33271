"""What is written about the studies under results/ is what they measured."""

import json
import re
from pathlib import Path

import pytest

RESULTS = Path(__file__).parent.parent / "results"
PAGE = RESULTS / "README.md"
STUDIES = sorted(path.parent for path in RESULTS.glob("*/summary.json"))


def test_there_are_studies():
    assert STUDIES


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_each_claim_stands_beside_what_was_measured(study):
    page = PAGE.read_text()
    for claim in json.loads((study / "summary.json").read_text())["claims"]:
        row = [f"({claim['letter']})", *(claim[k] for k in ("statement", "verdict", "measured"))]
        assert f"| {' | '.join(row)} | " in page  # and a reason follows


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_no_part_failed(study):
    assert json.loads((study / "summary.json").read_text())["failures"] == []


def test_every_file_it_shows_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGE.read_text()):
        assert (RESULTS / target).exists(), target
