"""Masks of a study: each generator against its own words, and what is pruned where asked."""

import shutil

import pytest
import torch
from support.by_hand import DENSE, RATE, SPARSITY, cell, network, same, trained

import sparselth as sl
from sparselth import SparselthError, study
from sparselth.study.plan.cells import MASKS


@pytest.mark.parametrize("reset", ["theta_0", "theta_k", "none"])
def test_rounds_of_imp_by_hand(beginning, digits, reset):
    work = beginning(generators=("imp",), imp_reset=reset)
    for number in (1, 2):
        work.compute(DENSE.imp_round(number, 0.2))
    work.compute(cell(MASKS, "imp"))

    weights = work.trained(DENSE)
    for number in (1, 2):
        masks = sl.find_masks(network(weights), sparsity=1 - 0.8**number)
        if reset == "theta_0":
            weights = study.initial_weights(work.config, digits, 0)
        elif reset == "theta_k":
            weights = work.theta_k(DENSE)
        recipe = work.config.recipe(RATE, 0, f"round {number}")
        weights = trained(network(weights), digits, recipe, masks)
        assert same(work.trained(DENSE.imp_round(number, 0.2)), weights)
    # The third round would reach 0.488: it stops at what was asked for.
    found = work.masks(cell(MASKS, "imp"))
    assert same(found, sl.find_masks(network(weights), sparsity=SPARSITY))
    assert all((masks[name] | ~mask).all() for name, mask in found.items())
    assert not same(found, work.masks(cell(MASKS)))


def test_shuffled_masks_keep_their_counts(beginning):
    work = beginning(generators=("magnitude-shuffled",))
    work.compute(cell(MASKS, "magnitude-shuffled"))
    before, found = work.masks(cell(MASKS)), work.masks(cell(MASKS, "magnitude-shuffled"))
    assert {name: int(m.sum()) for name, m in found.items()} == {
        name: int(m.sum()) for name, m in before.items()
    }
    assert not any(torch.equal(found[name], mask) for name, mask in before.items())


def test_inverted_masks_keep_the_smallest(beginning):
    work = beginning(generators=("magnitude-inverted",))
    work.compute(cell(MASKS, "magnitude-inverted"))
    theta_T, before = work.trained(DENSE), work.masks(cell(MASKS))
    for name, mask in work.masks(cell(MASKS, "magnitude-inverted")).items():
        magnitudes = theta_T[name].abs()
        assert int(mask.sum()) == int(before[name].sum())
        assert magnitudes[mask].max() < magnitudes[~mask].min()


def test_random_masks_follow_from_the_seed_alone(beginning):
    work = beginning(generators=("random",))
    branch = work.folder.path / "checkpoints/resnet20/mnist5k/lr0.05"
    shutil.copytree(branch / "seed0/dense", branch / "seed1/dense")
    state = torch.get_rng_state()
    first = cell(MASKS, "random")
    work.compute(first)
    assert torch.equal(torch.get_rng_state(), state)
    found = work.masks(first)
    assert sl.sparsity(found) == pytest.approx(SPARSITY, abs=0.01)
    torch.manual_seed(7)
    shutil.rmtree(work.folder.checkpoints(first.folder).path)
    work.compute(first)
    assert same(work.masks(first), found)
    for other in (cell(MASKS, "random", seed=1), cell(MASKS, "random", sparsity=0.3)):
        work.compute(other)
        kept = work.masks(other)  # of fewer pruned weights not the same ones and more
        assert not all((kept[name] | ~mask).all() for name, mask in found.items())


@pytest.mark.parametrize(("first", "classifier"), [(True, False), (False, True), (True, True)])
def test_first_layer_and_classifier_are_pruned_where_asked(beginning, first, classifier):
    work = beginning(prune_first=first, prune_classifier=classifier)
    shutil.rmtree(work.folder.checkpoints(cell(MASKS).folder).path)
    work.compute(cell(MASKS))
    found = work.masks(cell(MASKS))
    assert ("stem.weight" in found, "classifier.weight" in found) == (first, classifier)
    assert list(found) == work.prunable(cell(MASKS))
    assert all(not mask.all() for mask in found.values())
    work.compute(cell("ticket"))
    assert [row["epoch"] for row in work.trace(cell("ticket"))] == [1, 2, 3]


@pytest.mark.parametrize("allocation", ["global", "erk"])
def test_other_allocations(beginning, allocation):
    work = beginning(allocation=allocation)
    shutil.rmtree(work.folder.checkpoints(cell(MASKS).folder).path)
    work.compute(cell(MASKS))
    found = work.masks(cell(MASKS))
    theta_T = network(work.trained(DENSE))
    assert same(found, sl.find_masks(theta_T, sparsity=SPARSITY, allocation=allocation))
    assert sl.sparsity(found) == pytest.approx(SPARSITY, abs=0.01)
    assert len({round(mask.float().mean().item(), 2) for mask in found.values()}) > 2


