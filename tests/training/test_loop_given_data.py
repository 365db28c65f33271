"""sl.train on what users have: a pair of tensors, a DataLoader, lists of batches."""

import math
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sparselth as sl
from sparselth.training import CheckpointFolder

RNG = torch.Generator().manual_seed(0)
X, Y = torch.randn(50, 6, generator=RNG), torch.randint(0, 3, (50,), generator=RNG)
RECIPE = sl.Recipe(epochs=3, learning_rate=0.05, batch_size=16)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 3))


def loader(**options):
    return DataLoader(TensorDataset(X, Y), batch_size=16, **options)


DATA = {
    "tensors": lambda: (X, Y),
    "list of two tensors": lambda: [X, Y],
    "int32 labels": lambda: (X, Y.int()),
    "loader": lambda: loader(shuffle=True),
    "list of batches": lambda: list(loader()),
    "no length": lambda: Unsized(),
}


class Unsized:
    def __iter__(self):
        yield from loader()


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("test", [None, (X, Y), "loader"])
def test_it_trains_and_tests(kind, test):
    model = net()
    masks = sl.find_masks(model, sparsity=0.5, exclude=())
    test = loader() if test == "loader" else test
    history = sl.train(model, DATA[kind](), RECIPE, masks=masks, test=test)
    assert len(history) == 3
    assert history.records[-1].train_loss < history.records[0].train_loss
    model.eval()
    right = 100 * (model(X).argmax(1) == Y).float().mean().item()
    accuracy = history.records[-1].test_accuracy
    assert math.isnan(accuracy) if test is None else accuracy == pytest.approx(right, abs=1e-3)
    assert all(not model.get_parameter(n)[~m].any() for n, m in masks.items())


def test_every_sample_counts_once_in_an_epoch():
    given = {name: sl.train(net(), make(), RECIPE).records[0] for name, make in DATA.items()}
    for record in given.values():
        assert (record.train_accuracy * 50 / 100) % 1 == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("kind", ["tensors", "loader"])
def test_a_run_goes_on_after_an_epoch_to_the_same_weights(kind, tmp_path):
    whole = net()
    sl.train(whole, DATA[kind](), RECIPE)
    torch.manual_seed(99)  # another state than the run began with

    def stop(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sl.train(net(), DATA[kind](), RECIPE, checkpoint=tmp_path, on_epoch_end=stop)
    resumed = net()
    history = sl.train(resumed, DATA[kind](), RECIPE, checkpoint=tmp_path)
    assert len(history) == 3
    for got, want in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(got, want)


def test_tensors_go_on_within_an_epoch(tmp_path):
    sl.train(net(), (X, Y), RECIPE, checkpoint=tmp_path, checkpoint_every=1)
    assert CheckpointFolder(tmp_path).epochs()


def test_tickets_and_fine_tuning_take_them_too():
    recipe = RECIPE.changed({"epochs": 1})
    ticket = sl.find_ticket(net(), (X, Y), recipe, sparsity=0.5, test=(X, Y))
    assert not math.isnan(ticket.histories[0].test_accuracy)
    tuned = sl.prune_and_finetune(net(), loader(), recipe, sparsity=0.5, pretrain=recipe)
    assert math.isnan(tuned.history.test_accuracy)


Output = namedtuple("Output", "logits")


class Wrapped(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.net, self.kind = net(), kind

    def forward(self, x):
        return self.kind(self.net(x))


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
    ("batches", "message"),
    [
        ([{"x": X, "y": Y}], "a batch that is a dict"),
        ([(X, Y, Y)], "tuple of Tensor, Tensor, Tensor"),
        ([(X, [1, 2])], "tuple of Tensor, list"),
        ([(X, Y.float())], "one class number"),
    ],
)
def test_bad_batches_are_named(batches, message):
    with pytest.raises(sl.SparselthError, match=message):
        sl.train(net(), batches, RECIPE)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda y: {"logits": y}, "returned a dict; training"),
        (Output, "returned a Output; training"),
        (lambda y: y[:, 0], r"returned a Tensor of shape \(16,\)"),
        (lambda y: y[:4], r"returned a Tensor of shape \(4, 3\)"),
    ],
)
def test_outputs_that_are_no_logits_are_named(kind, message):
    model = Wrapped(kind)
    with pytest.raises(sl.SparselthError, match=message):
        sl.train(model, (X, Y), RECIPE)


