"""Data of one's own in one line, from whatever they lie in."""

import gzip

import numpy as np
import pytest

import minivae as mv
from minivae import data

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 5, 4)).astype("u1")


def pictures(folder, classes=("",), n=10):
    from PIL import Image

    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(PIXELS[k * n + i]).save(folder / name / f"{i:02}.png")


def together(dataset):
    """All examples, sorted."""
    return sorted(np.concatenate([dataset.x_train, dataset.x_test]).reshape(-1, np.prod(dataset.shape)).tolist())


def test_a_folder_of_pictures(tmp_path):
    pictures(tmp_path)
    own = data.load(tmp_path, test=0.2)
    assert own.x_train.shape == (8, 5, 4) and own.x_test.shape == (2, 5, 4) and own.y_train is None
    assert together(own) == sorted(PIXELS[:10].reshape(10, -1).tolist())
    assert "8 training and 2 test examples of 5 x 4, no classes" in repr(own)
    assert data.load(str(tmp_path), size=(7, 7), color=True).shape == (7, 7, 3)
    assert len(own.first(3).x_train) == 3 and own.first(3).y_test is None


def test_sub_folders_are_classes(tmp_path):
    pictures(tmp_path, ("cats", "dogs", "owls"))
    own = data.load(tmp_path)
    assert own.class_names == ("cats", "dogs", "owls") and len(own.x_test) == 3
    for x, y in zip(own.x_train, own.y_train, strict=True):
        assert any(np.array_equal(x, other) for other in PIXELS[10 * y : 10 * y + 10])
    assert data.load(tmp_path / "cats").y_train is None


def test_one_sub_folder_or_pictures_beside_them_are_no_classes(tmp_path):
    pictures(tmp_path / "one", ("cats",))
    pictures(tmp_path / "beside", ("cats", "dogs", ""), n=5)
    for name in ("one", "beside"):
        own = data.load(tmp_path / name)
        assert own.y_train is None and own.class_names == () and len(own.x_train) > 5


def test_arrays(tmp_path):
    np.save(tmp_path / "x.npy", PIXELS)
    np.savez(tmp_path / "x.npz", PIXELS)
    np.savez(tmp_path / "xy.npz", x=PIXELS, y=np.arange(30) % 3 + 5)
    data.write_idx(tmp_path / "x-idx3-ubyte.gz", PIXELS)
    with open(tmp_path / "x2.npy", "wb") as file:
        np.lib.format.write_array(file, PIXELS, version=(2, 0))
    files = (tmp_path / name for name in ("x.npy", "x2.npy", "x.npz", "xy.npz", "x-idx3-ubyte.gz"))
    for source in (PIXELS, PIXELS.tolist(), *files):
        own = data.load(source)
        assert (own.x_train.shape, own.x_test.shape) == ((27, 5, 4), (3, 5, 4))
        assert together(own) == sorted(PIXELS.reshape(30, -1).tolist())
        assert own.source == ("an array" if isinstance(source, (np.ndarray, list)) else str(source))
    own = data.load(tmp_path / "xy.npz")
    assert own.class_names == ("5", "6", "7") and set(own.y_train) == {0, 1, 2}
    parts = {"x_train": PIXELS[:20], "x_test": PIXELS[20:], "y_train": np.arange(20) % 2, "y_test": np.ones(10, int)}
    np.savez(tmp_path / "four.npz", **parts)
    own = data.load(tmp_path / "four.npz")
    np.testing.assert_array_equal(own.x_test, PIXELS[20:])


def test_classes_of_training_and_test_are_numbered_together(tmp_path):
    """Of which a test may have fewer."""
    parts = {"x_train": PIXELS[:20], "x_test": PIXELS[20:]}
    np.savez(tmp_path / "a.npz", **parts, y_train=np.array(["cat", "dog"] * 10), y_test=np.array(["dog"] * 10))
    own = data.load(tmp_path / "a.npz")
    assert own.class_names == ("cat", "dog") and set(own.y_test) == {1} and own.y_train[:3].tolist() == [0, 1, 0]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table(tmp_path, end):
    lines = ["a, b,Class", "1,2.5,yes", "3,-4e1,no", "", "5,6,yes", "7,8,no"]
    (tmp_path / "t.csv").write_bytes(end.join(lines).encode("utf-8-sig"))
    own = data.load(tmp_path / "t.csv", test=0.25)
    assert own.class_names == ("no", "yes") and own.shape == (2,)
    assert together(own) == [[1, 2.5], [3, -40], [5, 6], [7, 8]]
    assert all((y == 1) == (x[0] in (1, 5)) for x, y in zip(own.x_train, own.y_train, strict=True))
    with gzip.open(tmp_path / "n.csv.gz", "wt") as file:
        file.write("1,2\n3,4\n")
    assert data.load(tmp_path / "n.csv.gz", test=0.5).y_train is None


