"""The configuration: presets, text from flags and YAML, and what is refused."""

import pytest

from sparselth import SparselthError
from sparselth.settings import read_yaml
from sparselth.study import PRESETS, StudyConfig, preset


def test_the_paper_preset_has_the_papers_settings():
    config = preset("paper")
    recipe = config.recipe(0.1, seed=0)
    assert config.learning_rates == (0.01, 0.1)
    assert (recipe.epochs, recipe.batch_size, recipe.momentum) == (150, 128, 0.9)
    assert [recipe.learning_rate_at(e) for e in (79, 80, 120)] == pytest.approx([0.1, 0.01, 0.001])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_compare_the_three_protocols(name):
    assert set(preset(name).protocols) == {"ticket", "reinit", "finetune"}


def test_all_protocols_train_alike_and_pretraining_sees_another_order():
    config = StudyConfig()
    assert config.recipe(0.1, 0).epochs == config.recipe(0.1, 0, "pretrain").epochs
    assert config.recipe(0.1, 0).seed != config.recipe(0.1, 0, "pretrain").seed
    assert config.recipe(0.1, 0).seed != config.recipe(0.1, 1).seed


def test_text_becomes_settings():
    config = StudyConfig().changed(
        {"learning_rates": "0.1, 0.2", "epochs": "7", "augment": "false", "seeds": 3, "width": 1}
    )
    assert config.learning_rates == (0.1, 0.2)
    assert (config.epochs, config.augment, config.seeds, config.width) == (7, False, (3,), 1.0)


def test_yaml(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("epochs: 3\nsparsities: [0.5, 0.9]\nweight_decay: 5e-4\ngenerators: admm\n")
    config = preset("demo").changed(read_yaml(file))
    assert (config.epochs, config.sparsities) == (3, (0.5, 0.9))
    assert (config.weight_decay, config.generators) == (5e-4, ("admm",))


@pytest.mark.parametrize("text", ["- 1\n", "just text", "a: [1", "", "\x00"])
def test_yaml_that_is_none(tmp_path, text):
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(SparselthError, match=r"study\.yaml"):
        read_yaml(file)
    with pytest.raises(SparselthError, match="cannot be read"):
        read_yaml(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"zzz": 3}, "known: model, width"),
        ({"epochs": 2.5}, "epochs got 2.5, expected a whole number"),
        ({"epochs": True}, "expected a whole number"),
        ({"epochs": "many"}, "expected a whole number"),
        ({"epochs": [3]}, "expected a whole number"),
        ({"augment": "perhaps"}, "expected true or false"),
        ({"learning_rates": "fast"}, "expected a number"),
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rates": []}, "at least one"),
        ({"sparsities": [0.9, 0.9]}, "each only once"),
        ({"sparsities": [1.0]}, "below 1"),
        ({"sparsities": [0.0]}, "above 0"),
        ({"learning_rates": [-0.1]}, "above 0"),
        ({"model": "lenet"}, "resnet20, resnet32"),
        ({"data": "svhn"}, "mnist5k"),
        ({"generators": ["imp"]}, "admm, magnitude"),
        ({"protocols": ["rewind"]}, "finetune, reinit, ticket"),
        ({"allocation": "erk"}, "uniform"),
        ({"choice": "fastest"}, "fixed, measured"),
        ({"admm_update_every": 100}, "never project"),
        ({"timing_rounds": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_words(change, says):
    with pytest.raises(SparselthError, match=says):
        StudyConfig().changed(change)


def test_kernels_are_chosen_by_the_fixed_table_unless_asked():
    config = StudyConfig()
    assert config.recipe(0.1, seed=0).choice == config.admm_recipe(seed=0).choice == "fixed"
    measured = config.changed({"choice": "measured"})
    assert measured.recipe(0.1, 0).choice == measured.admm_recipe(0).choice == "measured"


def test_unknown_preset():
    with pytest.raises(SparselthError, match="demo, paper, smoke"):
        preset("quick")
