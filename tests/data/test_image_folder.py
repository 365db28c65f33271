"""Streamed folders: what is served, that it is reproducible, and what is refused."""

import sys

import pytest
import torch

from sparselth import SparselthError
from sparselth.data import Batches, ImageFolder, ImageSet, batches_of
from sparselth.data.stream import StreamedBatches

torchvision = pytest.importorskip("torchvision")
v2 = pytest.importorskip("torchvision.transforms.v2")

CPU = torch.device("cpu")
SIZES = {"image_size": 24, "resize": 32}


@pytest.fixture
def root(tmp_path, write_image):
    """Two classes, 11 images to train and 4 to test, of several sizes, modes and formats."""
    for i in range(11):
        label = "cat" if i < 6 else "ant"
        write_image(tmp_path / f"train/{label}/{i:02}.JPEG", width=40 + i, height=50 - i)
    write_image(tmp_path / "train/cat/00.JPEG", width=40, height=40, mode="L")
    write_image(tmp_path / "train/cat/01.JPEG", width=40, height=40, mode="CMYK")
    write_image(tmp_path / "val/cat/0.png", mode="P")
    write_image(tmp_path / "val/cat/1.jpg", width=20, height=30)
    write_image(tmp_path / "val/ant/0.png", mode="RGBA")
    write_image(tmp_path / "val/ant/1.jpeg", width=90)
    return tmp_path


def _stream(root, workers=0, augment=True, seed=0, **options):
    return StreamedBatches(
        ImageFolder(root, **SIZES, workers=workers, **options), 4, seed, augment, CPU
    )


def _gathered(batches):
    batches = list(batches)
    return torch.cat([x for x, _ in batches]), torch.cat([labels for _, labels in batches])


def _same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_set_knows_its_classes(root):
    folder = ImageFolder(root, **SIZES)
    assert folder.classes == ["ant", "cat"]
    assert (folder.num_classes, folder.channels) == (2, 3)
    stream = _stream(root)
    assert (stream.train_count, stream.test_count, stream.steps) == (11, 4, 3)


def test_test_images_are_the_centers_that_torchvision_cuts(root):
    expected = v2.Compose(
        [
            v2.Resize(32),
            v2.CenterCrop(24),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    theirs = torchvision.datasets.ImageFolder(root / "val", transform=expected)
    x, labels = _gathered(_stream(root).test())
    assert torch.equal(x, torch.stack([image for image, _ in theirs]))
    assert labels.tolist() == theirs.targets == [0, 0, 1, 1]


def test_every_training_image_comes_once_an_epoch(root):
    stream = _stream(root, augment=False)
    seen, labels = _gathered(stream.train(0))
    again, _ = _gathered(stream.train(1))
    assert len(seen) == 11
    assert labels.bincount().tolist() == [5, 6]
    rows = {tuple(image.flatten().tolist()) for image in seen}
    assert len(rows) == 11
    assert {tuple(image.flatten().tolist()) for image in again} == rows
    assert not torch.equal(seen, again)  # another order


def test_an_epoch_follows_from_seed_and_number_alone(root):
    torch.manual_seed(1)
    first = _gathered(_stream(root).train(3))
    torch.manual_seed(2)
    again = _stream(root)
    list(again.train(0))  # what was served before does not matter either
    assert _same(_gathered(again.train(3)), first)
    assert not torch.equal(_gathered(again.train(4))[0], first[0])
    assert not torch.equal(_gathered(_stream(root, seed=1).train(3))[0], first[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(root, workers):
    alone, together = _stream(root), _stream(root, workers)
    for epoch in (0, 1, 0):  # workers persist from epoch to epoch
        assert _same(_gathered(together.train(epoch)), _gathered(alone.train(epoch)))
        assert _same(_gathered(together.test()), _gathered(alone.test()))


@pytest.mark.parametrize("workers", [0, 2])
def test_serving_draws_nothing_from_the_global_random_state(root, workers):
    before = torch.get_rng_state()
    stream = _stream(root, workers)
    list(stream.train(0))
    list(stream.test())
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_left_halfway_can_be_served_again(root):
    stream = _stream(root, workers=2)
    next(stream.train(0))
    assert _same(_gathered(stream.train(0)), _gathered(_stream(root).train(0)))


def test_augmentation_is_that_of_torchvision(root):
    from sparselth.seeds import derive, generator

    theirs = torchvision.datasets.ImageFolder(
        root / "train", v2.Compose([v2.RandomResizedCrop(24), v2.RandomHorizontalFlip()])
    )
    x, _ = _gathered(_stream(root, seed=5, mean=(0.0,) * 3, std=(1.0,) * 3).train(2))
    order = torch.randperm(11, generator=generator(5, "batches", 2)).tolist()
    for served, place in zip(x, order, strict=True):
        torch.manual_seed(derive(5, "view", 2, place))
        image, _ = theirs[place]
        assert torch.equal((served * 255).round().byte(), v2.functional.pil_to_tensor(image))


def test_without_flip_nothing_is_mirrored(root):
    flipping, _ = _gathered(_stream(root).train(0))
    plain, _ = _gathered(_stream(root, flip=False).train(0))
    mirrored = [not torch.equal(a, b) for a, b in zip(flipping, plain, strict=True)]
    assert 0 < sum(mirrored) < 11
    for a, b, flipped in zip(flipping, plain, mirrored, strict=True):
        assert torch.equal(a, b.flip(-1) if flipped else b)


def test_one_function_serves_both_kinds(root):
    pixels, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4).long()
    resident = ImageSet("x", pixels, labels, pixels, labels, 1, (0.0,) * 3, (1.0,) * 3, True)
    assert isinstance(batches_of(resident, 2, 0, True, CPU), Batches)
    assert isinstance(batches_of(ImageFolder(root), 2, 0, True, CPU), StreamedBatches)


def _refusal(stream):
    """Return the error alone; with its traceback, pytest would keep the workers running."""
    try:
        list(stream.train(0))
    except SparselthError as error:
        return str(error)
    pytest.fail("it was served")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [None, b"", b"no image", "half"])
def test_a_damaged_image_is_named_in_one_sentence(root, content, workers):
    path = root / "train/cat/03.JPEG"
    stream = _stream(root, workers)
    if content is None:
        path.unlink()
    else:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    message = _refusal(stream)
    assert "03.JPEG cannot be decoded" in message
    assert "\n" not in message


def test_folders_that_do_not_fit_are_refused(root, tmp_path):
    with pytest.raises(SparselthError, match=r"train does not exist; expected <root>/train"):
        ImageFolder(tmp_path / "nowhere")
    (root / "train/dog").mkdir()
    with pytest.raises(SparselthError, match="dog"):  # a class without images
        ImageFolder(root)
    (root / "train/cat/03.JPEG").rename(root / "train/dog/03.JPEG")
    with pytest.raises(SparselthError, match="'dog' is in only one of the folders"):
        ImageFolder(root)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"image_size": 33}, "image_size=33 and resize=32"),
        ({"image_size": 0}, "image_size of an image folder must be .*got 0"),
        ({"workers": -1}, "workers of an image folder must be .*got -1"),
        ({"std": (1.0, 0.0, 1.0)}, "std="),
        ({"mean": (0.5,)}, "mean="),
    ],
)
def test_numbers_out_of_range_are_refused(root, options, named):
    with pytest.raises(SparselthError, match=named):
        ImageFolder(root, **{**SIZES, **options})


def test_without_torchvision_the_command_is_said(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(SparselthError, match=r"pip install 'sparselth\[images\]'"):
        ImageFolder(root)
