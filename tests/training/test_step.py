"""The forms of a training step: each computes what the plain one does."""

import dataclasses

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth import SparselthError
from sparselth.training import Recipe, train
from sparselth.training.step import TrainingStep


def _step(model, recipe):
    optimizer = sl.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return TrainingStep(model, optimizer, recipe, torch.device("cpu"))


def _batch(count=12, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 16, 16, generator=g), torch.randint(0, 10, (count,), generator=g)


def _plain_model(norm=True):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16) if norm else nn.Identity(), nn.ReLU()]
    layers += [nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 144, 10)]
    model = nn.Sequential(*layers)
    return sl.sparsify(model, sl.find_masks(model, sparsity=0.9))


def _after(recipe, steps=3, **options):
    model = _plain_model(**options)
    step = _step(model, recipe)
    losses = []
    for i in range(steps):
        x, labels = _batch(seed=i)
        loss, correct = step(x, labels, len(x))
        losses.append(float(loss))
        assert 0 <= int(correct) <= len(x)
    return losses, model


@pytest.mark.parametrize("parts", [2, 3, 5, 12])
def test_accumulated_parts_are_the_whole_batch(parts):
    """Where no statistics are taken over a batch."""
    losses, model = _after(Recipe(), norm=False)
    accumulated, other = _after(Recipe(accumulate=parts), norm=False)
    assert accumulated == pytest.approx(losses, rel=1e-4)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_compiled_step_is_the_eager_one():
    losses, model = _after(Recipe())
    compiled, other = _after(Recipe(step="compile"))
    assert compiled == pytest.approx(losses, rel=1e-4)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 2e-2), ("fp16", 2e-3)])
def test_mixed_precision_follows_the_full_one(precision, tolerance):
    losses, _ = _after(Recipe(), steps=2)
    mixed, model = _after(Recipe(precision=precision), steps=2)
    assert mixed == pytest.approx(losses, rel=tolerance)
    assert mixed != losses
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_fp16_leaves_out_a_step_whose_gradients_overflow():
    model = _plain_model()
    step = _step(model, Recipe(precision="fp16"))
    before = [p.detach().clone() for p in model.parameters()]
    scale = step.scaler.get_scale()
    x, labels = _batch()
    model[-1].bias.register_hook(lambda grad: grad * torch.inf)
    step(x, labels, len(x))
    assert step.scaler.get_scale() < scale
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


def test_the_scale_of_the_loss_is_kept(tmp_path, make_model, digits, recipe):
    recipe = dataclasses.replace(recipe, precision="fp16")
    whole = make_model()
    train(whole, digits, recipe)
    half = make_model()

    def stop(record):
        if record.epoch == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(half, digits, recipe, checkpoint=tmp_path, on_epoch_end=stop)
    resumed = make_model()
    train(resumed, digits, recipe, checkpoint=tmp_path)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_graph_needs_a_gpu(make_model):
    with pytest.raises(SparselthError, match=r"the model is on cpu; a CUDA graph needs a GPU"):
        _step(make_model(), Recipe(step="graph"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_trains_as_the_eager_step_does(make_model, digits, precision):
    def weights(form):
        recipe = Recipe(epochs=8, batch_size=24, learning_rate=0.05, step=form, precision=precision)
        model = make_model()
        masks = {k: m.cuda() for k, m in sl.find_masks(model, sparsity=0.5).items()}
        history = train(model, digits, recipe, masks=masks, device="cuda")
        return history.records[-1].train_loss, model

    (eager, _), (graph, model) = weights("eager"), weights("graph")
    assert graph == pytest.approx(eager, rel=0.05)
    assert sl.sparsity(model) == pytest.approx(0.5, abs=0.01)
