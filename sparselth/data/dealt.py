"""Deal the images of an epoch into batches, and the images of a batch to processes."""

from __future__ import annotations


class Dealt:
    """The batches of `train_count` images, each shared by the processes that train together.

    shard: (rank, size) of a process among several, which gets every size-th image of each batch;
    a last batch that has not one for each is left out.
    """

    resumes_within = True

    def __init__(self, train_count: int, batch_size: int, shard: tuple[int, int]) -> None:
        self.train_count = train_count
        self.batch_size = batch_size
        self.rank, self.processes = shard

    @property
    def steps(self) -> int:
        """The number of training batches in an epoch; the last may be smaller."""
        whole, rest = divmod(self.train_count, self.batch_size)
        return whole + (rest >= self.processes)

    def close(self) -> None:
        """Stop what works ahead, of which there is none here."""

    def images_in(self, step: int) -> int:
        """Return how many images the training batch number `step` has, in all processes."""
        return min(self.batch_size, self.train_count - step * self.batch_size)

    def part(self, step: int, batch_size: int | None = None) -> slice:
        """Return the places of this process's share of a batch, in the order of the epoch.

        step: its number, from 0.  batch_size: another than that of training.
        """
        size = batch_size or self.batch_size
        return slice(step * size + self.rank, (step + 1) * size, self.processes)
