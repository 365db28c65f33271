"""Two processes of gloo, as torchrun starts them, train what one trains."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth.training import ADMMSchedule, Recipe, train

PROGRAM = """
    import json, os, sys
    import torch
    import torch.distributed as dist
    import sparselth as sl
    from sparselth.training import train
    sys.path.insert(0, sys.argv[1])
    from test_distributed import CASES, contestant, numbers

    def run(admm, options, **more):
        model, arguments = contestant(admm, **options)
        return numbers(model, train(model, *arguments.pop("positional"), **arguments, **more))

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found, rank, folder = {}, dist.get_rank(), sys.argv[2]
    for name, (options, admm) in CASES.items():
        found[name] = run(admm, options)
    # In the fourth of the five steps of the second epoch.
    model, arguments = contestant(False)
    forwards = iter(range(8))
    def stop(module, _):
        if module.training and next(forwards, None) is None:
            raise InterruptedError
    model.register_forward_pre_hook(stop)
    options = {"checkpoint": folder, "checkpoint_every": 2}
    try:
        train(model, *arguments["positional"], masks=arguments["masks"], **options)
    except InterruptedError:
        found["stopped at"] = sl.training.CheckpointFolder(folder).positions()
    found["resumed"] = run(False, {}, **options)

    model, arguments = contestant(False, choice="measured")
    train(model, *arguments["positional"], masks=arguments["masks"])
    # Those of training: of 33 test images the processes have 17 and 16, another kind of input.
    found["choices"] = [
        repr((name, key, choice))
        for name, choices in sl.nn.measured_choices(model).items()
        for key, choice in choices.items()
        if "grad_weight" in repr(key)
    ]

    model, arguments = contestant(False)
    arguments["masks"]["2.weight"][0, 0, 0, 0] ^= rank == 1
    try:
        train(model, *arguments["positional"], masks=arguments["masks"])
        found["other masks"] = "accepted"
    except sl.SparselthError as error:
        found["other masks"] = str(error)
    with open(f"{sys.argv[3]}.{rank}", "w") as file:
        json.dump(found, file)
    # What was found is written. Threads of torch's abort the process now and then when it ends
    # ("terminate called without an active exception"): that is not what is tried here.
    dist.barrier()
    os._exit(0)
"""


def contestant(admm: bool, **options):
    """Return a model without batch norm, and what `train` takes besides it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16 * 49, 10)),
    )
    # Of 66 images the last batch has 2 of 16, one for each process.
    digits = sl.data.load("mnist5k").limited(66, 33)
    recipe = Recipe(epochs=3, learning_rate=0.05, batch_size=16, **options)
    arguments = {"positional": (digits, recipe)}
    if admm:
        arguments["regularizer"] = ADMMSchedule(sl.ADMM(model, sparsity=0.8, rho=0.01))
    else:
        arguments["masks"] = sl.find_masks(model, sparsity=0.8)
    return model, arguments


def numbers(model, history):
    """Return what two trainings have in common."""
    return {
        "losses": [r.train_loss for r in history.records],
        "accuracies": [[r.train_accuracy, r.test_accuracy] for r in history.records],
        "weights": [p.double().norm().item() for p in model.parameters()],
    }


# Name -> (settings of the recipe, whether ADMM acts instead of masks).
CASES = {
    "masks": ({}, False),
    "masks, in parts": ({"accumulate": 2}, False),
    "admm": ({"augment": False}, True),
}


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """Run the program by torchrun, and return what both processes found."""
    folder = tmp_path_factory.mktemp("distributed")
    program = folder / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    here = str(Path(__file__).parent)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(program), here, str(folder / "run")]
    ran = subprocess.run(
        [*command, str(folder / "found")], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads((folder / f"found.{rank}").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_does(by_two, name):
    options, admm = CASES[name]
    model, arguments = contestant(admm, **options)
    one = numbers(model, train(model, *arguments.pop("positional"), **arguments))
    for found in by_two:
        assert found[name]["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert found[name]["weights"] == pytest.approx(one["weights"], rel=1e-4)
        for got, want in zip(found[name]["accuracies"], one["accuracies"], strict=True):
            assert got == pytest.approx(want, abs=100 / 33)  # an image may fall on the other side
    assert by_two[0][name]["weights"] == by_two[1][name]["weights"]


@pytest.mark.slow
def test_two_processes_go_on_as_if_they_had_not_stopped(by_two):
    for found in by_two:
        assert found["stopped at"][0] == [1, 2]
        assert found["resumed"] == found["masks"]


@pytest.mark.slow
def test_all_processes_choose_what_the_first_one_measured(by_two):
    # Times are part of it, which two measurements never have in common.
    assert "sparse_ms" in by_two[0]["choices"][0]
    assert by_two[0]["choices"] == by_two[1]["choices"]


@pytest.mark.slow
def test_other_masks_in_one_process_are_refused_by_all(by_two):
    for found in by_two:
        assert (
            "the mask of 2.weight differs between process 0 and process 1" in (found["other masks"])
        )
