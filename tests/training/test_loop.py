"""The training loop: what it computes, how it resumes, and when it refuses."""

import dataclasses

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth import SparselthError
from sparselth.data import Batches
from sparselth.ops.kernel_choice import decide
from sparselth.training import (
    ADMMSchedule,
    CheckpointError,
    CheckpointFolder,
    Recipe,
    evaluate,
    train,
)


class Stopped(Exception):
    """Stands for a kill right after a checkpoint."""


def _stop_after(epoch):
    def stop(record):
        if record.epoch == epoch:
            raise Stopped

    return stop


def _weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _numbers(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.to_rows()]


def test_it_is_the_loop_one_would_write_by_hand(make_model, digits, recipe):
    model = make_model()
    history = train(model, digits, recipe)

    by_hand = make_model()
    batches = Batches(digits, recipe.batch_size, recipe.seed, True, torch.device("cpu"))
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 3])
    for epoch in range(4):
        for x, labels in batches.train(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(by_hand(x), labels).backward()
            optimizer.step()
        schedule.step()
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, msg=name)
    assert history.test_accuracy == evaluate(by_hand, batches)


def test_the_history_says_what_happened(make_model, digits, recipe):
    seen = []
    history = train(make_model(), digits, recipe, on_epoch_end=seen.append)
    assert seen == history.records
    assert [r.epoch for r in seen] == [1, 2, 3, 4]
    assert [r.learning_rate for r in seen] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    assert all(r.seconds > 0 and 0 <= r.train_accuracy <= 100 for r in seen)


def test_it_learns(digits, make_model):
    recipe = Recipe(epochs=30, learning_rate=0.05, batch_size=16, milestones=(), augment=False)
    history = train(make_model(), digits, recipe)
    assert history.records[-1].train_accuracy > 70


def test_masks_hold_to_the_last_bit(make_model, digits, recipe):
    model = make_model()
    masks = sl.find_masks(model, sparsity=0.8)
    before = _weights(model)
    train(model, digits, recipe, masks=masks)
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert weight[~mask].count_nonzero() == 0
        assert not torch.equal(weight[mask], before[name][mask])


@pytest.mark.parametrize("kind", ["dense", "masked", "admm"])
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_resume_is_exact_to_the_bit(tmp_path, make_model, digits, recipe, kind, stop):
    def start():
        model = make_model(dropout=0.3)
        masks = sl.find_masks(model, sparsity=0.5) if kind == "masked" else None
        admm = sl.ADMM(model, sparsity=0.5, rho=0.1, rho_schedule=sl.pruning.rho.growing(2.0))
        regularizer = ADMMSchedule(admm, every=2) if kind == "admm" else None
        return model, {"masks": masks, "regularizer": regularizer}

    model, options = start()
    whole = train(model, digits, recipe, **options)
    expected = _weights(model)

    torch.manual_seed(99)  # what the process drew before must not matter
    broken, options = start()
    with pytest.raises(Stopped):
        train(
            broken, digits, recipe, **options, checkpoint=tmp_path, on_epoch_end=_stop_after(stop)
        )
    resumed, options = start()
    torch.manual_seed(17)
    history = train(resumed, digits, recipe, **options, checkpoint=tmp_path)
    assert _equal(_weights(resumed), expected)
    assert _numbers(history) == _numbers(whole)
    if kind == "admm":
        assert len(options["regularizer"].residuals) == 2


@pytest.mark.parametrize("mode", ["fixed", "measured"])
def test_the_recipe_says_how_kernels_are_chosen(make_model, digits, recipe, mode, monkeypatch):
    """A run that must resume exactly measures nothing, whatever is set around it."""
    measured = []
    monkeypatch.setattr(decide, "measures", lambda op, x: measured.append(decide.mode()) or False)
    masks = sl.find_masks(make_model(), sparsity=0.5)
    with sl.use_choice("measured"):
        train(make_model(), digits, dataclasses.replace(recipe, choice=mode, epochs=1), masks=masks)
        assert decide.mode() == "measured"
    assert set(measured) == {mode}
    assert recipe.choice == "fixed"