def test_labels_beyond_the_logits_are_named():
    with pytest.raises(sl.SparselthError, match=r"labels run to 7, and the model has 3 logits"):
        sl.train(net(), (X, Y + 5), RECIPE)


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


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (net(), (X.double(), Y), r"x of data, torch\.float64.*pass x\.to\(torch\.float32\)"),
        (net().half(), (X, Y), r"weights are torch\.float16: pass x\.to\(torch\.float16\), or mod"),
        (net(), (X[:, :5], Y), r"of shape \(16, 5\).*pass what its first layer takes"),
        (net(), (X.to_sparse(), Y), r"x of data is torch\.sparse_coo; pass x\.to_dense\(\)"),
        (net(), (X.to("meta"), Y), "x of data lies on the meta device"),
        (net(), (X, Y.to("meta")), "y of data lies on the meta device"),
        (net(), [(X, Y), (X[0], Y[:6])], "x of batch 2 of data is .*that of the first batch"),
        (net(), [(X, Y), (X, Y + 2)], "batch 2 of data: labels run to 4, and the model has 3"),
        (net(), [(X, Y), {"x": X}], "batch 2 of data: data gave a batch that is a dict"),
        (net(), (X, Y.clone().index_fill_(0, torch.tensor([3]), -7)), "labels run from -7, and"),
        (Wrapped(torch.Tensor.detach), (X, Y), "nothing to train; look for torch.no_grad"),
    ],
)
@pytest.mark.parametrize("step", ["eager", "compile"])
def test_data_that_the_model_cannot_take_is_refused_before_an_update(model, data, message, step):
    before = [parameter.clone() for parameter in model.parameters()]
    recipe = RECIPE.changed({"step": step})
    with pytest.raises(sl.SparselthError, match=message):
        sl.train(model, data, recipe)
    for got, want in zip(model.parameters(), before, strict=True):
        assert torch.equal(got, want)


def test_what_a_loader_gives_late_is_named():
    late = DataLoader(TensorDataset(X, Y.clone().index_fill_(0, torch.tensor([49]), 9)), 16)
    with pytest.raises(sl.SparselthError, match="batch 4 of data: labels run to 9, and the model"):
        sl.train(net(), late, RECIPE)
    with pytest.raises(sl.SparselthError, match="test: labels run to 9, and the model has 3"):
        sl.train(net(), (X, Y), RECIPE, test=late)

    class Ragged(Unsized):
        def __iter__(self):
            yield from [(X, Y), (X[:, :5], Y)]

    with pytest.raises(sl.SparselthError, match=r"shape \(50, 5\).*\(epoch 1, step 2\)"):
        sl.train(net(), Ragged(), RECIPE)


def test_labels_that_cross_entropy_passes_over_are_trained_on():
    labels = Y.clone().index_fill_(0, torch.tensor([3]), -100)
    assert len(sl.train(net(), (X, labels), RECIPE)) == 3


def test_an_error_of_the_users_own_stays_what_it_is():
    class Own(RuntimeError):
        pass

    def fail(x):
        raise Own("mine")

    with pytest.raises(Own, match="mine"):
        sl.train(Wrapped(fail), (X, Y), RECIPE)


def test_evaluate_says_what_it_takes():
    batches = sl.data.batches_of((X, Y), 16, 0, False, torch.device("cpu"), test=(X, Y + 1))
    with pytest.raises(sl.SparselthError, match="labels run to 3, and the model has 3 logits"):
        sl.training.evaluate(net(), batches)
    with pytest.raises(sl.SparselthError, match=r"made by sparselth\.data\.batches_of.*got tuple"):
        sl.training.evaluate(net(), (X, Y))
    with pytest.raises(sl.SparselthError, match="model must be a"):
        sl.training.evaluate(None, batches)


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