def test_a_mask_that_kills_a_layer_is_an_error(beginning):
    work = beginning(allocation="global")
    with pytest.raises(SparselthError, match="no weight is left in stages"):
        work.compute(cell(MASKS, sparsity=0.99))
    assert work.history(cell(MASKS, sparsity=0.99)) is None


@pytest.mark.parametrize("name", ["snip", "grasp-abs", "synflow", "magnitude-init"])
def test_scores_of_an_initialization_rank_it(beginning, digits, name):
    work = beginning(generators=(name,))
    work.compute(cell(MASKS, name))
    masks = work.masks(cell(MASKS, name))
    assert sl.sparsity(masks) == pytest.approx(SPARSITY, abs=0.01)
    theta_0 = study.initial_weights(work.config, digits, 0)
    if name == "magnitude-init":
        assert same(masks, sl.find_masks(network(theta_0), sparsity=SPARSITY))
    assert not same(masks, work.masks(cell(MASKS)))


@pytest.mark.parametrize("name", ["taylor", "movement"])
def test_scores_of_a_trained_network_rank_that(beginning, digits, name):
    work = beginning(generators=(name,))
    work.compute(cell(MASKS, name))
    masks = work.masks(cell(MASKS, name))
    assert sl.sparsity(masks) == pytest.approx(SPARSITY, abs=0.01)
    if name == "movement":
        theta_0 = study.initial_weights(work.config, digits, 0)
        by_hand = sl.find_masks(
            network(work.trained(DENSE)), score=name, sparsity=SPARSITY, initial=theta_0
        )
        assert same(masks, by_hand)


@pytest.mark.parametrize("name", ["l1", "fpgm", "dropnet", "bn-scale"])
@pytest.mark.parametrize("control", ["", "-shuffled", "-inverted"])
def test_filters_stay_whole_under_every_control(beginning, name, control):
    work = beginning(generators=(name + control,))
    work.compute(cell(MASKS, name))
    if control:
        work.compute(cell(MASKS, name + control))
    base, found = work.masks(cell(MASKS, name)), work.masks(cell(MASKS, name + control))
    for weight, mask in found.items():
        rows = mask.flatten(1)
        assert torch.equal(rows.any(1), rows.all(1)), weight
        assert int(mask.sum()) == int(base[weight].sum())
    # At a sparsity below one half every filter stays under one of both; of two, fpgm takes any.
    if control == "-inverted" and name != "fpgm":
        assert all((base[weight] | mask).all() for weight, mask in found.items())
    assert control or same(base, found)
    assert not control or not same(base, found)


def test_an_inverted_score_keeps_what_it_would_prune_first(beginning):
    work = beginning(generators=("snip-inverted",))
    work.compute(cell(MASKS, "snip"))
    work.compute(cell(MASKS, "snip-inverted"))
    base, found = work.masks(cell(MASKS, "snip")), work.masks(cell(MASKS, "snip-inverted"))
    for weight, mask in found.items():
        assert int(mask.sum()) == int(base[weight].sum())
        assert (mask | base[weight]).all()


def test_an_early_bird_stops_when_its_mask_does(beginning, digits):
    work = beginning(generators=("early-bird",), epochs=7, rewind_epoch=1)
    search = cell(MASKS, "early-bird")
    work.compute(search)
    found = work.found(search)
    assert 5 <= found.report["epochs"] == len(found.history) <= 7
    for weight, mask in found.masks.items():
        rows = mask.flatten(1)
        assert torch.equal(rows.any(1), rows.all(1)), weight
    again = beginning_again(work, search)
    assert same(found.masks, again)


def beginning_again(work, search):
    shutil.rmtree(work.folder.checkpoints(search.folder).path)
    work.compute(search)
    return work.masks(search)


def test_edge_popup_keeps_the_weights_of_the_initialization(beginning, digits):
    work = beginning(generators=("edge-popup", "edge-popup-shuffled"))
    search = cell(MASKS, "edge-popup")
    work.compute(search)
    found = work.found(search)
    assert sl.sparsity(found.masks) == pytest.approx(SPARSITY, abs=0.01)
    assert 0 <= found.report["accuracy"] <= 100
    work.compute(cell(MASKS, "edge-popup-shuffled"))
    shuffled = work.masks(cell(MASKS, "edge-popup-shuffled"))
    for weight, mask in shuffled.items():
        assert int(mask.sum()) == int(found.masks[weight].sum())


@pytest.mark.parametrize("name", ["early-bird-inverted", "edge-popup-inverted"])
def test_what_has_no_score_cannot_be_inverted(name):
    for _ in range(2):
        with pytest.raises(SparselthError, match="has no score to invert"):
            study.StudyConfig(generators=(name,))
