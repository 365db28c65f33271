"""Batches: complete, reproducible, and augmented as torchvision does it."""

import dataclasses

import pytest
import torch

from sparselth.data import Batches, ImageSet
from sparselth.data.batches import crop

CPU = torch.device("cpu")


@pytest.fixture
def images():
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (50, 3, 8, 6), dtype=torch.uint8, generator=rng)
    pixels[:, 0, 0, 0] = torch.arange(50)  # tells the images apart
    return ImageSet(
        name="noise",
        train_images=pixels,
        train_labels=torch.arange(50) % 4,
        test_images=pixels[:10],
        test_labels=torch.arange(10) % 4,
        num_classes=4,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        flip=True,
    )


def _epoch(images, epoch, augment=True, seed=0, batch_size=16):
    batches = list(Batches(images, batch_size, seed, augment, CPU).train(epoch))
    return torch.cat([x for x, _ in batches]), torch.cat([labels for _, labels in batches])


def test_every_image_comes_once(images):
    x, labels = _epoch(images, 0, augment=False)
    first = (x[:, 0, 0, 0] * 0.2 + 0.5) * 255
    assert sorted(first.round().int().tolist()) == list(range(50))
    assert torch.equal(first.round().long() % 4, labels)


def test_steps_counts_the_smaller_last_batch(images):
    batches = Batches(images, 16, 0, False, CPU)
    assert batches.steps == len(list(batches.train(0))) == 4


def test_an_epoch_follows_from_seed_and_number_alone(images):
    torch.manual_seed(1)
    first = _epoch(images, 3)
    torch.manual_seed(2)
    again = _epoch(images, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], _epoch(images, 4)[1])
    assert not torch.equal(first[1], _epoch(images, 3, seed=1)[1])


def test_normalisation_is_that_of_torchvision(images):
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    x = torch.cat([x for x, _ in Batches(images, 16, 0, False, CPU).test()])
    scaled = images.test_images.float() / 255
    expected = transforms.normalize(scaled, list(images.mean), list(images.std))
    torch.testing.assert_close(x, expected)


def test_crop_is_that_of_torchvision(images):
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    down, right = torch.randint(0, 9, (2, 50))
    ours = crop(images.train_images, down, right)
    for i in range(50):
        padded = transforms.pad(images.train_images[i], [4])
        assert torch.equal(ours[i], transforms.crop(padded, int(down[i]), int(right[i]), 8, 6))


def test_only_sets_that_allow_it_are_mirrored(images):
    digits = dataclasses.replace(images, flip=False)
    with_flip, _ = _epoch(images, 0)
    without, _ = _epoch(digits, 0)
    mirrored = [bool((a != b).any()) for a, b in zip(with_flip, without, strict=True)]
    assert 10 < sum(mirrored) < 40
    for a, b, flipped in zip(with_flip, without, mirrored, strict=True):
        assert torch.equal(a, b.flip(-1) if flipped else b)
