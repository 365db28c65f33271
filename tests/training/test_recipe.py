"""The recipe: the paper's schedule, and numbers that no training can have."""

import pytest

from sparselth import SparselthError
from sparselth.training import Recipe


def test_the_schedule_is_that_of_the_paper():
    rates = [Recipe().learning_rate_at(epoch) for epoch in range(150)]
    assert rates[:80] == [0.1] * 80
    assert rates[80:120] == pytest.approx([0.01] * 40)
    assert rates[120:] == pytest.approx([0.001] * 30)


def test_the_schedule_scales_with_the_length():
    rates = [Recipe(epochs=15, learning_rate=1.0).learning_rate_at(epoch) for epoch in range(15)]
    assert rates == pytest.approx([1.0] * 8 + [0.1] * 4 + [0.01] * 3)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"momentum": 1.0},
        {"weight_decay": -1e-4},
        {"milestones": (80, 120)},
        {"choice": "fastest"},
        {"choice": 5},
        {"optimizer": None},
        {"weight_decay": float("nan")},
        {"gamma": "a"},
        {"milestones": 0.5},
        {"milestones": ("a",)},
        {"augment": "no"},
        {"nesterov": True, "momentum": 0.0},
    ],
)
def test_bad_numbers_are_named(change):
    with pytest.raises(SparselthError, match=next(iter(change))):
        Recipe(**change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimizer": "adam"}, r"optimizer.*'adam'.*adamw"),
        ({"precision": "float16"}, r"precision.*'float16'.*fp16"),
        ({"step": "graphed"}, r"step.*'graphed'.*graph"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"accumulate": 9, "batch_size": 8}, "accumulate=9 parts of a batch of 8"),
        ({"evaluate_every": 0}, "evaluate_every=0"),
        ({"step": "graph", "precision": "fp16"}, "a graph holds SGD in fp32 or bf16"),
        ({"step": "graph", "optimizer": "adamw"}, "a graph holds SGD in fp32 or bf16"),
    ],
)
def test_bad_choices_are_named(change, said):
    with pytest.raises(SparselthError, match=said):
        Recipe(**change)


def test_a_yaml_file_changes_what_it_names(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("epochs: 3\nlearning_rate: 1e-2\nmilestones: [0.5]\noptimizer: adamw\n")
    recipe = Recipe.from_yaml(path)
    expected = {"epochs": 3, "learning_rate": 0.01, "milestones": (0.5,), "optimizer": "adamw"}
    assert recipe == Recipe(**expected)
    assert Recipe().changed(recipe.to_dict()) == recipe


def test_a_yaml_file_with_an_unknown_key_is_told_the_nearest(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("epoch: 3\n")
    with pytest.raises(SparselthError, match=r"epoch.*epochs"):
        Recipe.from_yaml(path)


def test_evaluations_end_with_the_last_epoch():
    recipe = Recipe(epochs=5, evaluate_every=2)
    assert [epoch for epoch in range(5) if recipe.evaluates(epoch)] == [1, 3, 4]
