"""Data: files read as they are, found where people have them, and one clear error for whatever is wrong."""

import gzip
import hashlib
import struct
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from minivae import data
from minivae.data import catalogue
from minivae.errors import MiniVAEError, MiniVAEWarning


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
    assert not ending or path.read_bytes()[4:8] == bytes(4)  # no time stamp
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


@pytest.mark.parametrize(
    "contents, words",
    {
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
    }.values(),
    ids=str,
)
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


@pytest.mark.parametrize(
    "name, inside",
    [
        ("mnist", ""),
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", ""),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
@pytest.mark.parametrize("ending, dot", [("", "-"), (".gz", "-"), ("", "."), (".gz", ".")])
def test_idx_files_are_found_in_every_layout(tmp_path, name, inside, ending, dot):
    pixels = put_idx(tmp_path / "here" / inside, ending=ending, dot=dot)
    found = data.load(name, tmp_path / "here")
    np.testing.assert_array_equal(found.x_train, pixels)
    assert found.y_test.tolist() == [0, 1, 2] and found.y_test.dtype == np.int64 and found.name == name
    assert str(tmp_path / "here" / inside) in found.source
    direct = data.load(name, str(tmp_path / "here" / inside))
    np.testing.assert_array_equal(direct.x_train, pixels)


def test_mnist_and_fashion_mnist_are_never_confused(tmp_path):
    digits = put_idx(tmp_path / "mnist", seed=1)
    clothes = put_idx(tmp_path / "fashion-mnist", seed=2)
    np.testing.assert_array_equal(data.load("mnist", tmp_path).x_train, digits)
    np.testing.assert_array_equal(data.load("fashion-mnist", tmp_path).x_train, clothes)
    for name, other in (("mnist", "fashion-mnist"), ("fashion-mnist", "mnist")):
        with pytest.raises(MiniVAEError, match=f"{other} itself do not count") as caught:
            data.load(name, tmp_path / other)
        assert "Found only" not in str(caught.value)
    raw = tmp_path / "torch" / "FashionMNIST" / "raw"
    put_idx(raw)
    for folder in (raw, raw.parent, raw.parent.parent):
        assert len(data.load("fashion-mnist", folder).x_train) == 3
        with pytest.raises(MiniVAEError, match="no MNIST in"):
            data.load("mnist", folder)


def test_emnist_letters_are_turned_upright_and_numbered_from_zero(tmp_path):
    folder = tmp_path / "mnist" / "emnist" / "gzip"
    pixels = put_idx(folder, images=(26, 28, 28), prefix="emnist-letters-", test="test", first_label=1)
    letters = data.load("emnist-letters", tmp_path / "mnist")
    np.testing.assert_array_equal(letters.x_train, pixels.transpose(0, 2, 1))
    assert letters.y_train.tolist() == list(range(26))
    assert "".join(letters.class_names) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    np.testing.assert_array_equal(data.load("emnist-letters", folder).x_train, letters.x_train)
    put_idx(folder, images=(26, 28, 28), prefix="emnist-letters-", test="test", first_label=0)
    with pytest.raises(MiniVAEError, match="labels should be 1 to 26, got 0 to 25"):
        data.load("emnist-letters", folder)


def test_letters_under_a_folder_named_after_digits(tmp_path):
    put_idx(tmp_path / "mnist", prefix="emnist-letters-", test="test", first_label=1)
    assert len(data.load("emnist-letters", tmp_path / "mnist").x_train) == 3


def test_the_checksum_tells_which_labels_they_are(tmp_path, monkeypatch):
    put_idx(tmp_path)
    labels = hashlib.md5((tmp_path / "train-labels-idx1-ubyte").read_bytes()).hexdigest()
    assert "standard" not in data.load("mnist", tmp_path).source
    monkeypatch.setitem(catalogue.COLLECTIONS, "mnist", replace(catalogue.MNIST, train_labels_md5=labels))
    digits = data.load("mnist", tmp_path)
    assert "standard split and order" in digits.source and digits.note == ""
    with pytest.warns(MiniVAEWarning, match="are those of MNIST"):
        data.load("fashion-mnist", tmp_path)


def test_an_explicit_folder_must_have_it(tmp_path):
    with pytest.raises(MiniVAEError, match=r"no MNIST in .*train-images-idx3-ubyte.*mnist\.npz") as caught:
        data.load("mnist", tmp_path)
    assert "(or .idx for -idx, or with .gz)" in str(caught.value) and "Found only" not in str(caught.value)
    assert "mnist_train.csv and mnist_test.csv" in str(caught.value)
    data.write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((2, 28, 28), np.uint8))
    with pytest.raises(MiniVAEError, match="Found only train-images-idx3-ubyte"):
        data.load("mnist", tmp_path)
    with pytest.raises(MiniVAEError, match="no such folder"):
        data.load("mnist", tmp_path / "missing")
    with pytest.raises(MiniVAEError, match="no such folder"):
        data.load("mnist", tmp_path / ("long" * 5000))
    with pytest.raises(MiniVAEError, match="it is a file"):
        data.load("mnist", tmp_path / "train-images-idx3-ubyte")


def test_environment_then_sample(tmp_path, monkeypatch):
    with pytest.warns(MiniVAEWarning, match="the bundled sample, .* stands in for MNIST") as warned:
        fallen_back = data.load("mnist", download=False)
    assert fallen_back.name == "sample" and "\n" not in fallen_back.note
    assert [str(each.message) for each in warned] == [fallen_back.note] and warned[0].filename == __file__
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MINIVAE_DATA", "~/data")
    with pytest.warns(MiniVAEWarning, match=r"no MNIST in ~/data \(MINIVAE_DATA\)"):
        data.load("mnist", download=False)
    pixels = put_idx(tmp_path / "data" / "mnist")
    found = data.load("mnist", download=False)
    np.testing.assert_array_equal(found.x_train, pixels)
    assert found.note == ""
    np.testing.assert_array_equal(data.load("mnist", "~/data").x_train, pixels)
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
    assert some.class_names == ("7", "1") and some.source.endswith("only 7, 1")
    assert np.bincount(some.y_train).tolist() == [500, 500]
    np.testing.assert_array_equal(some.x_test, digits.x_test[np.isin(digits.y_test, [1, 7])])
    names = np.array(digits.class_names)[digits.y_test]
    np.testing.assert_array_equal(np.array(some.class_names)[some.y_test], names[np.isin(names, ["1", "7"])])


def test_only_by_name(tmp_path):
    put_idx(tmp_path, images=(10, 28, 28))
    clothes = data.load("fashion-mnist", tmp_path)
    assert clothes.only("Sandal").class_names == clothes.only("sandal").class_names == ("Sandal",)
    assert clothes.only("bag, ankle boot").class_names == ("Bag", "Ankle boot")
    assert clothes.only(8).class_names == ("Bag",)
    for wrong in ("Socks", ["Bag", "Socks"], [10], [-1], [1.0], "", []):
        with pytest.raises(MiniVAEError, match="Trouser"):
            clothes.only(wrong)
    with pytest.raises(MiniVAEError, match="before limiting"):
        clothes.first(3).only("Bag")


# CSV


def csv_text(labels, images, header=None):
    rows = [",".join(map(str, [label, *image.ravel()])) for label, image in zip(labels, images, strict=True)]
    return "\n".join(([header] if header else []) + rows) + "\n"


HEADER = "label," + ",".join(f"pixel{i}" for i in range(1, 785))
PIXELS = np.random.default_rng(0).choice(np.array([0, 7, 10, 99, 100, 255], np.uint8), (6, 28, 28))
LABELS = [9, 0, 3, 3, 1, 9]


@pytest.mark.parametrize(
    "change",
    {
        "as it is": lambda text: text,
        "no header": lambda text: text.split("\n", 1)[1],
        "byte-order mark": lambda text: "\ufeff" + text,
        "byte-order mark, no header": lambda text: "\ufeff" + text.split("\n", 1)[1],
        "Windows": lambda text: text.replace("\n", "\r\n"),
        "trailing empty lines": lambda text: text + "\n \n",
        "no end of line": lambda text: text.rstrip(),
        "blanks": lambda text: text.replace(",", ", "),
        "leading zeros": lambda text: text.replace(",0,", ",000,"),
        "numbers in the header": lambda text: text.replace("pixel", ""),
        "quoted header": lambda text: text.replace("label", '"label"'),
        "label last": lambda text: "\n".join(
            ",".join([*line.split(",")[1:], line.split(",")[0]]) for line in text.splitlines()
        ),
    }.values(),
    ids=range(12),
)
def test_csv(tmp_path, change):
    path = tmp_path / "file.csv"
    path.write_bytes(change(csv_text(LABELS, PIXELS, HEADER)).encode())
    images, labels = data.read_csv(path)
    np.testing.assert_array_equal(images, PIXELS)
    assert images.dtype == np.uint8 and labels.dtype == np.int64 and labels.tolist() == LABELS


def test_csv_of_other_forms(tmp_path):
    path = tmp_path / "file.csv.gz"
    path.write_bytes(gzip.compress(csv_text(LABELS, PIXELS).encode()))
    images, labels = data.read_csv(path, transposed=True)
    np.testing.assert_array_equal(images, PIXELS.transpose(0, 2, 1))
    assert labels.tolist() == LABELS and images.flags.c_contiguous
    path.write_text(csv_text(LABELS, PIXELS[:, :4, :5]))
    np.testing.assert_array_equal(data.read_csv(path, shape=(4, 5))[0], PIXELS[:, :4, :5])


@pytest.mark.parametrize(
    "change, words",
    {
        "too few": (lambda rows: rows[3].pop(), "line 5: expected 785 values, got 784"),
        "too many": (lambda rows: rows[3].append("0"), "line 5: expected 785 values, got 786"),
        "two in one": (lambda rows: rows.__setitem__(3, rows[3] + rows.pop(4)), "line 5: .* got 1570"),
        "word": (lambda rows: rows[5].__setitem__(7, "abc"), "line 7, column 8: .* got 'abc'"),
        "empty field": (lambda rows: rows[0].__setitem__(1, ""), "line 2, column 2: .* got nothing"),
        "fraction": (lambda rows: rows[0].__setitem__(784, "0.5"), "line 2, column 785: .* got '0.5'"),
        "negative": (lambda rows: rows[1].__setitem__(2, "-1"), "line 3, column 3: .* got '-1'"),
        "256": (lambda rows: rows[1].__setitem__(2, "256"), "line 3, column 3: .* got '256'"),
        "1000": (lambda rows: rows[1].__setitem__(2, "1000"), "line 3, column 3: .* got '1000'"),
        "long": (lambda rows: rows[1].__setitem__(2, "9" * 5000), "line 3, column 3"),
        "other digits": (lambda rows: rows[1].__setitem__(2, "\u0663"), "line 3, column 3"),
    }.values(),
    ids=range(11),
)
def test_a_bad_row_is_named_by_its_line(tmp_path, change, words):
    rows = [line.split(",") for line in csv_text(LABELS, PIXELS).splitlines()]
    change(rows)
    path = tmp_path / "file.csv"
    path.write_text("\n".join([HEADER, *map(",".join, rows)]))
    with pytest.raises(MiniVAEError, match=words) as caught:
        data.read_csv(path)
    assert str(path) in str(caught.value)


def test_a_bad_row_far_into_the_file(tmp_path):
    lines = csv_text(LABELS * 300, np.tile(PIXELS, (300, 1, 1))).splitlines()
    lines[1700] = lines[1700][:-3]
    (tmp_path / "file.csv").write_text("\r\n".join(lines))
    lines[1234] = "?" + lines[1234][1:]
    (tmp_path / "other.csv").write_text("\n".join(lines))
    with pytest.raises(MiniVAEError, match="line 1701: expected 785"):
        data.read_csv(tmp_path / "file.csv")
    with pytest.raises(MiniVAEError, match="line 1235, column 1"):
        data.read_csv(tmp_path / "other.csv")


@pytest.mark.parametrize(
    "text, words",
    {
        "empty": ("", "the file is empty"),
        "header only": (HEADER + "\n", "no rows"),
        "blank lines only": ("\n\r\n", "the file is empty"),
        "another header": ("label,a,b\n" + csv_text(LABELS, PIXELS), "square image"),
        "header that does not fit": (
            "label,a,b,c,d\n" + csv_text(LABELS, PIXELS),
            "line 2: expected 5 values, got 785",
        ),
        "header without label, lower": ("\n\nclass,a", "line 3: no label column"),
        "header without label": (HEADER.replace("label", "class"), "line 1: no label column"),
        "rows without label": (csv_text(LABELS, PIXELS)[2:], "is the label column missing"),
        "semicolons": (csv_text(LABELS, PIXELS).replace(",", ";"), "line 1"),
        "other": ("<html>404</html>", "no label column"),
    }.values(),
    ids=range(10),
)
def test_csv_that_is_none(tmp_path, text, words):
    (tmp_path / "file.csv").write_text(text)
    with pytest.raises(MiniVAEError, match=words):
        data.read_csv(tmp_path / "file.csv")


def test_csv_of_a_wrong_shape(tmp_path):
    (tmp_path / "file.csv").write_text(csv_text(LABELS, PIXELS))
    with pytest.raises(MiniVAEError, match=r"expected 1025 values.*\(32, 32\), got 785"):
        data.read_csv(tmp_path / "file.csv", shape=(32, 32))
    with pytest.raises(MiniVAEError, match="expected shape as .height, width."):
        data.read_csv(tmp_path / "file.csv", shape=784)


@pytest.mark.slow
def test_csv_of_60000_rows_takes_seconds_and_little_memory(tmp_path):
    rows = csv_text(LABELS, PIXELS)
    (tmp_path / "file.csv").write_text(HEADER + "\n" + rows * 10_000)
    start = time.process_time()
    images, _ = data.read_csv(tmp_path / "file.csv")
    assert time.process_time() - start < 5 and len(images) == 60_000
    tracemalloc.start()
    images, _ = data.read_csv(tmp_path / "file.csv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - images.nbytes < 200 * 2**20


@pytest.mark.parametrize(
    "name, files, header, first_label",
    [
        ("fashion-mnist", ("fashion-mnist_train.csv", "fashion-mnist_test.csv"), HEADER, 0),
        ("mnist", ("mnist_train.csv", "mnist_test.csv"), None, 0),
        ("emnist-letters", ("emnist-letters-train.csv", "emnist-letters-test.csv"), None, 1),
    ],
)
def test_kaggle_files_are_found(tmp_path, name, files, header, first_label):
    for file in files:
        (tmp_path / file).write_text(csv_text(np.array(LABELS) + first_label, PIXELS, header))
    found = data.load(name, tmp_path)
    upright = PIXELS.transpose(0, 2, 1) if name == "emnist-letters" else PIXELS
    np.testing.assert_array_equal(found.x_train, upright)
    assert found.y_test.tolist() == LABELS and "CSV" in found.source


def test_mapping(tmp_path):
    path = tmp_path / "emnist-letters-mapping.txt"
    path.write_bytes(b"1 65 97 \r\n2 66 98\r\n\r\n")
    assert data.read_mapping(path) == {1: "A", 2: "B"}
    path.write_text("0 48\n1 49\n")
    assert data.read_mapping(path) == {0: "0", 1: "1"}
    for wrong in ("1 65 97\n2", "1 65 97\n2 B b", "1 65\n2 99999999999", "1 65\n2 66 98 1"):
        path.write_text(wrong)
        with pytest.raises(MiniVAEError, match="line 2"):
            data.read_mapping(path)


# Keras's npz


def put_npz(path, **changes):
    arrays = dict(x_train=PIXELS, y_train=np.array(LABELS, np.uint8), x_test=PIXELS, y_test=np.array(LABELS))
    np.savez(path, **(arrays | changes))


def test_keras_npz(tmp_path):
    put_npz(tmp_path / "mnist.npz")
    found = data.load("mnist", tmp_path)
    np.testing.assert_array_equal(found.x_train, PIXELS)
    assert found.y_train.tolist() == LABELS and "npz" in found.source
    with pytest.raises(MiniVAEError, match="no Fashion-MNIST"):
        data.load("fashion-mnist", tmp_path)


def test_damaged_npz_is_one_clear_error(tmp_path):
    path = tmp_path / "mnist.npz"

    def refuses(words):
        with pytest.raises(MiniVAEError, match=words) as caught:
            data.read_npz(path)
        assert str(path) in str(caught.value)

    refuses("cannot read")
    put_npz(path, x_train=np.array([{}], dtype=object))
    refuses("pickle")
    np.savez(path, x_train=PIXELS)
    refuses("y_train")
    path.write_bytes(path.read_bytes()[:-10])
    refuses("expected an .npz file")
    path.write_bytes(b"")
    refuses("expected an .npz file")
    np.save(path.with_suffix(".npy"), PIXELS)
    path.with_suffix(".npy").rename(path)
    refuses("single array")


# Your own images


def test_images_from_a_folder(tmp_path):
    for name, size in (("b.png", (5, 4)), ("a.PNG", (5, 4)), ("sub/c.jpg", (5, 4)), ("notes.txt", None)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("not an image") if size is None else Image.new("RGB", size, (250, 10, 10)).save(path)
    (tmp_path / "._a.png").write_text("not an image, but what a Mac leaves beside one")
    grey = data.read_images(tmp_path)
    assert grey.shape == (3, 4, 5) and grey.dtype == np.uint8
    assert np.abs(grey.astype(int) - (0.299 * 250 + 0.701 * 10)).max() <= 2
    color = data.read_images(str(tmp_path), size=(8, 8), color=True)
    assert color.shape == (3, 8, 8, 3) and color[0, 0, 0].tolist() == [250, 10, 10]


def test_images_in_the_order_of_their_names(tmp_path):
    for value in (30, 10, 20):
        Image.new("L", (3, 3), value).save(tmp_path / f"{value}.png")
    assert data.read_images(tmp_path)[:, 0, 0].tolist() == [10, 20, 30]


def test_transparent_is_white_and_photographs_are_upright(tmp_path):
    ink = np.zeros((2, 3, 4), np.uint8)
    ink[0, 0, 3] = 255  # one opaque black pixel, the rest transparent
    Image.fromarray(ink).save(tmp_path / "a.png")
    assert data.read_images(tmp_path).tolist() == [[[0, 255, 255], [255, 255, 255]]]
    Image.new("L", (1, 2), 7).save(tmp_path / "a.png", transparency=7)  # a colour that is to be seen through
    assert data.read_images(tmp_path).tolist() == [[[255], [255]]]
    photo = Image.fromarray(np.array([[0, 255], [0, 255], [0, 255]], np.uint8))
    exif = photo.getexif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    photo.save(tmp_path / "a.png", exif=exif)
    assert data.read_images(tmp_path).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_images_from_arrays():
    assert data.read_images(PIXELS) is PIXELS and data.read_images(PIXELS, size=(28, 28)) is PIXELS
    np.testing.assert_array_equal(data.read_images(PIXELS / 255), PIXELS)
    for dtype in (int, np.int16):
        np.testing.assert_array_equal(data.read_images(PIXELS.astype(dtype)), PIXELS)
    assert (data.read_images(np.full((1, 2, 2), 0.9999)) == 255).all()
    np.testing.assert_array_equal(data.read_images(PIXELS > 50), 255 * (PIXELS > 50))
    plain = np.full((2, 6, 8, 3), 77, np.uint8)
    np.testing.assert_array_equal(data.read_images(plain[..., 0], size=[3, 4]), plain[:, :3, :4, 0])
    np.testing.assert_array_equal(data.read_images(plain), plain[..., 0])
    assert data.read_images(PIXELS, color=True).shape == (6, 28, 28, 3)


def test_bad_images_are_one_clear_error(tmp_path):
    def refuses(words, source, **options):
        with pytest.raises(MiniVAEError, match=words):
            data.read_images(source, **options)

    refuses("no images in", tmp_path)
    refuses("no such folder", tmp_path / "missing")
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    Image.new("L", (9, 8)).save(tmp_path / "b.png")
    refuses(r"several sizes, 9 x 9 and 8 x 9 .*b\.png.*size=", tmp_path)
    refuses("height, width", tmp_path, size=28)
    refuses("height, width", tmp_path, size=(0, 28))
    refuses("height, width", tmp_path, size=(28, 28, 3))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9), np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:80])
    refuses(r"cannot read the image .*b\.png", tmp_path)
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "b.png")
    refuses("8 bits", tmp_path)
    refuses("fractions from 0 to 1, got float64", PIXELS * 2.0)
    refuses("got int64 from 0 to 510", PIXELS * np.int64(2))
    refuses("got float64 from -1.0", PIXELS / 255 - 1)
    refuses("nan", np.full((2, 3, 3), np.nan))
    refuses("several sizes", [np.zeros((2, 2)), np.zeros((3, 3))])
    refuses("shape", np.zeros((4, 784)))
    refuses("shape", np.zeros((4, 28, 28, 4)))
    refuses("shape", np.zeros((0, 28, 28)))
