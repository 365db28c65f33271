"""Each cell is what a loop written by hand computes, and goes on where it was stopped."""

import dataclasses
import fcntl
import json
import shutil
import threading

import pytest
import torch

import sparselth as sl
from sparselth import SparselthError, data, models, study
from sparselth.study import Cell
from sparselth.study.execution import cost
from sparselth.study.execution.compute import Work
from sparselth.study.plan.cells import MASKS
from sparselth.study.plan.protocols import PROTOCOLS
from sparselth.training import train

CPU = torch.device("cpu")
RATE, SPARSITY = 0.05, 0.4
DENSE = Cell("resnet20", "mnist5k", RATE, 0)


def cell(protocol, generator="magnitude", sparsity=SPARSITY, seed=0):
    return Cell("resnet20", "mnist5k", RATE, seed, generator, sparsity, protocol)


@pytest.fixture(scope="module")
def config(tiny):
    return dataclasses.replace(
        tiny,
        epochs=3,
        rewind_epoch=1,
        sparsities=(SPARSITY,),
        protocols=tuple(PROTOCOLS),
        imp_rate=0.2,
    )


@pytest.fixture(scope="module")
def digits(config):
    return data.load("mnist5k").limited(config.train_limit, config.test_limit)


@pytest.fixture(scope="module")
def work(config, tmp_path_factory):
    """Initialisations, the dense network, and masks by magnitude."""
    work = Work(config, tmp_path_factory.mktemp("work"), CPU)
    for draw in ("theta_0", "theta_0_prime", "theta_scratch"):
        work.draw(DENSE, draw)
    work.compute(DENSE)
    work.compute(cell(MASKS))
    return work


@pytest.fixture
def beginning(work, tmp_path):
    """Return a copy of what `work` began with, under other settings."""

    def begin(**settings):
        copy = Work(dataclasses.replace(work.config, **settings), tmp_path, CPU)
        for name in ("dense", "dense-epoch-k", "magnitude-0.4/masks"):
            name = f"checkpoints/resnet20/mnist5k/lr0.05/seed0/{name}"
            shutil.copytree(work.folder.path / name, tmp_path / name)
        shutil.copytree(work.folder.path / "checkpoints/init", tmp_path / "checkpoints/init")
        return copy

    return begin


def network(weights, **options):
    model = models.build("resnet20", num_classes=10, in_channels=1, width=0.125)
    model.load_state_dict(weights)
    return model


def trained(model, digits, recipe, masks=None):
    """Train by hand and return the weights, those pruned as zeros."""
    train(model, digits, recipe, masks=masks)
    return {name: tensor.clone() for name, tensor in sl.densify(model).state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


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
    saving = cost.saving(cost.multiplications(network(theta_T), image), masks)
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
        work.compute(cell(MASKS, sparsity=0.998))
    assert work.history(cell(MASKS, sparsity=0.998)) is None


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


class Killed(BaseException):
    """No error that anything handles."""


def test_what_a_kill_left_out_after_a_checkpoint_is_made_up_for(work, config, tmp_path):
    other = Work(config, tmp_path, CPU)
    other.draw(DENSE, "theta_0")

    def kill(record):
        raise Killed

    with pytest.raises(Killed):
        other.compute(DENSE, on_epoch_end=kill)
    # As if it had come a moment earlier, in the middle of writing.
    place = other.folder.checkpoints(DENSE.folder).path
    (place / "overlap.json").rename(place / ".overlap.json.x1.tmp")
    shutil.rmtree(place.with_name("dense-epoch-k"))
    assert other.history(DENSE) is None
    other.compute(DENSE)
    assert same(other.trained(DENSE), work.trained(DENSE))
    assert same(other.theta_k(DENSE), work.theta_k(DENSE))
    assert other.trace(DENSE) == work.trace(DENSE)
    assert not list(tmp_path.rglob("*.tmp"))


def test_so_is_what_follows_the_last_checkpoint(beginning):
    work = beginning()
    path = work.folder.checkpoints(DENSE.folder).path / "overlap.json"
    whole = path.read_bytes()
    rows = json.loads(whole)
    path.write_text(json.dumps(rows[:-1]))
    assert work.history(DENSE) is None
    before = {p: p.stat().st_mtime_ns for p in path.parent.glob("epoch-*")}
    work.compute(DENSE)
    assert path.read_bytes() == whole
    assert work.history(DENSE) is not None
    assert {p: p.stat().st_mtime_ns for p in path.parent.glob("epoch-*")} == before


def test_it_waits_while_another_process_is_at_the_cell(beginning):
    work = beginning()
    with (work.folder.checkpoints(cell(MASKS).folder).path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=work.compute, args=(cell(MASKS),), daemon=True)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_search_that_was_stopped_goes_on(beginning):
    work = beginning(generators=("admm",))

    def kill(record):
        raise Killed

    with pytest.raises(Killed):
        work.compute(cell(MASKS, "admm"), on_epoch_end=kill)
    assert work.history(cell(MASKS, "admm")) is None
    seen = []
    work.compute(cell(MASKS, "admm"), on_epoch_end=lambda record: seen.append(record.epoch))
    stopped = work.found(cell(MASKS, "admm"))
    assert seen == [2]
    for name in ("masks", "search"):
        shutil.rmtree(work.folder.checkpoints(cell(name, "admm").folder).path)
    work.compute(cell(MASKS, "admm"))
    whole = work.found(cell(MASKS, "admm"))
    assert same(stopped.masks, whole.masks)
    assert stopped.report == whole.report
    assert set(whole.report) == {"relative_residual"}


def test_lost_weights_of_epoch_k_say_what_to_delete(beginning):
    work = beginning()
    shutil.rmtree(work.folder.checkpoints(f"{DENSE.folder}-epoch-k").path)
    with pytest.raises(SparselthError, match=r"delete .*/dense and .*/dense-epoch-k and start"):
        work.theta_k(DENSE)
