"""What each protocol may have of its own, and what all of them share."""

import dataclasses

import pytest

from sparselth import SparselthError
from sparselth.study import StudyConfig


def test_all_protocols_train_alike_and_pretraining_sees_another_order():
    config = StudyConfig()
    assert config.recipe(0.1, 0).epochs == config.recipe(0.1, 0, "pretrain").epochs
    assert config.recipe(0.1, 0).seed != config.recipe(0.1, 0, "pretrain").seed
    assert config.recipe(0.1, 0).seed != config.recipe(0.1, 1).seed
    for protocol in config.protocols:
        assert config.protocol_recipe(protocol, 0.1, 0, saving=7.0) == config.recipe(0.1, 0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"epochs": 15},
            "finetune would train for 15 epochs at learning rates 0.01, 0.001, 0.0001",
        ),
        ({"learning_rate": 0.5}, "150 epochs at learning rates 0.5, 0.05, 0.005, while the others"),
        ({"gamma": 0.2}, "150 epochs at learning rates 0.01, 0.002, 0.0004"),
        ({"milestones": []}, "would train for 150 epochs at learning rates 0.01, while"),
    ],
)
def test_a_recipe_of_other_epochs_or_rates_is_refused_with_both_schedules(changes, says):
    with pytest.raises(SparselthError, match=says) as refused:
        StudyConfig().changed({"recipes": {"finetune": changes}})
    assert "train for 150 epochs at learning rates 0.01, 0.001, 0.0001; protocols are" in str(
        refused.value
    )


@pytest.mark.parametrize(
    ("recipes", "says"),
    [
        ({"finetune": {"weight_decy": 0}}, "finetune has no setting 'weight_decy'; did you mean"),
        ({"finetune": {"seed": 1}}, "the seed of finetune; the seeds of a study are its own"),
        ({"finetune": {"evaluate_every": 2}}, "evaluate_every of finetune"),
        ({"finetune": {"batch_size": 4}}, "batch_size of finetune; protocols are compared after"),
        ({"ticket": {"augment": False}}, "augment of ticket; protocols are compared on the same"),
        ({"finetune": {"momentum": 2}}, "momentum must be in"),
        ({"rewind": {"weight_decay": 0}}, "none of this study's protocols: ticket, reinit"),
    ],
)
def test_recipes_change_what_they_may_of_the_protocols_there_are(recipes, says):
    with pytest.raises(SparselthError, match=says):
        StudyConfig().changed({"recipes": recipes})


def test_settings_beside_the_schedule_are_a_protocols_own():
    recipes = {"finetune": {"weight_decay": "0", "momentum": 0.5, "nesterov": True}}
    config = StudyConfig().changed({"recipes": recipes})
    shared = config.recipe(0.1, 0)
    own = config.protocol_recipe("finetune", 0.1, 0, saving=1.0)
    assert own == dataclasses.replace(shared, weight_decay=0.0, momentum=0.5, nesterov=True)
    assert config.protocol_recipe("ticket", 0.1, 0, saving=1.0) == shared


def test_a_protocol_that_differs_anyway_may_differ_more():
    config = StudyConfig(protocols=("ticket", "small-lr"), rewind_epoch=1)
    config = config.changed({"recipes": {"small-lr": {"learning_rate": 0.003, "epochs": 5}}})
    own = config.protocol_recipe("small-lr", 0.1, 0, saving=1.0)
    assert [own.learning_rate_at(e) for e in range(own.epochs)] == [0.003] * 5
