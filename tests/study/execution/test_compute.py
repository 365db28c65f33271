"""Each cell is what a loop written by hand computes."""

import dataclasses

import pytest
import torch
from support.by_hand import CPU, DENSE, RATE, cell, network, same, trained

import sparselth as sl
from sparselth import models, study
from sparselth.pruning.flops import multiplications
from sparselth.study.execution import cost
from sparselth.study.execution.compute import Work
from sparselth.study.plan.cells import MASKS


def theta_k(config, digits):
    """Train by hand for the first epoch, at its learning rate."""
    recipe = config.recipe(RATE, 0, "pretrain")
    assert recipe.learning_rate_at(0) == recipe.learning_rate_at(1) == RATE
    model = network(study.initial_weights(config, digits, seed=0))
    return trained(model, digits, dataclasses.replace(recipe, epochs=1, milestones=()))


def test_theta_k_is_what_k_epochs_leave(work, config, digits):
    assert same(work.theta_k(DENSE), theta_k(config, digits))
    assert not same(work.theta_k(DENSE), work.trained(DENSE))


def starts_and_recipes(work, digits):
    """Write down what each protocol starts from and how it trains."""
    config, masks = work.config, work.masks(cell(MASKS))
    shared = config.recipe(RATE, 0)
    rates = [shared.learning_rate_at(epoch) for epoch in range(3)]
    theta_0 = study.initial_weights(config, digits, 0)
    theta_T = work.trained(DENSE)
    scratch = study.initial_weights(config, digits, 0, "theta_scratch")
    image = torch.zeros(1, *digits.train_images.shape[1:])
    saving = cost.saving(multiplications(network(theta_T), image), masks)
    assert 1.5 < saving < 1.8
    tail = dataclasses.replace(shared, epochs=2, learning_rate=rates[1], milestones=(0.5, 0.5))
    small = dataclasses.replace(shared, learning_rate=rates[2], milestones=())
    return {
        "ticket": (theta_0, shared),
        "rewind": (theta_k(config, digits), shared),
        "lr-rewind": (theta_T, tail),
        "small-lr": (theta_T, small),
        "scratch-e": (scratch, shared),
        "scratch-b": (scratch, dataclasses.replace(shared, epochs=5)),
    }


@pytest.mark.parametrize(
    "protocol", ["ticket", "rewind", "lr-rewind", "small-lr", "scratch-e", "scratch-b"]
)
def test_a_loop_by_hand_gives_the_same_weights(work, digits, protocol):
    work.compute(cell(protocol))
    weights, recipe = starts_and_recipes(work, digits)[protocol]
    by_hand = trained(network(weights), digits, recipe, work.masks(cell(MASKS)))
    assert same(work.trained(cell(protocol)), by_hand)
    assert len(work.history(cell(protocol))) == recipe.epochs


def test_shuffled_it_starts_from_the_same_values_at_other_places(work, digits):
    masks = work.masks(cell(MASKS))
    theta_0 = study.initial_weights(work.config, digits, 0)
    start = work.start(cell("shuffle"), masks)
    for name, tensor in theta_0.items():
        mask = masks.get(name)
        if mask is None:
            assert torch.equal(start[name], tensor), name
        else:
            assert not torch.equal(start[name][mask], tensor[mask]), name
            assert torch.equal(start[name][mask].sort().values, tensor[mask].sort().values), name
    work.compute(cell("shuffle"))
    by_hand = trained(network(start), digits, work.config.recipe(RATE, 0), masks)
    assert same(work.trained(cell("shuffle")), by_hand)


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_the_small_dense_network_has_the_parameters_that_a_mask_leaves(tiny, tmp_path, sparsity):
    config = dataclasses.replace(tiny, width=1.0, train_limit=16, test_limit=16, epochs=1)
    work = Work(config, tmp_path, CPU)
    small = cell("small-dense", "", sparsity)
    work.compute(small)
    weights = work.trained(small)
    whole = models.build("resnet20", in_channels=1)
    count = sum(weights[name].numel() for name, _ in whole.named_parameters())
    masks = sl.find_masks(whole, sparsity=sparsity)
    pruned = sum(int((~mask).sum()) for mask in masks.values())
    assert 0.98 < count / (cost.parameters(whole) - pruned) <= 1.0001
    assert work.trace(small) == []
    assert len(work.history(small)) == 1


def test_the_trace_of_a_cell_is_of_the_weights_it_started_from(work, digits):
    work.compute(cell("ticket"))
    masks, theta_0 = work.masks(cell(MASKS)), study.initial_weights(work.config, digits, 0)
    for place, start, shared in ((DENSE, theta_0, None), (cell("ticket"), theta_0, masks)):
        end = work.trained(place)
        first, second = ({name: w[name] for name in masks} for w in (start, end))
        rows = work.trace(place)
        assert [row["epoch"] for row in rows] == [1, 2, 3]
        assert rows[-1]["overlaps"] == sl.weight_overlap(
            first, second, [0.1, 0.2, 0.3, 0.4, 0.5], shared
        )
