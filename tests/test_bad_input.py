"""Every public function with one bad argument at a time: a SparselthError, and no other error.

What an argument may be besides is accepted. What messages say is tested where the functions are.
"""

import numpy as np
import pytest
import torch
from torch import nn

import sparselth as sl

X, Y = torch.randn(12, 6), torch.randint(0, 3, (12,))
RECIPE = sl.Recipe(epochs=1, batch_size=6)
WEIGHTS, MASKS = {"a": torch.randn(4, 4)}, {"a": torch.rand(4, 4) < 0.5}


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3))


def sparse():
    model = net()
    return sl.sparsify(model, sl.find_masks(model, sparsity=0.5, exclude=()))


def listed():
    return [torch.randn(3, 4)]


def search(**more):
    names = {"score": "magnitude", "allocation": "uniform", "pattern": "element"}
    return {"model": net(), "sparsity": 0.5, "exclude": (), **names, **more}


def sees():
    return {"data": [(X, Y)], "loss": torch.nn.functional.cross_entropy, "within": None}


def training(**more):
    options = {"device": None, "callbacks": (), "test": (X, Y), "checkpoint": None}
    return {"data": (X, Y), "recipe": RECIPE, **options, **more}


def overlap(**more):
    return {"theta_a": WEIGHTS, "theta_b": WEIGHTS, "p": 0.5, "masks": MASKS}


def recipe():
    return {name: getattr(RECIPE, name) for name in RECIPE.__dataclass_fields__}


def convolution():
    weight = torch.randn(4, 4, 3, 3)
    settings = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1, "plan": None}
    tensors = {"x": torch.randn(1, 4, 5, 5), "weight": weight, "mask": weight > 0}
    return {**tensors, "bias": torch.randn(4), **settings}


def linear():
    tensors = {"x": torch.randn(3, 4), "weight": torch.randn(4, 4), "bias": torch.randn(4)}
    return {**tensors, "mask": torch.rand(4, 4) < 0.5, "plan": None}


def stepped(*states, **more):
    lists = {name: listed() for name in ("weights", "grads", *states)}
    settings = {"lr": 0.1, "weight_decay": 0.1, "rho": 0.0}
    return {**lists, "masks": [torch.rand(3, 4) < 0.5], **settings, **more}


def batches():
    return sl.data.batches_of((X, Y), 4, 0, False, torch.device("cpu"), test=(X, Y))


def sizes():
    return {"num_classes": 3, "in_channels": 1, "width": 0.25}


digits = sl.data.ImageSet(
    "digits", X.byte(), Y, X.byte(), Y, num_classes=3, mean=(0.0,), std=(1.0,), flip=False
)
p = sl.pruning