def test_a_checkpoint_older_than_the_choice_goes_on(tmp_path, make_model, digits, recipe):
    train(make_model(), digits, recipe, checkpoint=tmp_path)
    folder = CheckpointFolder(tmp_path)
    epoch, state = folder.load()
    del state["recipe"]["choice"]
    folder.save(epoch, state)
    assert len(train(make_model(), digits, recipe, checkpoint=tmp_path)) == recipe.epochs
    measured = dataclasses.replace(recipe, choice="measured")
    with pytest.raises(CheckpointError, match="choice=fixed, this run has choice=measured"):
        train(make_model(), digits, measured, checkpoint=tmp_path)


def test_a_complete_run_is_only_loaded(tmp_path, make_model, digits, recipe):
    model = make_model()
    history = train(model, digits, recipe, checkpoint=tmp_path)
    again = make_model(seed=5)
    ran = []
    assert train(again, digits, recipe, checkpoint=tmp_path, on_epoch_end=ran.append) == history
    assert not ran
    assert _equal(_weights(again), _weights(model))


def test_the_callers_random_state_is_left_alone(make_model, digits, recipe):
    model = make_model(dropout=0.5)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(model, digits, recipe)
    assert torch.equal(torch.rand(4), expected)


def test_a_loss_that_is_not_finite_stops_with_epoch_and_step(tmp_path, make_model, digits, recipe):
    model = make_model()

    def poison(record):
        if record.epoch == 2:
            with torch.no_grad():
                model[0].weight[0, 0, 0, 0] = float("nan")

    with pytest.raises(SparselthError, match=r"nan in epoch 3, step 1; lower the learning rate"):
        train(model, digits, recipe, checkpoint=tmp_path, on_epoch_end=poison)
    # The last good epoch is kept, and training goes on from there.
    assert len(train(make_model(), digits, recipe, checkpoint=tmp_path)) == 4


def test_a_checkpoint_of_another_run_is_refused(tmp_path, make_model, digits, recipe):
    train(make_model(), digits, recipe, checkpoint=tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}

    other = dataclasses.replace(recipe, learning_rate=0.05)
    with pytest.raises(CheckpointError, match=r"learning_rate=0.1, this run has .*0.05"):
        train(make_model(), digits, other, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="another model"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)), digits, recipe, checkpoint=tmp_path)
    masks = sl.find_masks(make_model(), sparsity=0.5)
    with pytest.raises(CheckpointError, match="other masks"):
        train(make_model(), digits, recipe, masks=masks, checkpoint=tmp_path)
    assert files == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_saved_weights_load_into_a_plain_model(tmp_path, make_model, digits, recipe):
    from sparselth.training import CheckpointFolder
    from sparselth.training.resume import load_weights

    model = make_model()
    train(model, digits, recipe, masks=sl.find_masks(model, sparsity=0.5), checkpoint=tmp_path)
    plain = make_model(seed=1)
    plain.load_state_dict(load_weights(CheckpointFolder(tmp_path)))
    assert torch.equal(plain[3].weight, model[3].weight)


def test_a_model_without_parameters_is_refused(digits, recipe):
    with pytest.raises(SparselthError, match="no parameters"):
        train(nn.Flatten(), digits, recipe)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_runs_on_a_gpu_and_resumes_there(tmp_path, make_model, digits, recipe):
    with pytest.raises(Stopped):
        train(
            make_model(),
            digits,
            recipe,
            checkpoint=tmp_path,
            device="cuda",
            on_epoch_end=_stop_after(2),
        )
    model = make_model()
    assert len(train(model, digits, recipe, checkpoint=tmp_path, device="cuda")) == 4
    assert next(model.parameters()).is_cuda
