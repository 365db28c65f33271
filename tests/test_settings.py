"""Settings from a file: YAML as a study reads it, and what is none."""

import pytest

from sparselth import SparselthError
from sparselth.settings import read_yaml
from sparselth.study import preset


def test_yaml(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(
        "epochs: 3\nsparsities: [0.5, 0.9]\nweight_decay: 5e-4\ngenerators: admm\n"
        "thresholds:\n  gap: 1\n  similar_on: {mnist5k: 2}\n"
        "recipes:\n  finetune: {weight_decay: 1e-3}\n"
    )
    config = preset("demo").changed(read_yaml(file))
    assert (config.epochs, config.sparsities) == (3, (0.5, 0.9))
    assert (config.weight_decay, config.generators) == (5e-4, ("admm",))
    assert (config.thresholds.gap, config.thresholds.similar) == (1.0, 0.5)
    assert config.thresholds.similar_for("mnist5k") == 2.0
    assert config.thresholds.similar_for("cifar100") == 1.0  # as without
    assert config.protocol_recipe("finetune", 0.1, 0, 1.0).weight_decay == 1e-3
    assert config.protocol_recipe("ticket", 0.1, 0, 1.0).weight_decay == 5e-4


def test_yaml_may_take_settings_over_and_give_them_anew(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(
        "recipes:\n  ticket: &own {momentum: 0.5, weight_decay: 0.1}\n"
        "  finetune: {<<: *own, momentum: 0.8}\n"
    )
    assert read_yaml(file)["recipes"]["finetune"] == {"momentum": 0.8, "weight_decay": 0.1}


@pytest.mark.parametrize("text", ["- 1\n", "just text", "a: [1", "", "\x00", "a: 1\nb: 2\na: 3\n"])
def test_yaml_that_is_none(tmp_path, text):
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(SparselthError, match=r"study\.yaml"):
        read_yaml(file)
    with pytest.raises(SparselthError, match="cannot be read"):
        read_yaml(tmp_path / "missing.yaml")
