"""Batches: complete, reproducible, and augmented as torchvision does it."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparselth.data import Batches, ImageSet
from sparselth.data.batches import crop, normalize
from sparselth.seeds import generator

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


@pytest.mark.parametrize("channels", [1, 3])
def test_normalization_is_that_of_torchvision_bit_for_bit(channels):
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(3, channels, 1, 1)
    levels[1] = levels[1].flip(-1)
    before = levels.clone()
    mean, std = [0.4914, 0.4822, 0.4465][:channels], [0.247, 0.2435, 0.2616][:channels]
    ours = normalize(levels, *(torch.tensor(t).view(-1, 1, 1) for t in (mean, std)))
    scaled = transforms.to_dtype(levels, torch.float32, scale=True)
    assert torch.equal(ours, transforms.normalize(scaled, mean, std))
    assert ours.dtype == torch.float32
    assert torch.equal(levels, before)


def test_a_process_without_an_image_of_the_last_test_batch_gets_none(images):
    counts = [
        [len(y) for _, y in Batches(images, 16, 0, False, CPU, (rank, 2)).test(3)]
        for rank in range(2)
    ]
    assert counts == [[2, 2, 2, 1], [1, 1, 1]]


def test_served_test_images_are_those_of_torchvision(images):
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    x = torch.cat([x for x, _ in Batches(images, 16, 0, False, CPU).test(3)])
    scaled = transforms.to_dtype(images.test_images, torch.float32, scale=True)
    assert torch.equal(x, transforms.normalize(scaled, list(images.mean), list(images.std)))


@given(
    shape=st.tuples(
        st.integers(1, 4), st.sampled_from([1, 2, 3]), st.integers(1, 9), st.integers(1, 9)
    ),
    padding=st.integers(0, 5),
    fill=st.sampled_from([0, 128, 255]),
    seed=st.integers(0, 99),
)
def test_crop_and_flip_are_those_of_torchvision_bit_for_bit(shape, padding, fill, seed):
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
    down, right = torch.randint(0, 2 * padding + 1, (2, shape[0]), generator=rng)
    mirrored = torch.rand(shape[0], generator=rng) < 0.5
    plain = crop(images, down, right, padding=padding, fill=fill)
    flipped = crop(images, down, right, mirrored, padding, fill)
    for i, image in enumerate(images):
        padded = transforms.pad(image, [padding], fill=fill)
        cut = transforms.crop(padded, int(down[i]), int(right[i]), *shape[2:])
        assert torch.equal(plain[i], cut)
        assert torch.equal(flipped[i], transforms.hflip(cut) if mirrored[i] else cut)
    assert flipped.stride() == torch.empty(shape, device="meta").stride()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_served_epoch_is_torchvision_applied_to_what_was_drawn(images, channels):
    """The whole way, from the draws that `train` documents to the normalized batch."""
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    part = dataclasses.replace(
        images,
        train_images=images.train_images[:, :channels],
        mean=images.mean[:channels],
        std=images.std[:channels],
    )
    x, labels = _epoch(part, 2, seed=7)
    rng = generator(7, "batches", 2)
    order = torch.randperm(50, generator=rng)
    shifts = torch.randint(0, 9, (2, 50), generator=rng)
    mirrored = torch.rand(50, generator=rng) < 0.5
    for i, place in enumerate(order):
        image = transforms.pad(part.train_images[place], [4])
        image = transforms.crop(image, int(shifts[0, i]), int(shifts[1, i]), 8, 6)
        assert x.shape[1:] == image.shape
        image = transforms.hflip(image) if mirrored[i] else image
        image = transforms.to_dtype(image, torch.float32, scale=True)
        assert torch.equal(x[i], transforms.normalize(image, list(part.mean), list(part.std)))
    assert torch.equal(labels, part.train_labels[order])


def test_only_sets_that_allow_it_are_mirrored(images):
    digits = dataclasses.replace(images, flip=False)
    with_flip, _ = _epoch(images, 0)
    without, _ = _epoch(digits, 0)
    mirrored = [bool((a != b).any()) for a, b in zip(with_flip, without, strict=True)]
    assert 10 < sum(mirrored) < 40
    for a, b, flipped in zip(with_flip, without, mirrored, strict=True):
        assert torch.equal(a, b.flip(-1) if flipped else b)
