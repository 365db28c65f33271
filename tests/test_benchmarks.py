"""What the benchmarks make of their measurements; nothing is timed here."""

import sys

import plot
import pytest
import report
import sparseprop_baseline
import torch

from sparselth.bench.layers import Layer, conv_problem
from sparselth.bench.ratios import Ratio, evaluate

DENSE = Ratio("dense", ("dense", "dense channels_last"))
OTHER = Ratio("SparseProp", ("SparseProp over batch",))


def recorded(problem: str, sparsity: float, **more) -> dict:
    values = {"sparse": 2.0, "dense": 7.0, "dense channels_last": 5.0}
    return {
        "op": "masked_conv2d",
        "device": "cpu",
        "problem": problem,
        "sparsity": sparsity,
        "unit": "ms",
        "ratios": evaluate(values | more.pop("values", {}), (DENSE, OTHER)),
        **more,
    }


def test_the_best_of_theirs_counts():
    values = {"a": 4.0, "b": 3.0, "dense": 7.0, "dense channels_last": 6.0}
    found = evaluate(values, (Ratio("dense", DENSE.theirs, ours=("a", "b")), OTHER))
    assert found == {"dense": {"ratio": 2.0, "ours": 3.0, "theirs": 6.0}}


def test_the_report_has_a_table_per_ratio_and_says_what_is_missing():
    rows = [
        recorded("N1", 0.9, values={"SparseProp over batch": 3.0}),
        recorded("N1", 0.5),
        recorded("N2", 0.5, left_out={"SparseProp": "has no groups"}),
    ]
    assert report.table(rows).splitlines() == [
        "### masked_conv2d (cpu)",
        "",
        "× dense:",
        "",
        "| problem | 50 % | 90 % |",
        "|---|---:|---:|",
        "| N1 | 2.50× (2.00 / 5.00 ms) | 2.50× (2.00 / 5.00 ms) |",
        "| N2 | 2.50× (2.00 / 5.00 ms) |  |",
        "",
        "× SparseProp:",
        "",
        "| problem | 90 % |",
        "|---|---:|",
        "| N1 | 1.50× (2.00 / 3.00 ms) |",
        "",
        "### Not measured",
        "",
        "- SparseProp: has no groups (N2)",
    ]


def test_sparseprop_is_skipped_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sparseprop", None)
    steps, reason = sparseprop_baseline.candidates(conv_problem(Layer(2, 4, 5), 0.5))
    assert not steps
    assert reason.startswith("cannot be imported: ")


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Layer(2, 4, 5, groups=4), "has no groups"),
        (Layer(2, 4, 7, stride=3), "has strides 1 and 2 only"),
    ],
    ids=str,
)
def test_sparseprop_is_skipped_where_it_cannot_compute(layer, reason):
    assert sparseprop_baseline.candidates(conv_problem(layer, 0.5)) == ({}, reason)


@pytest.mark.parametrize("layer", [Layer(8, 8, 6), Layer(8, 8, 6, stride=2)], ids=str)
def test_sparseprop_agrees_with_dense(layer):
    pytest.importorskip("sparseprop.modules")
    steps, reason = sparseprop_baseline.candidates(conv_problem(layer, 0.8))
    assert reason == ""
    assert len(steps) == 2


def test_wrong_results_are_noticed():
    right = (torch.ones(3), torch.ones(4))
    assert sparseprop_baseline.agrees(right, right)
    assert not sparseprop_baseline.agrees((right[0], right[1] + 1e-3), right)
    assert not sparseprop_baseline.agrees((right[0], torch.ones(5)), right)


def test_the_break_even_lies_between_the_last_loss_and_the_next_point():
    points = [(0.5, 0.5), (0.9, 2.0), (0.99, 8.0)]
    middle = (plot.position(0.5) + plot.position(0.9)) / 2
    assert plot.break_even(points) == pytest.approx(middle)
    assert plot.break_even(points[1:]) is None
    assert plot.break_even([(0.0, 0.98), (0.9, 2.0)]) is None
    assert plot.break_even([(0.5, 0.5), (0.9, 0.9)]) is None
