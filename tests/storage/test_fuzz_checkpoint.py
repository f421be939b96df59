"""Thousands of damaged checkpoints: each loads as it was, or is refused with a MiniVAEError, and nothing else happens.

pytest -m slow tests/storage/test_fuzz_checkpoint.py
"""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save

import minivae as mv
from minivae.storage import checkpoint


def mutated(rng, content):
    """A copy with a few bytes changed, a stretch cut out, doubled or replaced, or the end lost."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        start = int(rng.integers(len(data)))
        stretch = slice(start, start + int(rng.integers(1, 40)))
        kind = rng.integers(6)
        if kind == 0:
            data[start] ^= 1 << rng.integers(8)
        elif kind == 1:
            data[stretch] = rng.bytes(len(data[stretch]))
        elif kind == 2:
            del data[stretch]
        elif kind == 3:
            data[start:start] = data[stretch]
        elif kind == 4:
            data[stretch] = rng.choice([b"9", b"-1", b"0", b"]", b"{}", b'"', b"null", b"1e99", b"\xff\xff\xff\xff"])
        else:
            del data[max(1, start) :]
    return bytes(data)


def with_header(content, rng):
    """A safetensors file whose header is damaged but whose length field fits it again."""
    (size,) = struct.unpack("<Q", content[:8])
    header = mutated(rng, content[8 : 8 + size])
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


ODD = [None, True, -1, 2.5, 1e300, 10**30, "", "Dense", [], [None], {}, {"class": "Dense"}]


def with_record(path, rng):
    """A checkpoint with an entry of its record left out, renamed or replaced, and a checksum that fits, as of another
    program."""
    arrays, record = checkpoint.read(path)
    holder = record
    while True:
        key = list(holder if isinstance(holder, dict) else range(len(holder)))[rng.integers(len(holder))]
        if not isinstance(holder[key], (dict, list)) or not holder[key] or rng.random() < 0.2:
            break
        holder = holder[key]
    value, kind = holder.pop(key), rng.integers(4)
    if kind and isinstance(holder, dict):
        holder |= {"other": value} if kind == 1 else {key: ODD[rng.integers(len(ODD))]}
    elif kind:
        holder.insert(key, ODD[rng.integers(len(ODD))])
    text = json.dumps(record | {"crc32": checkpoint._crc32(record, arrays)})
    return save(arrays, {"minivae": text})


def survives(path, content, expected):
    """Write and load a mutant; whether it loaded."""
    path.write_bytes(content)
    try:
        vae = mv.load(path)
    except mv.MiniVAEError:
        return False
    if expected is not None:
        np.testing.assert_array_equal(vae.parameters.flat, expected)
    path.unlink()
    return True


def fuzz(tmp_path, name, times):
    vae = mv.VAE(
        [mv.Reshape((3, 3, 1)), mv.Conv2d(1, 2, 2), mv.Flatten(), mv.Dense(8, 4)],
        [mv.Dense(2, 5), mv.ReLU(), mv.Dense(5, 9)],
        mv.Gaussian(),
        posterior=mv.FlowPosterior([mv.Planar(2)]),
    )
    good, path = tmp_path / f"good{name}", tmp_path / "mutant"
    vae.save(good)
    content, expected = good.read_bytes(), vae.parameters.flat.copy()
    rng = np.random.default_rng(0)
    loaded = 0
    for i in range(times):
        kind = i % 3 if name == ".safetensors" else 0
        if kind == 0:
            loaded += survives(path, mutated(rng, content), expected)
        elif kind == 1:
            loaded += survives(path, with_header(content, rng), expected)
        else:
            survives(path, with_record(good, rng), None)  # another architecture may well be a good one
    assert loaded < times / 10


@pytest.mark.parametrize("name", [".safetensors", ".npz"])
def test_fuzz_a_little(tmp_path, name):
    fuzz(tmp_path, name, 150)


@pytest.mark.slow
@pytest.mark.parametrize("name", [".safetensors", ".npz"])
def test_fuzz(tmp_path, name):
    fuzz(tmp_path, name, 10_000)
