"""Files of all kinds, damaged, for every reader: what comes out is what they hold or one clear error, soon and small.

    python tests/hunts/damaged.py 50000 [seed]

A third of the damage is inside: the checksums and lengths around it are made right again, as a program that means harm
would. A reader that raises anything else than MiniVAEError, that takes longer than LONGEST seconds or more memory than
MEMORY, or that crashes, fails.
"""

import contextlib
import gzip
import io
import json
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

import minivae as mv
from minivae import data
from minivae.storage import checkpoint

LONGEST = 20  # seconds for a file
MAX_BYTES = 1 << 24  # that each reader is allowed
MEMORY = 1 << 29  # bytes that the process may come to have more than it had
TELLING = [
    b"\0",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x80\0\0\0",
    b"\n",
    b"\r",
    b",",
    b'"',
]
TELLING += [
    b"-1",
    b"256",
    b"1e999",
    b"nan",
    b" ",
    b"9" * 30,
    b"]",
    b"}",
    b"{}",
    b"null",
    b"\xef\xbb\xbf",
    b"'",
    b"(",
    b"[" * 99,
]
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
X = np.random.default_rng(0).random((12, 6), np.float32)


def changed(contents, rng):
    """The bytes with one to four changes: some replaced, cut out, doubled, moved or swapped with telling values."""
    contents = bytearray(contents)
    for _ in range(rng.integers(1, 5)):
        if not contents:
            break
        # Half of the changes fall on the start, where headers are.
        at = int(rng.integers(min(len(contents), 64) if rng.random() < 0.5 else len(contents)))
        stretch = slice(at, at + int(rng.integers(1, 40)))
        telling = TELLING[rng.integers(len(TELLING))]
        match rng.integers(8):
            case 0:
                contents[at] ^= 1 << rng.integers(8)
            case 1:
                contents[stretch] = rng.bytes(len(contents[stretch]))
            case 2:
                del contents[stretch]
            case 3:
                contents[at:at] = contents[stretch]
            case 4:
                contents[at : at + len(telling)] = telling
            case 5:
                contents[at:at] = telling
            case 6:
                contents[at:at] = contents[-len(contents[stretch]) :]
            case 7:
                del contents[at:]
    return bytes(contents)


# ------------------------------------------------------------------ damage inside, with what is around it made right


def in_gzip(contents, rng):
    return gzip.compress(changed(gzip.decompress(contents), rng), 1)


