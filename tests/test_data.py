"""Data: files read as they are, found where people have them, and one clear error for whatever is wrong."""

import gzip
import struct

import numpy as np
import pytest

from minivae import data
from minivae.errors import MiniVAEError


@pytest.fixture
def digits():
    return data.load("sample")


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch, tmp_path):
    """No test sees this machine's data or cache, and none writes there."""
    monkeypatch.delenv("MINIVAE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def idx(shape, contents, code=8):
    """The bytes of an IDX file, right or wrong."""
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape) + contents


def put_idx(folder, images=(3, 28, 28), seed=0, ending="", prefix="", test="t10k", dot="-", first_label=0):
    """Write a small data set in four IDX files under their usual names; return its training images."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, images, dtype=np.uint8)
    labels = (np.arange(images[0]) + first_label).astype(np.uint8)
    for part in ("train", test):
        data.write_idx(folder / f"{prefix}{part}-images{dot}idx3-ubyte{ending}", pixels)
        data.write_idx(folder / f"{prefix}{part}-labels{dot}idx1-ubyte{ending}", labels)
    return pixels


# The bundled sample

def test_sample_is_balanced_real_digits(digits):
    assert digits.x_train.shape == (5000, 28, 28) and digits.x_test.shape == (1000, 28, 28)
    assert digits.x_train.dtype == np.uint8 and digits.x_train.max() == 255
    assert np.bincount(digits.y_train).tolist() == [500] * 10
    assert np.bincount(digits.y_test).tolist() == [100] * 10
    assert digits.y_train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # as MNIST itself begins
    assert digits.y_test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    distances = [np.square(digits.x_train.astype(int) - image).sum((1, 2)) for image in digits.x_test[:30]]
    nearest = digits.y_train[np.argmin(distances, axis=1)]
    assert np.mean(nearest == digits.y_test[:30]) > 0.8  # the images fit their labels
    assert (digits.name, digits.note, digits.shape) == ("sample", "", (28, 28))


# IDX

@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_round_trip(tmp_path, dtype, ending):
    array = (np.arange(24).reshape(2, 3, 4) * 5).astype(dtype)
    path = tmp_path / f"file{ending}"
    data.write_idx(path, array)
    back = data.read_idx(path)
    assert back.dtype == np.dtype(dtype) and back.dtype.isnative and back.flags.writeable
    np.testing.assert_array_equal(back, array)
    data.write_idx(tmp_path / f"again{ending}", array)
    assert (tmp_path / f"again{ending}").read_bytes() == path.read_bytes()


def test_idx_is_the_published_layout(tmp_path):
    (tmp_path / "labels").write_bytes(bytes.fromhex("00000801 00000003 050004"))
    assert data.read_idx(tmp_path / "labels").tolist() == [5, 0, 4]


def test_gzip_is_told_by_its_contents(tmp_path):
    (tmp_path / "plain.gz").write_bytes(idx((2,), b"\1\2"))
    (tmp_path / "packed").write_bytes(gzip.compress(idx((2,), b"\1\2")))
    assert data.read_idx(tmp_path / "plain.gz").tolist() == [1, 2]
    assert data.read_idx(tmp_path / "packed").tolist() == [1, 2]


GOOD = idx((3, 2), b"abcdef")


@pytest.mark.parametrize("contents, words", {
    "empty": (b"", "not an IDX file"),
    "text": (b"label,pixel1", "not an IDX file"),
    "type": (idx((3,), b"abc", code=7), "type code 7"),
    "no dimensions": (idx((), b""), "0 dimensions"),
    "header": (GOOD[:9], "truncated"),
    "values": (GOOD[:-1], "truncated"),
    "trailing": (GOOD + b"x", "more follow"),
    "nothing inside": (idx((0, 28, 28), b""), "holds nothing"),
    "terabytes": (idx((2**31, 28, 28), b"abc"), "more than the file can hold"),
    "gzip terabytes": (gzip.compress(idx((2**31, 28, 28), b"abc")), "more than the file can hold"),
    "gzip short": (gzip.compress(GOOD[:-1]), "only 5 follow"),
    "gzip trailing": (gzip.compress(GOOD + b"x"), "more follow"),
    "gzip cut": (gzip.compress(GOOD)[:-6], "gzip"),
    "gzip checksum": (gzip.compress(GOOD)[:-8] + bytes(8), "gzip"),
    "gzip header only": (b"\x1f\x8b", "gzip"),
}.values(), ids=str)
def test_damaged_idx_is_one_clear_error(tmp_path, contents, words):
    path = tmp_path / "file"
    path.write_bytes(contents)
    with pytest.raises(MiniVAEError, match=words) as caught:
        data.read_idx(path)
    assert str(path) in str(caught.value)


def test_idx_that_cannot_be_read_or_written(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(MiniVAEError, match="cannot read"):
            data.read_idx(path)
    with pytest.raises(MiniVAEError, match="cannot write"):
        data.write_idx(tmp_path / "no such folder" / "file", np.zeros(3, np.uint8))
    for array, words in ((np.zeros(3, "uint64"), "uint64"), (np.zeros((0, 2), "uint8"), "at least one")):
        with pytest.raises(MiniVAEError, match=words):
            data.write_idx(tmp_path / "file", array)
    assert list(tmp_path.iterdir()) == []


# Finding a named data set

@pytest.mark.parametrize("name, inside", [
    ("mnist", ""), ("mnist", "mnist"), ("mnist", "MNIST/raw"), ("fashion-mnist", ""),
    ("fashion-mnist", "fashion-mnist"), ("fashion-mnist", "FashionMNIST/raw")])
@pytest.mark.parametrize("ending, dot", [("", "-"), (".gz", "-"), ("", "."), (".gz", ".")])
def test_idx_files_are_found_in_every_layout(tmp_path, name, inside, ending, dot):
    pixels = put_idx(tmp_path / "here" / inside, ending=ending, dot=dot)
    found = data.load(name, tmp_path / "here")
    np.testing.assert_array_equal(found.x_train, pixels)
    assert found.y_test.tolist() == [0, 1, 2] and found.name == name
    assert str(tmp_path / "here" / inside) in found.source
    direct = data.load(name, str(tmp_path / "here" / inside))
    np.testing.assert_array_equal(direct.x_train, pixels)


def test_mnist_and_fashion_mnist_are_never_confused(tmp_path):
    digits = put_idx(tmp_path / "mnist", seed=1)
    clothes = put_idx(tmp_path / "fashion-mnist", seed=2)
    np.testing.assert_array_equal(data.load("mnist", tmp_path).x_train, digits)
    np.testing.assert_array_equal(data.load("fashion-mnist", tmp_path).x_train, clothes)
    for name, other in (("mnist", "fashion-mnist"), ("fashion-mnist", "mnist")):
        with pytest.raises(MiniVAEError, match=f"{other} itself do not count"):
            data.load(name, tmp_path / other)
    raw = tmp_path / "torch" / "FashionMNIST" / "raw"
    put_idx(raw)
    for folder in (raw, raw.parent, raw.parent.parent):
        assert len(data.load("fashion-mnist", folder).x_train) == 3
        with pytest.raises(MiniVAEError, match="no MNIST in"):
            data.load("mnist", folder)


def test_emnist_letters_are_turned_upright_and_numbered_from_zero(tmp_path):
    pixels = put_idx(tmp_path, images=(26, 28, 28), prefix="emnist-letters-", test="test", first_label=1)
    letters = data.load("emnist-letters", tmp_path)
    np.testing.assert_array_equal(letters.x_train, pixels.transpose(0, 2, 1))
    assert letters.y_train.tolist() == list(range(26))
    assert "".join(letters.class_names) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def test_an_explicit_folder_must_have_it(tmp_path):
    with pytest.raises(MiniVAEError, match=r"no MNIST in .*train-images-idx3-ubyte.*mnist\.npz"):
        data.load("mnist", tmp_path)
    data.write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((2, 28, 28), np.uint8))
    with pytest.raises(MiniVAEError, match="Found only train-images-idx3-ubyte"):
        data.load("mnist", tmp_path)
    with pytest.raises(MiniVAEError, match="no such folder"):
        data.load("mnist", tmp_path / "missing")
    with pytest.raises(MiniVAEError, match="it is a file"):
        data.load("mnist", tmp_path / "train-images-idx3-ubyte")


def test_environment_then_sample(tmp_path, monkeypatch):
    fallen_back = data.load("mnist", download=False)
    assert fallen_back.name == "sample"
    assert "bundled sample" in fallen_back.note and "\n" not in fallen_back.note
    monkeypatch.setenv("MINIVAE_DATA", str(tmp_path / "data"))
    assert "MINIVAE_DATA" in data.load("mnist", download=False).note
    pixels = put_idx(tmp_path / "data" / "mnist")
    found = data.load("mnist", download=False)
    np.testing.assert_array_equal(found.x_train, pixels)
    assert found.note == ""
    with pytest.raises(MiniVAEError, match="no Fashion-MNIST in .*data directory"):
        data.load("fashion-mnist", download=False)
    with pytest.raises(MiniVAEError, match="unknown data set 'cifar'.*emnist-letters"):
        data.load("cifar")


def test_unsound_data_sets_are_refused(tmp_path):
    def refuses(words, **files):
        put_idx(tmp_path)
        for name, array in files.items():
            data.write_idx(tmp_path / name.replace("_", "-"), array)
        with pytest.raises(MiniVAEError, match=words):
            data.load("mnist", tmp_path)

    refuses("3 images but 2 labels", train_labels_idx1_ubyte=np.zeros(2, np.uint8))
    refuses("3 images but 4 labels", t10k_labels_idx1_ubyte=np.zeros(4, np.uint8))
    refuses("labels should be 0 to 9, got 0 to 11", train_labels_idx1_ubyte=np.array([0, 11, 1], np.uint8))
    refuses("uint8 of shape", train_images_idx3_ubyte=np.zeros((3, 784), np.uint8))
    refuses("uint8 of shape", train_images_idx3_ubyte=np.zeros((3, 28, 28), np.float32))
    refuses("test images", train_images_idx3_ubyte=np.zeros((3, 32, 32), np.uint8))
    refuses("labels should be integers", train_labels_idx1_ubyte=np.zeros(3, np.float32))


# Choosing examples

def test_limit(digits):
    few = data.load("sample", limit=7)
    np.testing.assert_array_equal(few.x_train, digits.x_train[:7])
    assert few.y_test.tolist() == digits.y_test[:7].tolist() and few.x_train.base is None
    assert len(data.load("sample", limit=10**9).x_train) == 5000
    for wrong in (0, -1, 2.5, "10", True):
        with pytest.raises(MiniVAEError, match="at least 1"):
            data.load("sample", limit=wrong)


@pytest.mark.parametrize("classes", ["71", "7,1", "7, 1", ["7", "1"], [7, 1], np.array([7, 1]), ["7", 1, 7]])
def test_only_some_classes(digits, classes):
    some = digits.only(classes)
    assert some.class_names == ("7", "1") and np.bincount(some.y_train).tolist() == [500, 500]
    np.testing.assert_array_equal(some.x_test, digits.x_test[np.isin(digits.y_test, [1, 7])])
    names = np.array(digits.class_names)[digits.y_test]
    np.testing.assert_array_equal(np.array(some.class_names)[some.y_test], names[np.isin(names, ["1", "7"])])


def test_only_by_name(tmp_path):
    put_idx(tmp_path, images=(10, 28, 28))
    clothes = data.load("fashion-mnist", tmp_path)
    assert clothes.only("Sandal").class_names == ("Sandal",)
    assert clothes.only("bag, ankle boot").class_names == ("Bag", "Ankle boot")
    for wrong in ("Socks", ["Bag", "Socks"], [10], [-1], [1.0], "", []):
        with pytest.raises(MiniVAEError, match="Trouser"):
            clothes.only(wrong)
    with pytest.raises(MiniVAEError, match="before limiting"):
        clothes.first(3).only("Bag")