# Name -> the function, and good arguments for it.
PUBLIC = {
    "sparsify": (sl.sparsify, lambda: {"model": net(), "masks": sl.find_masks(net())}),
    "densify": (sl.densify, lambda: {"model": sparse()}),
    "load_sparse": (sl.load_sparse, lambda: {"model": net(), "state": sparse().state_dict()}),
    "masks_of": (sl.masks_of, lambda: {"model": sparse()}),
    "coverage": (sl.coverage, lambda: {"model": sparse(), "names": ["0.weight"]}),
    "profile": (sl.profile, lambda: {"model": sparse(), "x": X}),
    "sparsity": (sl.sparsity, lambda: {"of": MASKS}),
    "adopt_choices": (sl.nn.adopt_choices, lambda: {"model": sparse(), "choices": {}}),
    "measured_choices": (sl.nn.measured_choices, lambda: {"model": sparse()}),
    "find_masks": (sl.find_masks, lambda: search(include=(), steps=1, **sees())),
    "check_search": (p.check_search, lambda: search(include=(), **sees())),
    "first_and_last": (p.first_and_last, lambda: {"model": net()}),
    "prunable": (p.prunable_parameters, lambda: {"model": net(), "exclude": (), "include": ()}),
    "from_torch_prune": (sl.from_torch_prune, lambda: {"model": None}),
    "check_alive": (p.check_alive, lambda: {"masks": MASKS}),
    "erk": (p.erk_sparsities, lambda: {"parameters": WEIGHTS, "sparsity": 0.5}),
    "shuffled_masks": (p.shuffled_masks, lambda: {"masks": MASKS, "seed": 0}),
    "inverted_masks": (p.inverted_masks, lambda: {"masks": MASKS, "weights": WEIGHTS}),
    "shuffled_weights": (
        p.shuffled_weights,
        lambda: {"weights": WEIGHTS, "masks": MASKS, "seed": 0},
    ),
    "kernel_shapes": (
        p.kernel_shapes,
        lambda: {"weights": [torch.randn(4, 4, 3, 3)], "entries": 4, "count": 8, "taps": 9},
    ),
    "weight_overlap": (sl.weight_overlap, overlap),
    "layer_overlaps": (p.layer_overlaps, overlap),
    "overlap_chance": (p.overlap_chance, lambda: {"theta": WEIGHTS, "p": 0.5, "masks": MASKS}),
    "growing": (p.rho.growing, lambda: {"factor": 1.3}),
    "staged": (p.rho.staged, lambda: {"updates": 2, "stages": 4, "factor": 2.0}),
    "balanced": (p.rho.balanced, lambda: {"ratio": 10.0, "factor": 2.0}),
    "Levels": (p.Levels, lambda: {"bits": 4, "masks": None}),
    "ADMM": (
        sl.ADMM,
        lambda: {
            "model": net(),
            "sparsity": 0.5,
            "exclude": (),
            "projection": None,
            "rho": 0.1,
            "rho_schedule": "constant",
            "abs_tol": 1e-5,
            "rel_tol": 1e-2,
            "allocation": "uniform",
            "pattern": "element",
        },
    ),
    "masked": (sl.optim.keep_on_mask, lambda: {"optimizer": torch.optim.SGD(net().parameters())}),
    "train": (
        sl.train,
        lambda: training(
            model=net(), masks=None, regularizer=None, checkpoint_every=None, on_epoch_end=None
        ),
    ),
    "find_ticket": (
        sl.find_ticket,
        lambda: search(**training(rounds=1, rewind_to=0)),
    ),
    "prune_and_finetune": (sl.prune_and_finetune, lambda: search(**training(pretrain=RECIPE))),
    "evaluate": (sl.training.evaluate, lambda: {"model": net(), "batches": batches()}),
    "ADMMSchedule": (
        sl.training.ADMMSchedule,
        lambda: {"admm": sl.ADMM(net(), sparsity=0.5), "every": 1},
    ),
    "HistoryFile": (sl.training.HistoryFile, lambda: {"path": "a.csv"}),
    "KeepBest": (sl.training.KeepBest, lambda: {"folder": "a"}),
    "KeepEpoch": (sl.training.KeepEpoch, lambda: {"folder": "a", "epoch": 1}),
    "ProgressBar": (sl.training.ProgressBar, lambda: {"console": None}),
    "CheckpointFolder": (sl.training.CheckpointFolder, lambda: {"path": "a", "keep": 2}),
    "Recipe": (sl.Recipe, recipe),
    "Recipe.changed": (RECIPE.changed, lambda: {"values": {"epochs": 3}}),
    "Recipe.from_yaml": (sl.Recipe.from_yaml, lambda: {"path": "nowhere"}),
    "build": (sl.models.build, lambda: {"name": "resnet20", **sizes()}),
    "models.check": (sl.models.check, lambda: {"name": "resnet20"}),
    "resnet20": (sl.models.resnet20, sizes),
    "vgg11": (sl.models.vgg11, sizes),
    "conv4": (sl.models.conv4, sizes),
    "mobilenetv2": (sl.models.mobilenetv2, sizes),
    "load": (sl.data.load, lambda: {"name": "mnist", "root": "nowhere"}),
    "limited": (digits.limited, lambda: {"train": 5, "test": 5}),
    "ImageFolder": (
        sl.data.ImageFolder,
        lambda: {
            "root": "nowhere",
            "image_size": 24,
            "resize": 32,
            "workers": 0,
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
        },
    ),
    "batches_of": (
        sl.data.batches_of,
        lambda: {
            "data": (X, Y),
            "batch_size": 4,
            "seed": 0,
            "augment": False,
            "device": "cpu",
            "test": (X, Y),
        },
    ),
    "use_backend": (sl.use_backend, lambda: {"name": "reference"}),
    "use_choice": (sl.use_choice, lambda: {"name": "fixed"}),
    "masked_conv2d": (sl.ops.masked_conv2d, convolution),
    "masked_linear": (sl.ops.masked_linear, linear),
    "topk_mask": (
        sl.ops.topk_mask,
        lambda: {
            "scores": listed(),
            "k": 3,
            "allocation": "uniform",
            "pattern": "element",
            "nonfinite": "error",
            "names": None,
        },
    ),
    "admm_project_": (
        sl.ops.admm_project_,
        lambda: {
            "weights": listed(),
            "z": listed(),
            "u": listed(),
            "sparsity": None,
            "k": 3,
            "allocation": "uniform",
            "pattern": "element",
            "names": None,
        },
    ),
    "ops.weight_overlap": (
        sl.ops.weight_overlap,
        lambda: {"a": listed(), "b": listed(), "k": [[2]], "masks": [torch.ones(3, 4) > 0]},
    ),
    "masked_sgd_": (sl.ops.masked_sgd_, lambda: stepped("momenta", momentum=0.9, dampening=0.1)),
    "masked_adamw_": (
        sl.ops.masked_adamw_,
        lambda: stepped("exp_avgs", "exp_avg_sqs", step=1, betas=(0.9, 0.99), eps=1e-8),
    ),
}

BAD = [
    *(None, 5, -1, 2.5, float("nan"), "a", [], ["a"], ("a", "b"), {}, {1: 2}, {"a": 1}, [None]),
    *(object(), torch.ones(2), np.array([0.9]), nn.Linear),
]
# A function of the user's own may raise what it likes.
ANY = {("train", "on_epoch_end")}


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.filterwarnings("ignore")
def test_a_bad_argument_is_answered_in_words(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, make = PUBLIC[name]
    refused = {}
    for argument in make():
        for value in BAD:
            if (name, argument) in ANY and callable(value):
                continue
            try:
                function(**{**make(), argument: value})
            except sl.SparselthError as error:
                refused[argument] = str(error)
            except Exception as error:
                pytest.fail(f"{name}({argument}={value!r}) raised {error!r}")
    assert not [said for said in refused.values() if "\n" in said]
    free = {"seed", "augment"}  # whatever it is, it decides something
    assert set(make()) - free <= set(refused)


@pytest.mark.parametrize("name", [n for n in PUBLIC if n not in ("ImageFolder", "load")])
@pytest.mark.filterwarnings("ignore")
def test_the_good_arguments_are_good(name, tmp_path, monkeypatch):
    if name in ("Recipe.from_yaml", "from_torch_prune"):
        pytest.skip("needs a file, or a pruned model")
    monkeypatch.chdir(tmp_path)
    function, make = PUBLIC[name]
    function(**make())