def in_zip(contents, rng):
    """A zip file with one member, or its name, changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(contents)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        hit = rng.integers(len(old.namelist()))
        for i, name in enumerate(old.namelist()):
            inside = old.read(name)
            # A header more often than the numbers behind it.
            inside = inside if i != hit else changed(inside[:128], rng) + inside[128:]
            new.writestr(name if rng.random() < 0.95 else "other.npy", inside)
    return out.getvalue()


def in_png(contents, rng):
    """A PNG with one chunk changed, and perhaps its compressed pixels changed inside, with new checksums."""
    out, at = bytearray(contents[:8]), 8
    chunks = []
    while at < len(contents):
        (size,) = struct.unpack(">I", contents[at : at + 4])
        chunks.append((contents[at + 4 : at + 8], contents[at + 8 : at + 8 + size]))
        at += size + 12
    hit = rng.integers(len(chunks))
    for i, (kind, body) in enumerate(chunks):
        if i == hit:
            inside = kind == b"IDAT" and rng.random() < 0.5
            body = zlib.compress(changed(zlib.decompress(body), rng)) if inside else changed(body, rng)
        out += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return bytes(out)


def in_safetensors(contents, rng):
    """A checkpoint whose header has been changed, or the record in it, with new lengths and checksums."""
    (size,) = struct.unpack("<Q", contents[:8])
    if rng.random() < 0.5:
        header = changed(contents[8 : 8 + size], rng)
        return struct.pack("<Q", len(header)) + header + contents[8 + size :]
    from safetensors.numpy import load, save

    record = json.loads(json.loads(contents[8 : 8 + size])["__metadata__"]["minivae"])
    record.pop("crc32")
    with contextlib.suppress(ValueError):
        record = json.loads(changed(json.dumps(record).encode(), rng))
    arrays = load(contents)
    if not isinstance(record, dict):
        record = {"format": record}
    record.pop("crc32", None)
    return save(arrays, {"minivae": json.dumps(record | {"crc32": checkpoint._crc32(record, arrays)})})


# ------------------------------------------------------------------------------------------------ whole files


def saved(write, *arguments, **options):
    file = io.BytesIO()
    write(file, *arguments, **options)
    return file.getvalue()


def pictures():
    """Name of a file -> its contents, in the forms and modes that Pillow writes."""
    from PIL import Image

    grey, color = Image.fromarray(PIXELS[0]), Image.fromarray(np.moveaxis(PIXELS[:3], 0, 2).copy())
    clear = Image.fromarray(np.moveaxis(PIXELS[:4], 0, 2).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    kinds = {
        "grey.png": (grey, {}),
        "color.png": (color, {"exif": exif}),
        "clear.png": (clear, {}),
        "two.png": (grey.convert("1"), {}),
        "palette.png": (color.convert("P"), {"transparency": 3}),
        "a.jpg": (color, {"exif": exif}),
        "b.jpeg": (grey, {"progressive": True}),
        "a.bmp": (color, {}),
        "b.bmp": (color.convert("P"), {}),
        "a.gif": (color.convert("P"), {"transparency": 3}),
        "a.tif": (color, {}),
        "b.tiff": (grey, {"compression": "tiff_lzw"}),
        "c.tiff": (clear, {"compression": "tiff_adobe_deflate"}),
        "d.tiff": (color, {"compression": "jpeg"}),
        "a.webp": (clear, {"lossless": True}),
        "b.webp": (color, {}),
        "a.ppm": (color, {}),
        "a.pgm": (grey, {}),
    }
    forms = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}
    return {
        name: saved(image.save, forms.get(name[2:], name.split(".")[1].upper()), **options)
        for name, (image, options) in kinds.items()
    }


def trained(path, **options):
    """A training of two epochs that is kept in `path`, or goes on from there."""
    vae = mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)], seed=1)
    mv.fit(vae, X, 0.25, epochs=2, batch_size=5, patience=2, progress=False, checkpoint=mv.Checkpoint(path, **options))
    return vae


def model():
    return mv.VAE(
        [mv.Reshape((3, 2, 1)), mv.Conv2d(1, 2, 2), mv.Flatten(), mv.Dense(4, 8), mv.ReLU(), mv.Dense(8, 4)],
        [mv.Dense(2, 6)],
        mv.SharedVarianceGaussian(),
        posterior=mv.FlowPosterior([mv.Planar(2), mv.InverseAutoregressive(2, 3)]),
        prior=mv.MixturePrior(2, 3),
    )


def seeds(folder):
    """Kind -> (name of a file, its contents, what damages it inside or None, what reads it)."""
    limit = {"max_bytes": MAX_BYTES}
    y = np.arange(6) % 3
    four = {"x_train": PIXELS, "y_train": y, "x_test": PIXELS, "y_test": y}
    named = {"x": PIXELS, "y": np.array(["cat", "dog", "owl"] * 2)}
    data.write_idx(folder / "a", PIXELS)
    idx = (folder / "a").read_bytes()
    rows = "".join(",".join(map(str, row)) + "\n" for row in np.random.default_rng(1).integers(0, 256, (6, 17)))
    rows = f"label,{','.join(f'pixel{i}' for i in range(16))}\n{rows}".encode()
    table = b'a,"b",class\n1,2.5,cat\n3,-4e1,dog\n"5",6,owl\n7,8,dog\n'
    for name in ("kept.safetensors", "kept.npz"):
        vae = trained(folder / name)
        vae.history.save_csv(folder / "history.csv")
    for name in ("model.safetensors", "model.npz"):
        model().save(folder / name)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}

    def read(path):
        data.load(path, test=0.5, **limit)

    def both(reader):
        return lambda path: (reader(path, **limit), read(path))

    def load(path):
        mv.load(path, **limit).encode(X)

    def images(path):
        found = data.read_images(path.parent, color=path.stat().st_size % 2 == 1, **limit)
        assert found.dtype == np.uint8 and len(found) == 1

    kinds = {
        "idx": ("a", idx, None, both(data.read_idx)),
        "idx.gz": ("a.gz", gzip.compress(idx, mtime=0), in_gzip, both(data.read_idx)),
        "npz": ("a.npz", saved(np.savez, **four), in_zip, both(data.read_npz)),
        "npz, compressed": ("a.npz", saved(np.savez_compressed, **four), in_zip, both(data.read_npz)),
        "npz with names": ("a.npz", saved(np.savez, **named), in_zip, read),
        "npy": ("a.npy", saved(np.save, PIXELS), None, read),
        "csv": ("a.csv", rows, None, both(data.read_csv)),
        "csv.gz": ("a.csv.gz", gzip.compress(rows, mtime=0), in_gzip, both(data.read_csv)),
        "table": ("a.csv", table, None, read),
        "table.gz": ("a.csv.gz", gzip.compress(table, mtime=0), in_gzip, read),
        "history": ("a.csv", kept["history.csv"], None, read),
        "mapping": ("a.txt", b"1 65 97\n2 66 98\n3 67 99\n", None, data.read_mapping),
        "model": ("m.safetensors", kept["model.safetensors"], in_safetensors, load),
        "model, npz": ("m.npz", kept["model.npz"], in_zip, load),
        "training": ("k.safetensors", kept["kept.safetensors"], in_safetensors, resume),
        "training, npz": ("k.npz", kept["kept.npz"], in_zip, resume),
    }
    for name, contents in pictures().items():
        kinds[name] = (name, contents, in_png if name.endswith("png") else None, images)
    return kinds


def resume(path):
    trained(path, resume=True, max_bytes=MAX_BYTES)


# ------------------------------------------------------------------------------------------------ the hunt


class TooLong(BaseException):
    pass


def too_long(*_):
    raise TooLong(f"longer than {LONGEST} s")


def hunt(n, seed=0):
    """Damage n files; returns how many came out how, for each kind, and what failed: (kind, error, where) -> number."""
    outcomes, failed = {}, {}
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, too_long)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "made").mkdir()
        kinds = seeds(folder / "made")
        for kind, (name, contents, _, read) in kinds.items():
            path = put(folder / kind / name, contents)
            read(path)  # as it is, it is good
        begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + 4 * MEMORY,) * 2)
        for i in range(n):
            rng = np.random.default_rng([seed, i])
            kind = list(kinds)[i % len(kinds)]
            name, contents, inside, read = kinds[kind]
            damage = inside if inside and rng.random() < 0.5 else changed
            path = put(folder / kind / name, damage(contents, rng))
            start = time.perf_counter()
            outcome = call(read, path)
            if isinstance(outcome, BaseException):
                at = traceback.extract_tb(outcome.__traceback__)[-1]
                failed.setdefault((kind, type(outcome).__name__, f"{at.name}:{at.lineno}"), []).append((i, outcome))
                outcome = "failed"
            outcomes.setdefault(kind, Counter())[outcome] += 1
            slowest = max(outcomes[kind]["slowest, ms"], round(1000 * (time.perf_counter() - start)))
            outcomes[kind]["slowest, ms"] = slowest
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin)
        if grown > MEMORY:
            failed["all", "memory", ""] = [(n, MemoryError(f"{grown:,} bytes more than before"))]
    return outcomes, failed, grown


def put(path, contents):
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)  # to write over a file can make the disk wait, many thousand times
    path.write_bytes(contents)
    return path


def call(read, path):
    signal.alarm(LONGEST)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            read(path)
    except mv.MiniVAEError as error:
        if isinstance(error.__cause__, MemoryError):
            return error.__cause__
        return "clear" if str(error) else "empty"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return error
    finally:
        signal.alarm(0)
    return "read"


def address_space():
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    outcomes, failed, grown = hunt(int(sys.argv[1]), *map(int, sys.argv[2:]))
    for kind, counts in outcomes.items():
        print(f"{kind:16}", ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())))
    total = sum(outcomes.values(), Counter())
    del total["slowest, ms"]
    print("all", dict(total), f"{grown / 2**20:.0f} MiB more")
    for (kind, error, where), those in sorted(failed.items()):
        print(
            f"FAILED {kind}: {error} in {where}, {len(those)} times, such as number {those[0][0]}: {those[0][1]!s:.200}"
        )
    sys.exit(bool(failed) or total["empty"])
