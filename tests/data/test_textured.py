"""MNIST-5k over textures: the same bytes everywhere, and digits where they were put."""

import hashlib

import numpy as np
import pytest
import torch

from sparselth import data
from sparselth.data import textured

TRAIN_SHA = "9cc9bdc2d08f59f44e6ab1b3f3f957e09811e01a0d02bfa631b0e097045394ca"
TEST_SHA = "959f54ec036b9c561ec68e161f7a29ffb10eda07a037b5ecf4194c09f284c34a"


@pytest.fixture(scope="module")
def plain():
    return data.load("mnist5k")


@pytest.fixture(scope="module")
def made():
    return data.load("mnist5k-textured")


@pytest.fixture(scope="module")
def rng():
    return np.random.RandomState(0)


def _sha(images):
    return hashlib.sha256(images.numpy().tobytes()).hexdigest()


def _map(by_x=(4096, 0), by_y=(0, 4096), plus=(0, 0)):
    return np.array([[[by_x[0], by_y[0], plus[0]], [by_x[1], by_y[1], plus[1]]]])


def test_it_has_the_form_of_a_color_set(made):
    assert made.train_images.shape == (4000, 3, 32, 32)
    assert made.test_images.shape == (1000, 3, 32, 32)
    assert made.train_images.dtype == made.test_images.dtype == torch.uint8
    assert (made.name, made.num_classes, made.channels) == ("mnist5k-textured", 10, 3)
    assert not made.flip


def test_labels_are_those_of_mnist5k(made, plain):
    assert torch.equal(made.train_labels, plain.train_labels)
    assert torch.equal(made.test_labels, plain.test_labels)


def test_the_bytes_are_the_published_ones(made):
    assert _sha(made.train_images) == TRAIN_SHA
    assert _sha(made.test_images) == TEST_SHA


def test_composing_again_gives_the_same_and_another_seed_another(made, plain):
    digits = plain.test_images.numpy()
    again = textured.compose(digits, textured.TEST_SEED)
    assert np.array_equal(again, made.test_images.numpy())
    assert not np.array_equal(textured.compose(digits[:500], 1), again[:500])


def test_no_image_comes_twice(made):
    images = torch.cat([made.train_images, made.test_images]).flatten(1).numpy()
    assert len({image.tobytes() for image in images}) == 5000


def test_textures_vary_within_an_image_and_between(rng):
    ground = textured._backgrounds(200, rng)
    assert ground.min() >= 0
    assert ground.max() <= 255
    within = ground.std((2, 3)).max(1)  # of the channel that shows the texture best
    assert np.percentile(within, 5) > 3
    assert np.median(within) > 15
    assert ground.mean((2, 3)).std(0).min() > 30


def test_without_a_digit_the_texture_is_all_there_is(made):
    blank = textured.compose(np.zeros((500, 1, 32, 32), np.uint8), textured.TEST_SEED)
    changed = (blank != made.test_images[:500].numpy()).any(1).mean((1, 2))
    assert changed.min() > 0.01
    assert changed.max() < 0.6


def test_colors_stand_out_from_the_texture(rng):
    ground = textured._backgrounds(500, rng)
    color = textured._foregrounds(ground, rng)
    brightness = [np.tensordot(x.mean((2, 3)), textured._LUMA, 1) / 256 for x in (ground, color)]
    contrast = np.abs(brightness[0] - brightness[1])
    least, most = textured._LEAST_CONTRAST
    assert (contrast > least - 2).mean() > 0.99
    assert least < np.median(contrast) < most


def test_warping_by_nothing_is_the_digit(plain):
    digit = plain.train_images[:1, 0].numpy()
    assert np.array_equal(textured.warp(digit, _map()), digit)


def test_warping_moves_and_turns_exactly(plain):
    digit = plain.train_images[:1, 0].numpy()
    moved = textured.warp(digit, _map(plus=(2 * 4096, -4096)))
    assert np.array_equal(moved, np.roll(digit, (1, -2), (1, 2)))
    turned = textured.warp(digit, _map(by_x=(0, 4096), by_y=(-4096, 0)))
    assert np.array_equal(turned, np.rot90(digit, 1, (1, 2)))


def test_warping_between_pixels_takes_the_mean(plain):
    digit = plain.train_images[:1, 0].numpy().astype(np.int64)
    between = textured.warp(digit, _map(plus=(2048, 0)))
    assert np.array_equal(between, digit + np.roll(digit, -1, 2) + 1 >> 1)


def test_digits_stay_in_the_frame(plain, rng):
    digits = plain.train_images[:, 0].numpy()
    maps = textured._affine_maps(len(digits), rng)
    linear = maps[:, :, :2] / 4096
    shrunk = np.abs(np.linalg.det(linear))
    kept = textured.warp(digits, maps).sum((1, 2)) * shrunk / digits.sum((1, 2))
    assert kept.min() > 0.9
    assert kept.max() < 1.1


def test_limits(made):
    few = made.limited(100, 50)
    assert len(few.train_labels) == 100
    assert len(few.test_images) == 50
    assert few.mean == made.mean
