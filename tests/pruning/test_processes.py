"""Two processes with batches of their own find the same masks."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparselth as sl

PROGRAM = """
    import json, os, sys
    import torch
    import torch.distributed as dist
    import sparselth as sl
    from torch.nn.functional import cross_entropy
    sys.path.insert(0, sys.argv[1])
    from test_processes import NAMES, batches, net

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(rank)  # as for augmentations: draws differ
    found = {}
    for name in NAMES:
        data = batches()[rank::2]
        masks = sl.find_masks(net(), score=name, data=data, loss=cross_entropy, sparsity=0.5)
        found[name] = {key: mask.flatten().tolist() for key, mask in masks.items()}
    # What is exchanged is a copy, whatever its strides: a context's tensors stay each rank's own.
    model = net().to(memory_format=torch.channels_last)
    initial = {key: tensor + rank for key, tensor in model.state_dict().items()}
    before = {key: tensor.clone() for key, tensor in initial.items()}
    masks = sl.find_masks(model, score="magnitude-init", initial=initial, sparsity=0.5)
    found["initial"] = {key: mask.flatten().tolist() for key, mask in masks.items()}
    found["kept"] = all(torch.equal(before[key], initial[key]) for key in before)
    masks = sl.find_masks(
        model, score="snip", data=batches()[rank::2], loss=cross_entropy, sparsity=0.5
    )
    found["channels_last"] = {key: mask.flatten().tolist() for key, mask in masks.items()}
    data = batches()[rank::2]
    found["annealed"] = sl.pruning.annealed_sparsities(
        net(), 0.5, data=data, loss=cross_entropy, steps=5, exclude=["7.weight"]
    )
    found["energy"] = sl.pruning.annealed_sparsities(
        net(), 0.5, energy=lambda masks: sl.sparsity(masks) + rank, steps=3, exclude=["7.weight"]
    )
    model = net()
    masks = sl.find_masks(model, pattern="channel", sparsity=0.5)
    sl.pruning.reconstruct(model, masks, data)
    found["reconstructed"] = model[3].weight.flatten().tolist()
    with open(f"{sys.argv[2]}/{rank}.json", "w") as file:
        json.dump(found, file)
    dist.barrier()
    os._exit(0)  # torch's own threads may still be running
"""

EXACT = ("snip", "grasp", "synflow", "hrank", "dropnet", "apoz", "bn-scale", "taylor")
NAMES = (*EXACT, "random", "conditional-entropy")


def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3)),
        *(nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)),
    )
    nn.init.uniform_(model[4].weight)
    return model


def batches():
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(12, 2, 8, 8, generator=draw), torch.randint(4, (12,), generator=draw))
        for _ in range(4)
    ]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    program = folder / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(str(program), str(Path(__file__).parent), str(folder)),
        ],
        check=True,
        timeout=120,
    )
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_the_masks_are_the_same(found, name):
    assert found[0][name] == found[1][name]


@pytest.mark.parametrize("name", EXACT)
def test_and_those_of_one_process_that_sees_all(found, name):
    alone = sl.find_masks(net(), score=name, data=batches(), loss=cross_entropy, sparsity=0.5)
    assert {key: mask.flatten().tolist() for key, mask in alone.items()} == found[0][name]


def test_what_a_rank_was_given_stays_its_own(found):
    assert found[0]["kept"]
    assert found[1]["kept"]
    assert found[0]["initial"] == found[1]["initial"]


def test_weights_of_any_strides(found):
    assert found[0]["channels_last"] == found[1]["channels_last"] == found[0]["snip"]


@pytest.mark.parametrize("what", ["annealed", "energy", "reconstructed"])
def test_searches_and_refits_are_the_same(found, what):
    assert found[0][what] == found[1][what]


def test_and_those_of_all_batches(found):
    options = {"data": batches(), "loss": cross_entropy, "steps": 5, "exclude": ["7.weight"]}
    alone = sl.pruning.annealed_sparsities(net(), 0.5, **options)
    assert found[0]["annealed"] == pytest.approx(alone)
    model = net()
    sl.pruning.reconstruct(model, sl.find_masks(model, pattern="channel", sparsity=0.5), batches())
    weight = torch.tensor(found[0]["reconstructed"]).view_as(model[3].weight)
    torch.testing.assert_close(weight, model[3].weight.detach(), rtol=0.2, atol=0.05)
