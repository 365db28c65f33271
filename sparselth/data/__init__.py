"""Image sets: held whole in memory and augmented on the device, or streamed from folders."""

from .batches import Batches
from .image_folder import ImageFolder
from .image_set import ImageSet
from .sets import REGISTRY, load, names
from .source import BatchSource, Data, batches_of

__all__ = [
    "REGISTRY",
    "BatchSource",
    "Batches",
    "Data",
    "ImageFolder",
    "ImageSet",
    "batches_of",
    "load",
    "names",
]
