"""Readers of data files, given mutated ones: either a MiniVAEError, or what an independent reading finds too."""

import gzip
import io
import struct

import numpy as np
import pytest

from minivae import data
from minivae.errors import MiniVAEError

GZIP = b"\x1f\x8b"
TELLING = [
    b"\0",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\n",
    b"\r\n",
    b",",
    b",,",
    b"-1",
    b"256",
    b"1e2",
    b" ",
    b"\xef\xbb\xbf",
]


def mutated(contents, rng):
    """The bytes with one to four changes: flipped, cut, inserted, repeated or swapped with a telling value."""
    contents = bytearray(contents)
    for _ in range(rng.integers(1, 5)):
        # Half of the changes fall on the start, where headers are.
        at = int(rng.integers(0, min(len(contents), 24) if rng.random() < 0.5 else len(contents))) if contents else 0
        length = int(rng.integers(1, 9))
        telling = TELLING[rng.integers(len(TELLING))]
        match rng.integers(6):
            case 0 if contents:
                contents[at] = rng.integers(256)
            case 1:
                del contents[at:]
            case 2:
                del contents[at : at + length]
            case 3:
                contents[at:at] = telling
            case 4:
                contents[at : at + len(telling)] = telling
            case 5:
                contents[at:at] = contents[at : at + length * 8]
    return bytes(contents)


def plain(contents):
    return gzip.decompress(contents) if contents[:2] == GZIP else contents


def reference_idx(contents):
    contents = plain(contents)
    _, _, code, ndim = contents[:4]
    shape = struct.unpack(f">{ndim}I", contents[4 : 4 + 4 * ndim])
    dtype = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}[code]
    return np.frombuffer(contents[4 + 4 * ndim :], dtype).reshape(shape)


def check_idx(path, contents):
    array = data.read_idx(path)
    np.testing.assert_array_equal(array, reference_idx(contents))


def check_csv(path, contents):
    images, labels = data.read_csv(path)
    lines = [line for line in plain(contents).removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    names = [name.strip(b' \t\r"').lower() for name in lines[0].split(b",")]
    label = names.index(b"label") if b"label" in names else 0
    rows = np.array(
        [[int(field.decode("latin1").strip()) for field in line.split(b",")] for line in lines[b"label" in names :]]
    )
    np.testing.assert_array_equal(labels, rows[:, label])
    np.testing.assert_array_equal(images.reshape(len(images), -1), np.delete(rows, label, axis=1))


def check_npz(path, _contents):
    assert all(isinstance(array, np.ndarray) for array in data.read_npz(path))


def idx_file():
    file = bytes([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 3])
    return file + bytes(range(60))


def csv_file(header):
    rows = np.random.default_rng(0).integers(0, 256, (6, 17))
    text = "label," + ",".join(f"pixel{i}" for i in range(1, 17)) + "\n" if header else ""
    return (text + "".join(",".join(map(str, row)) + "\n" for row in rows)).encode()


def npz_file(save):
    file = io.BytesIO()
    images, labels = np.arange(48, dtype=np.uint8).reshape(3, 4, 4), np.arange(3)
    save(file, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return file.getvalue()


KINDS = {
    "idx": (check_idx, idx_file()),
    "idx.gz": (check_idx, gzip.compress(idx_file(), mtime=0)),
    "csv": (check_csv, csv_file(header=False)),
    "csv with header": (check_csv, csv_file(header=True)),
    "csv.gz": (check_csv, gzip.compress(csv_file(header=True), mtime=0)),
    "npz": (check_npz, npz_file(np.savez)),
    "npz, compressed": (check_npz, npz_file(np.savez_compressed)),
}


def hunt(folder, kind, seeds):
    check, good = KINDS[kind]
    path = folder / "file"
    path.write_bytes(good)
    check(path, good)
    refused = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        is_inside = good[:2] == GZIP and seed % 2
        contents = gzip.compress(mutated(gzip.decompress(good), rng), 1) if is_inside else mutated(good, rng)
        path.unlink()  # to write over a file can make the disk wait, many thousand times
        path.write_bytes(contents)
        try:
            check(path, contents)
        except MiniVAEError as error:
            assert str(path) in str(error)
            refused += 1
        except Exception as error:
            raise AssertionError(f"{kind}, seed {seed}: {type(error).__name__}: {error}") from error
    assert refused > 0.5 * len(seeds)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_hundred_mutated_files(tmp_path, kind):
    hunt(tmp_path, kind, range(100))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_tens_of_thousands_of_mutated_files(tmp_path, kind):
    hunt(tmp_path, kind, range(1000, 11_000))