def test_the_same_split_each_time():
    one, other = data.load(PIXELS), data.load(PIXELS)
    np.testing.assert_array_equal(one.x_test, other.x_test)


def test_a_model_trains_on_it(tmp_path):
    pictures(tmp_path, ("cats", "dogs"))
    own = data.load(tmp_path)
    vae = mv.mlp(20, hidden=(8,), n_classes=2)
    history = mv.fit(vae, (own.x_train, own.y_train), (own.x_test, own.y_test), epochs=2, batch_size=9, progress=False)
    assert len(history) == 2


@pytest.mark.parametrize(
    "make, what",
    [
        (lambda p: p / "none.npy", "no such file or folder"),
        (lambda p: "nonsense", "unknown data set 'nonsense': expected one of mnist, .* or a file or a folder"),
        (lambda p: np.zeros(3), r"expected numbers of shape \(N, ...\)"),
        (lambda p: np.array([["a", "b"]]), "should hold real numbers"),
        (lambda p: written(p / "a.csv", "1,2\n3\n"), "row 2: expected 2 numbers, got '3'"),
        (lambda p: written(p / "a.csv", "a,b\n1,2\n3,x\n"), "row 3: expected 2 numbers, got '3,x'"),
        (lambda p: written(p / "a.csv", ""), "is empty"),
        (lambda p: written(p / "a.npy", "x"), "cannot read"),
        (lambda p: saved(p / "a.npz", q=np.zeros(3), r=np.zeros(3)), "should hold x, .*; it has q, r"),
        (lambda p: saved(p / "a.npz", x=np.zeros((3, 2)), y=np.zeros((3, 2))), r"labels should be of shape \(N,\)"),
        (
            lambda p: saved(p / "a.npz", x=np.zeros((3, 2)), y=np.zeros(4)),
            r"here \(3,\), .* got float64 of shape \(4,\)",
        ),
        (
            lambda p: saved(p / "a.npz", x=np.zeros((3, 2)), y=np.zeros(3, "M8[s]")),
            "whole numbers or texts, got datetime",
        ),
        (lambda p: saved(p / "a.npz", x_train=np.zeros((3, 2)), x_test=np.zeros((3, 4))), "should be of one shape"),
        (
            lambda p: saved(p / "a.npz", x_train=np.ones((3, 2)), x_test=np.ones((3, 2)), y_train=np.ones(3)),
            "or neither",
        ),
        (lambda p: written(p / "a.csv", "a,b,y\n1,2\n"), "row 2: expected 3 numbers, got '1,2'"),
        (lambda p: written(p / "a.csv", "a,y\n"), r"expected numbers of shape .*, got float64 of shape \(0, 1\)"),
        (lambda p: written(p / "a.csv", "1," * 99999 + "1" * 200_000), "cannot read .*field larger than field limit"),
        (lambda p: written(p / "a.csv", "\udcff", errors="surrogateescape"), "cannot read .*codec can't decode"),
    ],
)
def test_bad_data(make, what, tmp_path):
    with pytest.raises(mv.MiniVAEError, match=what):
        data.load(make(tmp_path))


@pytest.mark.parametrize(
    "name, options, what",
    [
        ("sample", {"size": (14, 14)}, "load: size and color are for a folder of pictures: leave them out for sample"),
        ("mnist", {"color": True}, "leave them out for mnist"),
        (PIXELS, {"size": (7, 7)}, "leave them out for an array; data.read_images scales"),
        ("x.npy", {"color": True}, "leave them out for x.npy"),
        ("x.npy", {"data_dir": "folder"}, "load: data_dir is for mnist, .*: leave it out for data of your own"),
        ("nonsense", {"data_dir": "folder"}, "unknown data set 'nonsense'"),
    ],
)
def test_what_would_do_nothing_is_refused(name, options, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", PIXELS)
    with pytest.raises(mv.MiniVAEError, match=what):
        data.load(name, **options)


def test_bad_share():
    with pytest.raises(
        mv.MiniVAEError, match="load: test=.* should be a share that leaves some of the 30 examples on either side"
    ):
        data.load(PIXELS, test=0.001)


def written(path, text, errors=None):
    path.write_text(text, errors=errors)
    return path


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path
