"""What a training or a search cannot do with what it is given is said before its first step."""

import pytest
import torch
from support.own_data import RECIPE, X, Y, loader, net
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sparselth as sl

REFUSED = {
    "a data set": (lambda: TensorDataset(X, Y), {}, "data must be an ImageSet"),
    "a text": (lambda: "cifar10", {}, r"data must be .*got str"),
    "a tensor": (lambda: X, {}, r"data must be .*got Tensor"),
    "a dict": (lambda: {"x": X}, {}, r"data must be .*got dict"),
    "none": (lambda: None, {}, r"data must be .*got NoneType"),
    "a generator": (lambda: (b for b in loader()), {}, "gives its batches once"),
    "an iterator": (lambda: iter(loader()), {}, "gives its batches once"),
    "nothing": (list, {}, "holds no batches"),
    "no samples": (lambda: (X[:0], Y[:0]), {}, "holds no samples"),
    "lengths": (lambda: (X, Y[:7]), {}, "differ in length"),
    "images of bytes": (lambda: (X.byte(), Y), {}, r"pass x\.float\(\)"),
    "labels of floats": (lambda: (X, Y.float()), {}, "one class number for each sample"),
    "one-hot labels": (lambda: (X, nn.functional.one_hot(Y)), {}, "one class number"),
    "test data": (lambda: (X, Y), {"test": "cifar10"}, r"test must be .*got str"),
    "steps of a loader": (loader, {"checkpoint_every": 2}, "cannot go on within an epoch"),
    "no steps": (lambda: (X, Y), {"checkpoint_every": 0}, r"whole number >= 1, got 0"),
    "masks": (lambda: (X, Y), {"masks": {"9.weight": X > 0}}, "no convolution or linear weight"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_before_the_first_step(name, tmp_path):
    make, options, message = REFUSED[name]
    if "checkpoint_every" in options:
        options = {**options, "checkpoint": tmp_path}
    model = net()
    for _ in range(2):
        with pytest.raises(sl.SparselthError, match=message):
            sl.train(model, make(), RECIPE, **options)
        for got, want in zip(model.parameters(), net().parameters(), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "magnitud"}, "did you mean 'magnitude'"),
        ({"allocation": "even"}, "unknown allocation"),
        ({"pattern": "2:4", "sparsity": 0.9}, "fixes the sparsity"),
        ({"exclude": ["9.weight"]}, "exclude names"),
        ({"sparsity": 90}, "90 % is 0.9"),
        ({"sparsity": "0.9"}, "pass a number"),
        ({"allocation": "global", "sparsity": 0.9999}, "layers that need one each"),
        ({"pattern": "kernel_shape"}, "no weight has kernels of 9 taps"),
    ],
)
@pytest.mark.parametrize("how", ["ticket", "fine-tuning"])
def test_a_search_that_cannot_end_well_is_refused_before_it_begins(how, options, message):
    def never(*args, **kwargs):
        raise AssertionError("trained")

    model = net()
    model.register_forward_hook(never)
    options = {"sparsity": 0.5, "exclude": (), **options}
    search = sl.find_ticket
    if how == "fine-tuning":
        search, options = sl.prune_and_finetune, {**options, "pretrain": RECIPE}
    with pytest.raises(sl.SparselthError, match=message):
        search(model, (X, Y), RECIPE, **options)


def never(*args, **kwargs):
    raise AssertionError("trained")


def changed(change):
    """Return the model of these tests, which would notice a step, changed."""
    model = net()
    model = change(model) or model
    model.register_forward_hook(lambda module, *_: never() if module.training else None)
    return model


TRAININGS = {
    "train": lambda model, recipe, **options: sl.train(model, (X, Y), recipe, **options),
    "ticket": lambda model, recipe, **options: sl.find_ticket(
        model, (X, Y), recipe, 0.5, exclude=(), **options
    ),
    "fine-tuning": lambda model, recipe, **options: sl.prune_and_finetune(
        model, (X, Y), recipe, 0.5, pretrain=RECIPE, exclude=(), **options
    ),
}

