"""Training on a streamed folder: the same engine, the same numbers however it is served."""

import contextlib
import gc
import multiprocessing

import numpy as np
import pytest
import torch
from torch import nn

import sparselth as sl
from sparselth import SparselthError
from sparselth.data import ImageFolder
from sparselth.training import Recipe, train

pytest.importorskip("torchvision")


class Stopped(Exception):
    """Stands for a kill right after a checkpoint."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Bright and dark images: 18 to train, 6 to test."""
    from PIL import Image

    rng = np.random.RandomState(0)
    folder = tmp_path_factory.mktemp("images")
    for part, count in (("train", 9), ("val", 3)):
        for label, least in (("bright", 150), ("dark", 0)):
            (folder / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.randint(least, least + 100, (20, 24, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{i}.JPEG")
    return folder


def _model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),  # draws from torch's global state, as workers and transforms might
        nn.Linear(8, 2),
    )


def _folder(root, workers):
    return ImageFolder(root, image_size=16, resize=18, workers=workers)


RECIPE = Recipe(epochs=3, learning_rate=0.1, batch_size=8)


def _numbers(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history.to_rows()]


def _trained(root, workers, **options):
    model = _model()
    masks = sl.find_masks(model, sparsity=0.5)
    history = train(model, _folder(root, workers), RECIPE, masks=masks, **options)
    return model.state_dict(), _numbers(history)


def _assert_same(first, second):
    assert first[1] == second[1]
    assert all(torch.equal(tensor, second[0][name]) for name, tensor in first[0].items())


@pytest.fixture(scope="module")
def expected(root):
    return _trained(root, workers=0)


def test_the_number_of_workers_changes_no_number(root, expected):
    _assert_same(_trained(root, workers=2), expected)


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 2)])
@pytest.mark.parametrize("stop", [1, 2])
def test_resume_is_exact_to_the_bit(tmp_path, root, expected, before, after, stop):
    def stop_there(record):
        if record.epoch == stop:
            raise Stopped

    # Not pytest.raises: with the traceback, it would keep the workers running.
    stopped = False
    try:
        _trained(root, before, checkpoint=tmp_path, on_epoch_end=stop_there)
    except Stopped:
        stopped = True
    assert stopped
    torch.manual_seed(99)  # what the process drew before must not matter
    _assert_same(_trained(root, after, checkpoint=tmp_path), expected)


@pytest.mark.parametrize("ends", [Stopped, None])
def test_workers_end_with_the_training(root, ends):
    def stop_there(record):
        if ends is not None:
            raise ends

    # Not left to the garbage collector, which waits for them where they do not listen any longer.
    gc.disable()
    try:
        with contextlib.suppress(Stopped):
            _trained(root, 2, on_epoch_end=stop_there)
        assert not multiprocessing.active_children()
    finally:
        gc.enable()


def test_it_learns(root):
    recipe = Recipe(epochs=8, learning_rate=0.1, batch_size=6, milestones=())
    history = train(_model(), _folder(root, 0), recipe)
    assert history.test_accuracy == 100.0


def test_a_damaged_image_stops_training_with_its_name(tmp_path, root):
    import shutil

    copy = shutil.copytree(root, tmp_path / "copy")
    (copy / "train/dark/4.JPEG").write_bytes(b"no image")
    with pytest.raises(SparselthError, match=r"4\.JPEG cannot be decoded"):
        train(_model(), _folder(copy, 0), RECIPE)
