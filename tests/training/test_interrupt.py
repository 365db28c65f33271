"""Training that is stopped anywhere, by any signal, ends as if it had not been."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

import sparselth as sl
from sparselth import SparselthError
from sparselth.training import CheckpointFolder, train
from sparselth.training.loop import TERMINATED

# Trains in the folder it is given and says so at each step, which takes some milliseconds.
PROGRAM = """
    import sys
    import time
    import torch
    from torch import nn
    import sparselth as sl

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                          nn.Dropout(0.2), nn.Linear(4 * 15 * 15, 10))
    model.register_forward_hook(lambda *_: print("step", flush=True) or time.sleep(0.004))
    digits = sl.data.load("mnist5k").limited(64, 32)
    recipe = sl.Recipe(epochs=6, learning_rate=0.1, batch_size=8)
    masks = sl.find_masks(model, sparsity=0.5, exclude=())
    history = sl.train(model, digits, recipe, masks=masks, checkpoint=sys.argv[1] or None,
                       checkpoint_every=3 if sys.argv[1] else None)
    print(*(f"{r.train_loss!r} {r.test_accuracy!r}" for r in history.records), flush=True)
    print(*(f"{p.double().sum().item()!r}" for p in model.parameters()), flush=True)
"""


def _start(tmp_path, folder):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    return subprocess.Popen(
        [sys.executable, str(program), str(folder)], stdout=subprocess.PIPE, text=True
    )


def _after_steps(process, count):
    for _ in range(count):
        assert process.stdout.readline() == "step\n"


def _finish(process):
    output, _ = process.communicate(timeout=60)
    return process.returncode, [line for line in output.splitlines() if line != "step"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    code, lines = _finish(_start(tmp_path_factory.mktemp("unbroken"), ""))
    assert code == 0
    assert len(lines) == 2
    return lines


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_numbers(tmp_path, unbroken):
    draw, folder = random.Random(3), tmp_path / "run"
    positions = []
    for _ in range(4):
        process = _start(tmp_path, folder)
        _after_steps(process, draw.randint(1, 12))
        time.sleep(draw.uniform(0, 0.01))
        process.kill()
        process.communicate()
        positions.append(max(CheckpointFolder(folder).positions(), default=(0, 0)))
        CheckpointFolder(folder).load()  # readable, whatever the moment
    assert positions == sorted(positions)
    assert positions[-1] > (0, 0)
    assert _finish(_start(tmp_path, folder)) == (0, unbroken)


@pytest.mark.slow
def test_sigterm_saves_and_exits(tmp_path, unbroken):
    folder = tmp_path / "run"
    process = _start(tmp_path, folder)
    _after_steps(process, 14)
    process.send_signal(signal.SIGTERM)
    assert _finish(process) == (TERMINATED, [])
    assert CheckpointFolder(folder).positions()[0] >= (1, 4)  # 8 steps and an evaluation an epoch
    assert _finish(_start(tmp_path, folder)) == (0, unbroken)


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("stop", [1, 4, 5, 7, 11])
def test_a_run_goes_on_from_any_step(tmp_path, make_model, digits, recipe, every, stop):
    """A batch of 24 of 64 images: three steps in an epoch, the last one smaller."""

    def run(model, after=None, **options):
        left = [after]

        def count(module, *_):
            if module.training and left[0] is not None:
                if left[0] == 0:
                    raise InterruptedError
                left[0] -= 1

        handle = model.register_forward_pre_hook(count)
        masks = sl.find_masks(make_model(), sparsity=0.5)
        try:
            return train(model, digits, recipe, masks=masks, **options)
        finally:
            handle.remove()

    whole = make_model(dropout=0.3)
    history = run(whole)
    with pytest.raises(InterruptedError):
        run(make_model(dropout=0.3), stop, checkpoint=tmp_path, checkpoint_every=every)
    resumed = make_model(dropout=0.3)
    again = run(resumed, checkpoint=tmp_path, checkpoint_every=every)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(history.records, again.records, strict=True):
        assert (a.train_loss, a.train_accuracy) == (b.train_loss, b.train_accuracy)
        assert a.test_accuracy == b.test_accuracy


@pytest.mark.parametrize(("steps", "position"), [(1, (0, 2)), (2, (1, 0)), (4, (1, 1))])
def test_sigterm_is_acted_on_after_the_step(tmp_path, make_model, digits, recipe, steps, position):
    """Three steps and an evaluation in an epoch."""
    model = make_model()
    taken = []
    model.register_forward_hook(lambda *_: taken.append(1))

    def terminate(*_):
        if len(taken) == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    model.register_forward_pre_hook(terminate)
    with pytest.raises(SystemExit) as left:
        train(model, digits, recipe, checkpoint=tmp_path)
    assert left.value.code == TERMINATED
    assert CheckpointFolder(tmp_path).positions()[0] == position
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_lost_state_is_not_saved(tmp_path, make_model, digits, recipe):
    model = make_model()
    model.register_forward_pre_hook(
        lambda module, x: (x[0] * (torch.nan if len(x[0]) < 24 else 1),)
    )
    with pytest.raises(SparselthError, match="nan in epoch 1, step 3"):
        train(model, digits, recipe, checkpoint=tmp_path, checkpoint_every=1)
    assert CheckpointFolder(tmp_path).positions() == [(0, 2), (0, 1)]
