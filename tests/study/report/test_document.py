"""The report: self-contained, the same from the summary alone, and fine in a real browser."""

import csv
import io
import json
import re
import shutil

import pytest
from rich.console import Console

from sparselth import study
from sparselth.study.report import print_report, write_report
from sparselth.study.report.plots_overlap import overlaps

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "run"
    config = tiny.changed({"seeds": [0, 1], "learning_rates": [0.01, 0.1], "sparsities": [0.7]})
    return folder, study.run(config, folder, device="cpu")


def test_the_page_needs_nothing_beside_it(done):
    folder, _ = done
    page = (folder / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) > 10
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "<script" not in page
    assert "@import" not in page


def test_markdown_has_its_pictures_and_whole_tables(done):
    folder, summary = done
    text = (folder / "report.md").read_text()
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert {p.removeprefix("plots/") for p in pictures} == {
        p.name for p in (folder / "plots").iterdir()
    }
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    for claim in summary["claims"]:
        assert claim["verdict"] in text


def test_it_follows_from_the_summary_alone(done, tmp_path):
    folder, _ = done
    write_report(json.loads((folder / "summary.json").read_text()), tmp_path)
    for path in tmp_path.rglob("*.*"):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path.name
    assert (tmp_path / "report.html").is_file()


def test_tables_are_those_of_the_summary(done):
    folder, summary = done
    with (folder / "differences.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["mean"]) for r in rows] == [r["mean"] for r in summary["differences"]]
    with (folder / "cost.csv").open() as file:
        kinds = {r["kind"] for r in csv.DictReader(file)}
    assert kinds == {"dense", "masks", "ticket", "reinit", "finetune"}


def test_what_a_study_lacks_is_left_out(done, tmp_path):
    _, summary = done
    lacking = ("overlaps", "layer_overlaps", "traces", "timing", "masks", "differences", "cells")
    write_report({**summary, **{name: [] for name in lacking}}, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Weight correlation" in page
    assert "Masks" not in page


def test_failures_are_told_and_text_stays_text(done, tmp_path):
    _, summary = done
    error = "loss is <b>nan</b> |\n at step 3"
    failure = {"label": "vgg11, dense", "error": error, "tried": True}
    changed = {**summary, "failures": [failure]}
    write_report(changed, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "loss is &lt;b&gt;nan&lt;/b&gt; |\n at step 3" in page
    assert r"<b>nan</b> \| at step 3" in (tmp_path / "report.md").read_text()
    text = io.StringIO()
    print_report(changed, tmp_path, Console(file=text, width=120))
    assert "FAILED vgg11, dense: loss is <b>nan</b>" in text.getvalue()


def test_plots_of_before_are_gone(done, tmp_path):
    _, summary = done
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots/overlap-dense-of-before.svg").write_text("<svg/>")
    write_report(summary, tmp_path)
    assert not (tmp_path / "plots/overlap-dense-of-before.svg").exists()


def test_what_a_protocol_has_of_its_own_is_told(done, tmp_path):
    _, summary = done
    config = {**summary["config"], "recipes": {"finetune": {"weight_decay": 0.5}}}
    small = {"model": "vgg11", "data": "mnist5k", "sparsity": 0.7}
    small |= {"parameters": 1980, "masked_parameters": 2000}
    write_report({**summary, "config": config, "small_dense": [small]}, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "for the same epochs on the same schedule, with weight\\_decay 0.5 |" in text
    assert "| vgg11 | mnist5k | 70 % | 1,980 | 2,000 | 0.990 |" in text


def test_masks_of_admm_that_had_not_converged_are_marked(done, tmp_path):
    _, summary = done
    masks = [{**mask, "relative_residual": 0.051} for mask in summary["masks"]]
    write_report({**summary, "masks": masks[:1]}, tmp_path)
    assert "0.051, not converged |" in (tmp_path / "report.md").read_text()
    write_report({**summary, "masks": [{**masks[0], "relative_residual": 0.05}]}, tmp_path)
    assert "0.050 |" in (tmp_path / "report.md").read_text()


def test_several_settings_have_plots_and_tables_of_their_own(done, tmp_path):
    _, summary = done
    config = {**summary["config"], "models": ["resnet20", "my.nets:make"]}
    other = [{**cell, "model": "my.nets:make"} for cell in summary["cells"]]
    both = {**summary, "config": config, "cells": [*summary["cells"], *other]}
    write_report(both, tmp_path)
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert "accuracy-magnitude-lr0.1-resnet20-mnist5k.svg" in names
    assert "accuracy-magnitude-lr0.1-my.nets.make-mnist5k.svg" in names
    assert "my.nets:make on mnist5k" in (tmp_path / "report.html").read_text()


def test_any_number_of_learning_rates_has_plots(done, tmp_path):
    _, summary = done
    rates = [round(0.01 * i, 2) for i in range(1, 13)]
    write_report({**summary, "config": {**summary["config"], "learning_rates": rates}}, tmp_path)
    assert (tmp_path / "report.html").is_file()


def band_of(summary, name):
    """Return the corners of the shaded band of a plot."""
    setting = {"model": "resnet20", "data": "mnist5k"}
    (figure,) = [figure for found, _, figure in overlaps(summary, setting) if found == name]
    (band,) = figure.axes[0].collections
    return [path.vertices for path in band.get_paths()]


def test_the_band_of_chance_is_of_the_plots_own_network(done):
    _, summary = done
    other = [{**row, "model": "vgg11", "chance_sd": 9.0} for row in summary["overlaps"]]
    both = {**summary, "overlaps": [*summary["overlaps"], *other]}
    for name in ("overlap-dense", "overlap-training", "overlap-starts-magnitude-lr0.1"):
        (alone,), (beside,) = band_of(summary, name), band_of(both, name)
        assert (alone == beside).all()


def test_the_band_of_chance_has_a_gap_where_a_sparsity_failed(done):
    _, summary = done
    config = {**summary["config"], "sparsities": [0.5, 0.7, 0.9]}
    (kept,) = [s for s in {row["sparsity"] for row in summary["overlaps"]} if s]
    assert kept == 0.7
    also = [{**row, "sparsity": 0.9} for row in summary["overlaps"] if row["sparsity"] == 0.7]
    failed = {**summary, "config": config, "overlaps": [*summary["overlaps"], *also]}
    (corners,) = band_of(failed, "overlap-starts-magnitude-lr0.1")
    assert corners[:, 0].min() == 1.0  # nothing above the first place


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
def test_in_a_browser(done, width, height):
    sync_api = pytest.importorskip("playwright.sync_api")
    folder, _ = done
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
        page = context.new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("requestfailed", lambda request: said.append(request.url[:80]))
        page.on("request", lambda request: asked.append(request.url.split(":")[0]))
        page.goto((folder / "report.html").as_uri())
        broken = page.evaluate(
            "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
        )
        images = page.evaluate("document.images.length")
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        narrow = page.evaluate("Math.min(...[...document.images].map(i => i.width))")
        page.click("nav a:last-of-type")
        reached = page.evaluate("document.querySelector(':target').textContent")
        browser.close()
    assert said == []
    assert set(asked) <= {"file", "data"}
    assert (broken, images > 8, overflow) == ([], True, 0)
    assert narrow > 300  # wide enough to read
    assert reached == "Configuration and environment"
