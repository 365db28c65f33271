"""Image files in the forms that data sets are published in, written small."""

import numpy as np
import pytest


@pytest.fixture
def write_image():
    """Write a random image file of a size and a Pillow mode, and return its path."""
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.RandomState(0)

    def write(path, width=64, height=64, mode="RGB"):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Coarse squares: noise of single pixels is not what JPEG is made for.
        small = rng.randint(0, 256, (-(-height // 8), -(-width // 8), 3)).astype(np.uint8)
        pixels = small.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
        image_module.fromarray(pixels).convert(mode).save(path)
        return path

    return write
