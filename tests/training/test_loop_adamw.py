"""A recipe with AdamW: torch's steps on what the masks keep, with ADMM, and resumed."""

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.training import ADMMSchedule, Recipe, train

RECIPE = Recipe(
    epochs=2, learning_rate=0.01, batch_size=16, optimizer="adamw", weight_decay=0.1, momentum=0.5
)


class Stopped(Exception):
    """Stands for a kill right after a checkpoint."""


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 10))


def _masks(model):
    return sl.find_masks(model, sparsity=0.8)


@pytest.fixture(scope="module")
def digits():
    return sl.data.load("mnist5k").limited(96, 32)


def test_it_takes_the_steps_of_torchs_adamw(digits):
    model, plain = _model(), _model()
    masks = _masks(model)
    train(model, digits, RECIPE, masks=masks)
    sl.densify(model)

    sl.sparsify(plain, masks)
    optimizer = sl.optim.keep_on_mask(
        torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.1)
    )
    batches = sl.data.Batches(digits, 16, RECIPE.seed, RECIPE.augment, torch.device("cpu"))
    for epoch in range(RECIPE.epochs):
        for group in optimizer.param_groups:
            group["lr"] = RECIPE.learning_rate_at(epoch)
        for x, labels in batches.train(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(plain(x), labels).backward()
            optimizer.step()
    sl.densify(plain)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, plain.state_dict()[name], rtol=1e-4, atol=1e-5)
    for name, mask in masks.items():
        assert not model.state_dict()[name][~mask].any()


def test_it_goes_on_after_a_stop_as_if_there_had_been_none(tmp_path, digits):
    def stop(record):
        raise Stopped

    expected = _model()
    train(expected, digits, RECIPE, masks=_masks(expected))
    stopped, resumed = _model(), _model()
    with pytest.raises(Stopped):
        train(
            stopped,
            digits,
            RECIPE,
            masks=_masks(stopped),
            checkpoint=tmp_path,
            on_epoch_end=stop,
        )
    train(resumed, digits, RECIPE, masks=_masks(resumed), checkpoint=tmp_path)
    for name, weight in resumed.state_dict().items():
        assert torch.equal(weight, expected.state_dict()[name])


def test_admm_pulls_within_its_steps(digits):
    distances = []
    for rho in (1e-6, 10.0):
        model = _model()
        admm = sl.ADMM(model, sparsity=0.8, rho=rho)
        train(model, digits, RECIPE, regularizer=ADMMSchedule(admm, every=1))
        weights = dict(model.named_parameters())
        kept = _masks(model)
        distances.append(sum(weights[n][~m].norm().item() for n, m in kept.items()))
    assert distances[1] < 0.8 * distances[0]
