"""Batches among processes, and epochs begun in the middle: in memory and streamed alike."""

import gc
import weakref

import pytest
import torch

from sparselth.data import ImageFolder, ImageSet, batches_of

CPU = torch.device("cpu")
COUNTS = (11, 5)  # images to train and to test


@pytest.fixture(params=["in memory", "streamed", "streamed by workers"])
def source(request, tmp_path, write_image):
    """Return what serves batches of 4 to one process of several."""
    if request.param == "in memory":
        images = torch.randint(0, 256, (sum(COUNTS), 3, 8, 8), dtype=torch.uint8)
        labels = torch.arange(sum(COUNTS))
        parts = images[:11], labels[:11], images[11:], labels[11:]
        data = ImageSet("numbered", *parts, sum(COUNTS), (0.5,) * 3, (0.3,) * 3, flip=True)
    else:
        pytest.importorskip("torchvision")
        for folder, count in zip(("train", "val"), COUNTS, strict=True):
            for i in range(count):
                write_image(tmp_path / f"{folder}/{'ab'[i % 2]}/{i:02}.png", width=20 + i)
        workers = 2 * (request.param == "streamed by workers")
        data = ImageFolder(tmp_path, image_size=8, resize=10, workers=workers)
    return lambda rank=0, size=1: batches_of(data, 4, 0, True, CPU, (rank, size))


def interleaved(shares):
    """Put back together what every process got of a batch."""
    whole = torch.empty(sum(map(len, shares)), *shares[0].shape[1:], dtype=shares[0].dtype)
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole


@pytest.mark.parametrize("size", [2, 3, 4])
def test_processes_share_each_batch(source, size):
    one, several = source(), [source(rank, size) for rank in range(size)]
    # The last batch has 3 images: too few for 4 processes.
    assert {each.steps for each in several} == {2 if size == 4 else 3}
    batches = list(one.train(1))
    shares = zip(*(each.train(1) for each in several), strict=True)
    for step, batch in enumerate(shares):
        for got, want in zip(zip(*batch, strict=True), batches[step], strict=True):
            assert torch.equal(interleaved(got), want)
        assert {each.images_in(step) for each in several} == {len(batches[step][1])}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_processes_share_the_test_images(source, size):
    found = [label for rank in range(size) for _, y in source(rank, size).test() for label in y]
    whole = torch.cat([y for _, y in source().test()])
    assert torch.stack(found).sort().values.tolist() == whole.sort().values.tolist()
    assert len(whole) == COUNTS[1]


@pytest.mark.parametrize("first_step", [0, 1, 2, 3])
def test_an_epoch_may_begin_at_any_batch(source, first_step):
    batches = source()
    whole, rest = list(batches.train(2)), list(batches.train(2, first_step))
    assert len(rest) == 3 - first_step
    for got, want in zip(rest, whole[first_step:], strict=True):
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])
    assert len(list(batches.train(2))) == 3  # and the next one at its beginning


def test_batches_are_freed_without_the_garbage_collector(source):
    """In a circle, workers would not be told to stop, and be waited for."""
    batches = source()
    list(batches.train(0))
    gone = weakref.ref(batches)
    gc.disable()
    try:
        del batches
        assert gone() is None
    finally:
        gc.enable()
