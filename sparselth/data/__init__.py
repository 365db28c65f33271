"""Image sets, held whole in memory and served as augmented batches on the device."""

from .batches import Batches
from .image_set import ImageSet
from .sets import REGISTRY, load, names

__all__ = ["REGISTRY", "Batches", "ImageSet", "load", "names"]
