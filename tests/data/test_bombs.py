"""Small files that become large arrays: refused before memory is taken, unless more is allowed; and FIFOs."""

import gzip
import io
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

import minivae as mv
from minivae import data
from minivae.data import images, own
from minivae.files import MAX_BYTES

MB = 1 << 20
SIDE = 8 * MB  # bytes of the large arrays; their files have a hundredth


def npz(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def four(path, x):
    y = np.zeros(len(x), np.uint8)
    return npz(path, x_train=x, y_train=y, x_test=x[:1], y_test=y[:1])


def written(path, contents):
    path.write_bytes(contents)
    return path


def idx_gz(path, n=SIDE):
    return written(path, gzip.compress(struct.pack(">BBBBII", 0, 0, 8, 2, n // 1024, 1024) + bytes(n)))


def picture(path, side):
    Image.new("1", (side, side)).save(path)
    return path


def pictures(folder, n=40):
    folder.mkdir()
    for i in range(n):
        picture(folder / f"{i}.png", 300)
    return folder


def model(path, n=1000):
    mv.VAE([mv.Dense(n, 4)], [mv.Dense(2, n)]).save(path)
    return path


ZEROS = np.zeros((SIDE // 1024, 32, 32), np.uint8)
# How each is made, how it is read, and the least max_bytes that will do.
READERS = {
    "npz": (lambda p: four(p / "a.npz", ZEROS), data.read_npz, SIDE),
    "npz of one's own": (lambda p: npz(p / "a.npz", x=ZEROS), data.load, SIDE),
    "npy": (lambda p: np.save(p / "a.npy", ZEROS) or p / "a.npy", data.load, SIDE),
    "idx": (lambda p: idx_gz(p / "a.gz"), data.read_idx, SIDE),
    "idx of one's own": (lambda p: idx_gz(p / "a.gz"), data.load, SIDE),
    "csv": (lambda p: written(p / "a.csv.gz", gzip.compress(b"1,2,3,4,5\n" * 30_000)), data.read_csv, 300_000),
    "table": (lambda p: written(p / "a.csv.gz", gzip.compress(b"1,2\n" * 20_000)), data.load, 320_000),
    "table, text": (lambda p: written(p / "a.csv.gz", gzip.compress(b"0000001,2\n" * 100)), data.load, 1000),
    "table, one class": (lambda p: written(p / "a.csv", b"x,y\n" + b"1,2\n" * 20_000), data.load, 320_200),
    "classes": (
        lambda p: written(p / "a.csv", b"y,x\n" + b"".join(b"%d,1\n" % i for i in range(9000))),
        data.load,
        own.CLASS_BYTES * 9000,
    ),
    "picture": (lambda p: picture(p / "a.png", 2000) and p, data.read_images, images.PIXEL_BYTES * 2000**2),
    "pictures": (lambda p: pictures(p / "folder"), data.read_images, 40 * 300 * 300),
    "pictures, scaled": (
        lambda p: pictures(p / "folder", 3),
        lambda p, max_bytes: data.read_images(p, (1000, 700), color=True, max_bytes=max_bytes),
        3 * 1000 * 700 * 3,
    ),
    "pictures of one's own": (lambda p: pictures(p / "folder"), data.load, 40 * 300 * 300),
    "model": (lambda p: model(p / "a.safetensors"), lambda p, max_bytes: mv.load(p, max_bytes=max_bytes), 24_000),
    "model, npz": (lambda p: model(p / "a.npz"), lambda p, max_bytes: mv.load(p, max_bytes=max_bytes), 24_000),
}


@pytest.mark.parametrize("name", READERS)
def test_each_reader_keeps_to_its_limit(tmp_path, name):
    make, read, least = READERS[name]
    path = make(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(mv.MiniVAEError, match=rf"{tmp_path}.* would take .*limit is {least - 1:,}.*max_bytes"):
            read(path, max_bytes=least - 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (4 * MB if name == "classes" else MB)
    read(path, max_bytes=2 * least + 10_000)


def promise(shape):
    """The start of a .npy file that says it has this shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(100)


def zipped(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, contents in members.items():
            file.writestr(f"{name}.npy", contents)
    return path


@pytest.mark.parametrize(
    "make, read",
    [
        (lambda p: zipped(p / "a.npz", **dict.fromkeys(data.npz.NAMES, promise((MAX_BYTES // 4, 2)))), data.read_npz),
        (lambda p: zipped(p / "a.npz", x=promise((1 << 40,))), data.load),
        (lambda p: written(p / "a.npy", promise((1 << 31,))), data.load),
        (lambda p: zipped(p / "a.npz", minivae=promise((1 << 31,))), mv.load),
        (
            lambda p: written(p / "a.gz", gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 2**30 + 1) + bytes(MB)) * 2000),
            data.load,
        ),
        (lambda p: picture(p / "a.png", 7400) and p, data.read_images),
        (lambda p: sparse(p / "a.safetensors"), mv.load),
        (lambda p: sparse(p / "a.npy", promise((1 << 40,))), data.load),
    ],
)
def test_a_gigabyte_is_the_limit(tmp_path, make, read):
    with pytest.raises(mv.MiniVAEError, match=rf"would take .* and the limit is {1 << 30:,}: .*max_bytes"):
        read(make(tmp_path))


def sparse(path, start=b""):
    """A file of a terabyte that takes no room on the disk."""
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(1 << 40)
    return path


def test_a_checkpoint_that_is_taken_up_keeps_to_its_limit(tmp_path):
    x, path = np.random.default_rng(0).random((20, 100), np.float32), tmp_path / "kept.npz"

    def train(epochs, **options):
        vae = mv.VAE([mv.Dense(100, 4)], [mv.Dense(2, 100)])
        return mv.fit(vae, x, epochs=epochs, checkpoint=mv.Checkpoint(path, **options))

    train(1)
    with pytest.raises(mv.MiniVAEError, match=f"{path} would take .* the limit is 3,000"):
        train(2, resume=True, max_bytes=3000)
    assert len(train(2, resume=True)) == 2


@pytest.mark.parametrize("name", ["a.png", "a.npz", "a.npy", "a.csv", "a.gz", "a.safetensors"])
def test_what_would_never_end_is_not_opened(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    readers = {
        "a.png": lambda: data.read_images(tmp_path),
        "a.safetensors": lambda: mv.load(path),
        "a.npz": lambda: data.read_npz(path),
    }
    for read in (readers.get(name, lambda: data.load(path)), lambda: data.load(tmp_path if "png" in name else path)):
        with pytest.raises(mv.MiniVAEError, match=rf"cannot read {path}: it is a FIFO"):
            read()


def test_a_picture_is_opened_as_what_pictures_are(tmp_path):
    """Pillow would run other programs for some forms, whatever the file is called."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(mv.MiniVAEError, match="cannot read the image .*a.png: cannot identify"):
        data.read_images(tmp_path)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, None, "1 GB"])
def test_a_limit_is_a_number_of_bytes(tmp_path, wrong):
    for read in (data.read_npz, data.read_idx, data.read_csv, data.read_images, data.load, mv.load, mv.Checkpoint):
        with pytest.raises(mv.MiniVAEError, match="max_bytes should be an integer of at least 1"):
            read(tmp_path, max_bytes=wrong)
