"""How scores run a model: without what is pruned already, and eagerly where it is compiled."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparselth as sl
from sparselth.pruning import SCORES, prunable_parameters
from sparselth.pruning.scores.context import declared

EXCLUDED = ["0.weight", "10.weight"]


def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU()),
        *(nn.Conv2d(10, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(768, 4)),
    )
    for norm in (model[1], model[4], model[7]):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    return model


def data():
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 3, 8, 8, generator=draw), torch.randint(4, (8,), generator=draw))
        for _ in range(2)
    ]


SEE_DATA = [name for name, score in SCORES.items() if "data" in declared(score).names]


def masks_of(model, name, exclude=EXCLUDED, **options):
    torch.manual_seed(3)
    return sl.find_masks(
        model, score=name, sparsity=0.7, exclude=exclude, data=data(), loss=cross_entropy, **options
    )


@pytest.mark.parametrize("name", [*SEE_DATA, "l1", "fpgm"])
def test_what_is_pruned_is_out_of_the_network_that_is_seen(name):
    """Masks within others are those of the model made sparse by these."""
    torch.manual_seed(1)
    within = {n: torch.rand(p.shape) < 0.4 for n, p in prunable_parameters(net()).items()}
    dense = masks_of(net(), name, within=within, steps=1)
    sparse = masks_of(sl.sparsify(net(), within), name, within=within, steps=1)
    assert all(torch.equal(dense[n], sparse[n]) for n in dense)


@pytest.mark.parametrize("name", ["apoz", "conditional-entropy", "lasso"])
def test_each_step_sees_what_the_last_one_left(name):
    whole = masks_of(net(), name, steps=1)
    parts = masks_of(net(), name, steps=5)
    assert any(not torch.equal(whole[n], parts[n]) for n in whole)


def wrapped(model):
    return torch.compile(model, backend="eager")


def in_place(model):
    model.compile(backend="eager")
    return model


def inside(model):
    for i in (3, 6):
        model[i] = torch.compile(model[i], backend="eager")
    return model


@pytest.mark.parametrize("compiled", [wrapped, in_place, inside])
@pytest.mark.parametrize("name", SEE_DATA)
def test_a_compiled_model_ranks_as_the_plain_one(name, compiled):
    torch._dynamo.reset()
    plain = masks_of(net(), name)
    exclude = [f"*{excluded}" for excluded in EXCLUDED]
    found = masks_of(compiled(net()), name, exclude=exclude)
    assert {n.replace("_orig_mod.", "") for n in found} == set(plain)
    for n, mask in found.items():
        assert torch.equal(mask, plain[n.replace("_orig_mod.", "")])


def test_a_model_compiled_by_a_backend_of_one_derivative_has_a_second_one_here():
    torch._dynamo.reset()
    found = masks_of(torch.compile(net(), backend="aot_eager"), "grasp", exclude=["*0.weight"])
    plain = masks_of(net(), "grasp", exclude=["*0.weight"])
    assert all(torch.equal(found[f"_orig_mod.{n}"], plain[n]) for n in plain)
