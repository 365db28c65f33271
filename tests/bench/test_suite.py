"""`sparselth bench`: its cases run, their rows are those of a result file, and bad input."""

import pytest
import torch

import sparselth as sl
from sparselth.bench import BENCHES, Case, cases, measure
from sparselth.bench.console import contention, tables
from sparselth.bench.ratios import Ratio

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", BENCHES)
def test_every_candidate_of_every_case_runs(name):
    found = cases(name, sparsities=[0.9])
    assert found
    assert len({(case.op, case.problem) for case in found}) == len(found)
    for case in found[::2] if name == "conv" else found:
        made = case.candidates()
        for ratio in case.ratios:
            assert ratio.over.startswith("a device copy") or set(ratio.theirs) & set(made)
            assert set(ratio.ours) <= set(made)
        for call in made.values():
            call()


def test_a_case_per_sparsity_from_low_to_high():
    assert [case.sparsity for case in cases("step")] == list(BENCHES["step"].sparsities)
    assert [case.sparsity for case in cases("step", sparsities=[0.9, 0.5, 0.9])] == [0.5, 0.9]


def case(sparsity=0.9, problem="small"):
    x = torch.ones(10)
    ratios = (Ratio("dense", ("dense",)), Ratio("nothing that is here", ("other",)))
    calls = {"sparse": lambda: x + x, "dense": lambda: [x + x for _ in range(50)]}
    return Case("addition", problem, sparsity, ratios, lambda: calls)


def test_a_row_is_that_of_a_result_file():
    row = measure(case(), seconds=0.01)
    assert row["op"] == "addition"
    assert (row["problem"], row["sparsity"], row["device"], row["unit"]) == (
        "small",
        0.9,
        "cpu",
        "ms",
    )
    assert row["threads"] == torch.get_num_threads()
    assert set(row["values"]) == {"sparse", "dense"}
    assert list(row["ratios"]) == ["dense"]
    assert row["speedup"] == row["ratios"]["dense"]["ratio"] > 1


def row(sparsity, ratio):
    ratios = {"dense": {"ratio": ratio, "ours": 2.0, "theirs": 2.0 * ratio}}
    return {"op": "op", "problem": "one", "sparsity": sparsity, "ratios": ratios}


@pytest.mark.parametrize(
    ("ratios", "even"),
    [((0.5, 2.0, 4.0), "78 %"), ((0.5, 0.6, 0.7), "never"), ((1.5, 2.0, 4.0), "below")],
)
def test_the_table_says_where_sparse_begins_to_win(ratios, even):
    (table,) = tables([row(s, r) for s, r in zip((0.5, 0.9, 0.95), ratios, strict=True)])
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells[:2] == ["one", "dense"]
    assert cells[2] == f"{ratios[0]:.2f} (2 / {2 * ratios[0]:.3g})"
    assert cells[-1] == even


def test_two_sparsities_have_no_break_even():
    (table,) = tables([row(0.5, 0.5), row(0.9, 2.0)])
    assert len(table.columns) == 4


def test_contention_is_said():
    assert contention({"cores": 8, "load": 1.0}, 4) == ""
    assert "keep 3 of 4 cores busy, and this computes on 4" in contention(
        {"cores": 4, "load": 3.0}, 4
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "convs",
            {},
            "unknown benchmark 'convs'; did you mean 'conv'",
        ),
        ("conv", {"sparsities": [1.0]}, r"in \[0, 1\); got 1.0"),
        ("conv", {"sparsities": ["a"]}, "got 'a'"),
        ("step", {"device": "nowhere"}, "device must be one that torch knows"),
    ],
)
def test_bad_input_is_one_clear_sentence(name, options, message):
    with pytest.raises(sl.SparselthError, match=message):
        cases(name, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_measures_lists_only():
    assert {case.device for case in cases("projection", device="cuda")} == {"cuda"}
    with pytest.raises(sl.SparselthError, match="measures kernels of the CPU"):
        cases("conv", device="cuda")
