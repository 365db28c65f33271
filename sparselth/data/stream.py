"""Serve a folder of image files as normalized batches, decoded by worker processes.

Every draw follows from (seed, epoch, image) alone, so that neither the number of workers nor a
resume changes an order or a crop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ..errors import SparselthError
from ..seeds import derive, generator
from .batches import normalize
from .dealt import Dealt
from .decode import checked, collate, read_rgb
from .given import check_labels
from .image_folder import ImageFolder, Samples

Key = tuple[int, int]  # (epoch, place in the list of samples)


class StreamedBatches(Dealt):
    """The batches of one image folder on one device.

    Yields `(x, labels)`: x float32 (N, 3, image_size, image_size), normalized with the folder's
    mean and std; labels int64 (N,). Raises `SparselthError` that names the file when an image
    cannot be decoded.
    """

    def __init__(
        self,
        data: ImageFolder,
        batch_size: int,
        seed: int,
        augment: bool,
        device: torch.device,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        dealing = (len(data.train_samples), batch_size, shard)
        super().__init__(*dealing)
        self.device = device
        self.test_count = len(data.test_samples)
        self._classes = data.num_classes
        self.mean = torch.tensor(data.mean, device=device).view(-1, 1, 1)
        self.std = torch.tensor(data.std, device=device).view(-1, 1, 1)
        plain = _center(data)
        # Not `self`: in a circle of references, the queues to the workers may be closed before the
        # loader has told them to stop, and it then waits 5 s for each.
        dealt = Dealt(*dealing)
        self._order = _EpochOrder(dealt, seed)
        self._train = self._loader(
            _Views(data.train_samples, _augmented(data) if augment else plain, seed),
            self._order,
            data.workers,
        )
        self._test = self._loader(
            _Views(data.test_samples, plain, seed), _InOrder(dealt, self.test_count), data.workers
        )

    def train(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every training image once, in the order and with the crops of this epoch.

        first_step: where to begin, in batches.
        """
        self._order.epoch, self._order.first_step = epoch, first_step
        return self._served(self._train)

    def check_labels(self, classes: int) -> None:
        """Refuse labels that a model of so many logits does not have."""
        check_labels(torch.arange(self._classes), classes, "the image folder")

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the center of every test image once, in order; each process its share."""
        return self._served(self._test)

    def close(self) -> None:
        """Stop the loaders' workers now, by the only way there is.

        Left to the garbage collector, which may come by in any thread and after the workers' queues
        are closed, they are waited for 5 s each.
        """
        for loader in (self._train, self._test):
            iterator, loader._iterator = loader._iterator, None
            if isinstance(iterator, _MultiProcessingDataLoaderIter):
                iterator._shutdown_workers()

    def _loader(self, views: _Views, order: Sampler[list[Key]], workers: int) -> DataLoader:
        return DataLoader(
            views,
            batch_sampler=order,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            # A loader draws a number whenever it starts workers. From torch's global state, that
            # would shift the dropout of the first epoch after a resume.
            generator=torch.Generator(),
        )

    def _served(self, loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
        """Move batches to the device as bytes, a quarter of what floats take, and normalize there.

        From pinned memory both copies run beside the computation, without waiting.
        """
        for images, labels in checked(loader):
            images = images.to(self.device, non_blocking=True)
            yield (
                normalize(images, self.mean, self.std),
                labels.to(self.device, non_blocking=True),
            )


class _Views(Dataset):
    """What is seen of each image file: transformed, as uint8 (3, H, W)."""

    def __init__(self, samples: Samples, transform: Any, seed: int) -> None:
        self.samples = samples
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> Any:
        epoch, place = key
        path, label = self.samples[place]
        try:
            image = read_rgb(path)
        except SparselthError as error:
            return error
        # The transforms draw from torch's global CPU state, which without workers is the
        # training's. `torch.manual_seed` would reseed CUDA too, where dropout draws.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(self.seed, "view", epoch, place))
            return self.transform(image), label


class _EpochOrder(Sampler[list[Key]]):
    """A new order in each epoch. Keys carry the epoch to workers, which live through all."""

    def __init__(self, dealt: Dealt, seed: int) -> None:
        self.dealt = dealt
        self.seed = seed
        self.epoch = 0
        self.first_step = 0

    def __iter__(self) -> Iterator[list[Key]]:
        rng = generator(self.seed, "batches", self.epoch)
        order = torch.randperm(self.dealt.train_count, generator=rng, device="cpu")
        for step in range(self.first_step, self.dealt.steps):
            yield [(self.epoch, place) for place in order[self.dealt.part(step)].tolist()]


class _InOrder(Sampler[list[Key]]):
    """The order of the list; nothing that is drawn depends on the epoch."""

    def __init__(self, dealt: Dealt, count: int) -> None:
        self.dealt = dealt
        self.count = count

    def __iter__(self) -> Iterator[list[Key]]:
        places = range(self.count)
        for step in range(-(-self.count // self.dealt.batch_size)):
            mine = places[self.dealt.part(step)]
            if mine:  # the last batch may have none for this process
                yield [(0, place) for place in mine]


def _augmented(data: ImageFolder) -> Any:
    from torchvision.transforms import v2

    flip = [v2.RandomHorizontalFlip()] if data.flip else []
    return v2.Compose([v2.RandomResizedCrop(data.image_size), *flip, v2.PILToTensor()])


def _center(data: ImageFolder) -> Any:
    from torchvision.transforms import v2

    return v2.Compose([v2.Resize(data.resize), v2.CenterCrop(data.image_size), v2.PILToTensor()])
