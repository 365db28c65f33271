"""Tiny ImageNet in the folders of its zip: 200 classes of two training images, 12 to test."""

import sys

import numpy as np
import pytest
import torch

from sparselth import SparselthError, data
from sparselth.data.decode import decode_all

torchvision = pytest.importorskip("torchvision")

WNIDS = [f"n{10000000 + 7 * i}" for i in range(200)]


@pytest.fixture
def root(tmp_path, write_image):
    """Write the data set; the classes in wnids.txt are not sorted, as in the published file."""
    folder = tmp_path / "tiny-imagenet-200"
    for i, wnid in enumerate(WNIDS):
        for k in range(2):
            mode = "L" if i == 3 else "RGB"  # some published images are gray
            write_image(folder / f"train/{wnid}/images/{wnid}_{k}.JPEG", mode=mode)
    lines = []
    for i in range(12):
        write_image(folder / f"val/images/val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\t{WNIDS[5 * i % 7]}\t0\t0\t63\t63\n")
    (folder / "val/val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    return tmp_path


def test_it_is_what_torchvision_reads(root):
    loaded = data.load("tiny-imagenet", root)
    theirs = torchvision.datasets.ImageFolder(root / "tiny-imagenet-200/train")
    to_tensor = torchvision.transforms.v2.functional.pil_to_tensor
    turns = [2 * label + k for k in range(2) for label in range(200)]  # theirs go class by class
    expected = torch.stack([to_tensor(theirs[i][0]) for i in turns])
    assert torch.equal(loaded.train_images, expected)
    assert loaded.train_labels.tolist() == [theirs.targets[i] for i in turns]
    assert loaded.limited(train=200).train_labels.tolist() == list(range(200))
    assert loaded.train_images.shape == (400, 3, 64, 64)
    assert loaded.train_images.dtype == torch.uint8
    gray = loaded.train_images[3]
    assert torch.equal(gray[0], gray[1])
    assert torch.equal(gray[0], gray[2])
    assert loaded.num_classes == 200
    assert loaded.flip


def test_the_validation_images_have_their_annotated_classes(root):
    loaded = data.load("tiny-imagenet", root / "tiny-imagenet-200")  # the folder itself serves too
    assert loaded.test_labels.tolist() == [5 * i % 7 for i in range(12)]
    path = root / "tiny-imagenet-200/val/images/val_11.JPEG"
    assert np.array_equal(loaded.test_images[11], torchvision.io.decode_image(str(path)))


def test_workers_decode_the_same(root):
    paths = sorted(root.glob("tiny-imagenet-200/train/*/images/*.JPEG"))
    before = torch.get_rng_state()
    alone = decode_all(paths, 64, workers=0)
    assert np.array_equal(decode_all(paths, 64, workers=2), alone)
    assert torch.equal(torch.get_rng_state(), before)


def _truncate(folder):
    path = folder / f"train/{WNIDS[9]}/images/{WNIDS[9]}_1.JPEG"
    path.write_bytes(path.read_bytes()[:-200])
    return path.name


def _no_image(folder):
    path = folder / f"train/{WNIDS[9]}/images/{WNIDS[9]}_1.JPEG"
    path.write_bytes(b"<html>404</html>")
    return path.name


def _missing_training_image(folder):
    path = folder / f"train/{WNIDS[9]}/images/{WNIDS[9]}_1.JPEG"
    path.unlink()
    return rf"{WNIDS[9]}.images holds 1 .JPEG files, expected 2"


def _missing_class(folder):
    (folder / f"train/{WNIDS[0]}").rename(folder / "elsewhere")
    return rf"{WNIDS[0]}.images holds 0 .JPEG files, expected at least 1"


def _missing_validation_image(folder):
    (folder / "val/images/val_3.JPEG").unlink()
    return r"val_3\.JPEG is not there"


def _short_annotations(folder):
    path = folder / "val/val_annotations.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    return r"val_annotations\.txt has 11 lines for 12 images"


def _unknown_class(folder):
    path = folder / "val/val_annotations.txt"
    path.write_text(path.read_text().replace(WNIDS[5], "n1"))
    return r"val_annotations\.txt, line 2, gives 'val_1\.JPEG' the class 'n1'"


def _no_annotations(folder):
    (folder / "val/val_annotations.txt").unlink()
    return r"val_annotations\.txt cannot be read"


def _short_wnids(folder):
    path = folder / "wnids.txt"
    path.write_text(path.read_text()[:-5])
    path.write_text(path.read_text().rpartition("\n")[0])
    return r"wnids\.txt names 199 classes, expected 200"


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _no_image,
        _missing_training_image,
        _missing_class,
        _missing_validation_image,
        _short_annotations,
        _unknown_class,
        _no_annotations,
        _short_wnids,
    ],
)
def test_damage_is_one_sentence_that_names_the_file(root, damage):
    named = damage(root / "tiny-imagenet-200")
    with pytest.raises(SparselthError, match=named) as caught:
        data.load("tiny-imagenet", root)
    assert "\n" not in str(caught.value)
    assert "again" in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_of_another_size_is_named(tmp_path, write_image, workers):
    paths = [write_image(tmp_path / "a.JPEG"), write_image(tmp_path / "b.JPEG", width=63)]
    with pytest.raises(SparselthError, match=r"b\.JPEG has 63 x 64 pixels") as caught:
        decode_all(paths, 64, workers)
    assert "\n" not in str(caught.value)


def test_without_torchvision_the_command_is_said(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(SparselthError, match=r"pip install 'sparselth\[images\]'"):
        data.load("tiny-imagenet", root)