UNFIT_MODELS = {
    "none": (lambda: None, "model must be a torch.nn.Module, got NoneType"),
    "a class": (lambda: nn.Linear, r"got the class Linear; pass an instance, Linear\("),
    "a function": (lambda: net, "got the function net; pass the module that it makes"),
    "frozen": (lambda: changed(lambda m: m.requires_grad_(False)), "model is frozen"),
    "meta": (lambda: changed(lambda m: m.to("meta")), "0.weight of the model lies on the meta"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), r"lazy layers.*pass a batch through"),
    "nothing": (nn.ReLU, "no parameters"),
}
NO_FOLDER = "must be a folder, there or to be made, and cannot be"
UNFIT = {
    "recipe": ({"recipe": {"epochs": 3}}, r"must be a sparselth\.Recipe, got dict"),
    "unknown device": ({"device": "nope"}, 'such as "cpu" or "cuda", got \'nope\''),
    "no device": ({"device": 1.5}, r"got 1\.5"),
    "absent device": ({"device": "cuda:99"}, "device 'cuda:99' is not there"),
    "meta device": ({"device": "meta"}, "holds no values"),
    "one callback": ({"callbacks": sl.training.Callback()}, r"pass \[Callback\("),
    "callbacks of texts": ({"callbacks": ["a"]}, r"callbacks\[0\] must be .*got 'a'"),
    "a class of them": ({"callbacks": [sl.training.KeepBest]}, "got the class KeepBest; make one"),
    "no callbacks": ({"callbacks": None}, "must be a list of .*got NoneType"),
    "checkpoint is a file": ({"checkpoint": __file__}, rf"{NO_FOLDER}: File exists"),
    "below a file": ({"checkpoint": f"{__file__}/a"}, rf"{NO_FOLDER}: Not a directory"),
    "checkpoint": ({"checkpoint": 5}, "checkpoint must be a path, got 5"),
    "test of features": ({"test": (X[:, :5], Y)}, r"x of test, torch\.float32 of shape \(16, 5\)"),
    "test of doubles": ({"test": (X.double(), Y)}, r"weights are torch\.float32: pass x\.to\("),
    "test of dicts": ({"test": DataLoader([{"x": X[0], "y": 1}])}, "batch 1 of test.*is a dict"),
    "test of triples": ({"test": DataLoader(TensorDataset(X, Y, Y))}, "Tensor, Tensor, Tensor"),
    "a later test batch": ({"test": [(X, Y), (X, Y.float())]}, "y of batch 2 of test must be one"),
    "test labels": ({"test": (X, Y + 1)}, "test: labels run to 3, and the model has 3 logits"),
    "negative test labels": ({"test": (X, Y - 100)}, "test: labels run from -100"),
    "labels of a later test batch": ({"test": [(X, Y), (X, Y + 4)]}, "batch 2 of test: labels run"),
    "labels of test": ({"test": DataLoader(TensorDataset(X, Y + 9), 50)}, "test: labels run to 11"),
    "sparse test": ({"test": (X.to_sparse(), Y)}, r"x of test is .*sparse.*x\.to_dense\(\)"),
}
MORE = {
    "regularizer": ({"regularizer": "a"}, "ADMMSchedule or have what it has.*got str"),
    "on_epoch_end": ({"on_epoch_end": 5}, "on_epoch_end must be a function"),
    "steps, but no folder": ({"checkpoint_every": 5}, "got no checkpoint to write to"),
    "steps": ({"checkpoint_every": 2.5}, "whole number >= 1, got 2.5"),
    "names of masks": ({"masks": {1: X > 0}}, "got 1 for a name, a int"),
}


@pytest.mark.parametrize("name", UNFIT_MODELS)
@pytest.mark.parametrize("how", TRAININGS)
def test_models_that_cannot_be_trained_are_named(how, name):
    make, message = UNFIT_MODELS[name]
    with pytest.raises(sl.SparselthError, match=message):
        TRAININGS[how](make(), RECIPE)


@pytest.mark.parametrize(
    ("how", "name"),
    [*((how, name) for how in TRAININGS for name in UNFIT), *(("train", name) for name in MORE)],
)
def test_what_would_fail_after_training_is_refused_before_it(how, name):
    options, message = (UNFIT | MORE)[name]
    model = changed(lambda m: None)
    with pytest.raises(sl.SparselthError, match=message):
        TRAININGS[how](model, **{"recipe": RECIPE, **options})
    for got, want in zip(model.parameters(), net().parameters(), strict=True):
        assert torch.equal(got, want)
    assert model.training


def test_the_penalty_alone_is_no_regularizer():
    model = net()
    with pytest.raises(sl.SparselthError, match=r"got .*ADMM; wrap it: .*ADMMSchedule\(admm\)"):
        sl.train(model, (X, Y), RECIPE, regularizer=sl.ADMM(model, 0.5, exclude=()))


def test_rounds_that_a_pattern_does_not_allow_are_refused_before_training():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    model.register_forward_hook(never)
    options = {"pattern": "2:4", "exclude": ("0.weight",)}
    with pytest.raises(sl.SparselthError, match=r"rounds=2, round 1 prunes 0\.29.*take rounds=1"):
        sl.find_ticket(model, (X, Y), RECIPE, 0.5, rounds=2, **options)


def test_a_second_recipe_is_checked_before_the_first_trains():
    model = changed(lambda m: None)
    for recipe, message in ((None, "recipe must be"), (RECIPE.changed({"step": "graph"}), "GPU")):
        with pytest.raises(sl.SparselthError, match=message):
            sl.prune_and_finetune(model, (X, Y), recipe, 0.5, pretrain=RECIPE, exclude=())
