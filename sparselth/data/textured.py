"""Warp digits and compose them, in color, over random textures: a harder variant of MNIST-5k.

Every step is exact in integers and every draw comes from RandomState, whose stream numpy promises
never to change: the bytes are the same on every machine.
"""

from __future__ import annotations

import numpy as np

SIZE = 32
# These are part of the data set: others would be another data set.
TRAIN_SEED, TEST_SEED = 20210719, 20210720
_CHUNK = 500
_STRONGEST = 90  # of a texture, to either side
_LEAST_CONTRAST, _CANDIDATES = (30, 90), 16
_PIXEL_NOISE = 8
_LUMA = np.array([77, 150, 29])  # of red, green and blue, over 256
_CELLS = (16, 8, 4)  # pixels between the points of the noise, coarse to fine


def compose(digits: np.ndarray, seed: int) -> np.ndarray:
    """Compose digits, uint8 (N, 1, 32, 32) in a black frame of 2, into uint8 (N, 3, 32, 32)."""
    rng = np.random.RandomState(seed)
    images = np.empty((len(digits), 3, SIZE, SIZE), dtype=np.uint8)
    for start in range(0, len(digits), _CHUNK):
        part = digits[start : start + _CHUNK, 0]
        alpha = warp(part, _affine_maps(len(part), rng))[:, None]
        ground = _backgrounds(len(part), rng)
        color = _foregrounds(ground, rng)
        mixed = ground + ((color - ground) * alpha + 128 >> 8)
        mixed += _draw(rng, -_PIXEL_NOISE, _PIXEL_NOISE, mixed.shape)
        images[start : start + _CHUNK] = mixed.clip(0, 255)
    return images


def warp(digits: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Sample each image at its own affine map of the pixels, bilinearly, black outside.

    digits: uint8 (N, 32, 32) in a black frame of 2.  maps: int64 (N, 2, 3), for x and for y of the
    place to read, each over 4096: times x, times y, both from the center, plus. Returns int64
    (N, 32, 32), 0 to 255.
    """
    across: np.ndarray = 2 * np.arange(SIZE) - (SIZE - 1)  # twice the distance from the center
    by_x, by_y, plus = (maps[:, :, n, None, None] for n in range(3))
    places = (by_x * across + by_y * across[:, None] >> 5) + (plus >> 4) + 128 * (SIZE - 1)
    corner, weight = places >> 8, places & 255
    corner = corner.clip(0, SIZE - 2)  # both first and both last rows are black
    at = (np.arange(len(digits))[:, None, None] * SIZE + corner[:, 1]) * SIZE + corner[:, 0]
    flat = digits.ravel().astype(np.int64)
    right, down = weight[:, 0], weight[:, 1]
    top = flat[at] * (256 - right) + flat[at + 1] * right
    bottom = flat[at + SIZE] * (256 - right) + flat[at + SIZE + 1] * right
    return top * (256 - down) + bottom * down + 2**15 >> 16


def _affine_maps(count: int, rng: np.random.RandomState) -> np.ndarray:
    """Draw how to get from a pixel to the place in its digit: turn, shear, stretch and move.

    The turn comes from the tangent t of half the angle, cos = (1 - t^2) / (1 + t^2) and sin =
    2t / (1 + t^2): whole numbers, where the last bit of a library's cosine may differ.
    """
    t = _draw(rng, -56, 56, count)  # over 256: up to 25 degrees
    shear = _draw(rng, -700, 700, count)
    stretch = _draw(rng, 3400, 5500, (count, 2))
    moved = _draw(rng, -3 * 4096, 3 * 4096, (count, 2))
    cos, sin = (4096 * a // (65536 + t * t) for a in (65536 - t * t, 512 * t))
    turned = np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)], 1)
    turned[:, 0] += shear[:, None] * turned[:, 1] >> 12
    linear = turned * stretch[:, :, None] >> 12
    plus = -(linear * moved[:, None]).sum(2) >> 12
    return np.concatenate([linear, plus[:, :, None]], 2)


def _backgrounds(count: int, rng: np.random.RandomState) -> np.ndarray:
    """Draw textures, int64 (N, 3, 32, 32): a color, plus one times noise, plus one times waves."""
    base = _draw(rng, 20, 160, (count, 3, 1, 1))
    strength = _draw(rng, 32, 256, (count, 1, 1, 1))
    for texture in (_noise(count, rng), _waves(count, rng)):
        color = _draw(rng, -_STRONGEST, _STRONGEST, (count, 3, 1, 1)) * strength >> 8
        base = base + (color * texture[:, None] >> 7)
    return base.clip(0, 255)


def _noise(count: int, rng: np.random.RandomState) -> np.ndarray:
    """Draw smooth noise, int64 (N, 32, 32) within +-127: random points, joined bilinearly."""
    total = np.zeros((count, SIZE, SIZE), dtype=np.int64)
    for cell in _CELLS:
        points = SIZE // cell + 1
        drawn = _draw(rng, -127, 127, (count, points, points))
        share = _draw(rng, 0, 256, (count, 1, 1))
        # Of each pixel, how much it takes from each point, over twice the cell.
        twice = 2 * np.arange(SIZE)[:, None] + 1 - 2 * cell * np.arange(points)
        joined = (2 * cell - np.abs(twice)).clip(0)
        total += (joined @ drawn @ joined.T // (2 * cell) ** 2) * share >> 8
    return total.clip(-127, 127)


def _waves(count: int, rng: np.random.RandomState) -> np.ndarray:
    """Draw stripes, or checks of two of them, int64 (N, 32, 32) within +-127, soft or hard."""
    x, y = np.arange(SIZE), np.arange(SIZE)[:, None]
    along, aside = (_draw(rng, -40, 40, (count, 1, 1)) for _ in range(2))  # 256 is a period
    start, start_aside = (_draw(rng, 0, 255, (count, 1, 1)) for _ in range(2))
    checked = _draw(rng, 0, 1, (count, 1, 1))
    steep = _draw(rng, 1, 6, (count, 1, 1))
    first, second = (
        ((np.abs((phase & 255) - 128) - 64) * 2 * steep).clip(-127, 127)
        for phase in (along * x + aside * y + start, aside * x - along * y + start_aside)
    )
    return np.where(checked == 1, first * second >> 7, first)


def _foregrounds(ground: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Choose a color (N, 3, 1, 1) for each background: the least different of the clear ones.

    Of some random colors, the darkest that is still brighter than the mean of the background by a
    random difference; the brightest where none is. Digits that are brighter or darker by chance
    leave a small network at a guess for a number of epochs that its seed decides.
    """
    colors = _draw(rng, 0, 255, (len(ground), _CANDIDATES, 3))
    mean = ground.sum((2, 3)) // SIZE**2
    contrast = (colors - mean[:, None]) @ _LUMA >> 8
    clear = contrast >= _draw(rng, *_LEAST_CONTRAST, (len(ground), 1))
    chosen = np.where(clear, contrast, 1000 - contrast).argmin(1)
    return colors[np.arange(len(ground)), chosen][:, :, None, None]


def _draw(rng: np.random.RandomState, low: int, high: int, shape: int | tuple) -> np.ndarray:
    """Draw int64 from low to high, both included; numpy's default is narrower on Windows."""
    return rng.randint(low, high + 1, shape, dtype=np.int64)
