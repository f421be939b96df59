"""Checkpoints: a model's weights and architecture in one file, which is written whole or not at all.

The file is safetensors or, where its name ends in ".npz", NumPy's npz. Neither can hold code, so a stranger's file
is safe to open. Its tensors are those of `vae.parameters` under their own names ("encoder.0.W", of shape
(n_in, n_out)), C-contiguous, in the model's dtype; a training keeps more of them, called "extra.(name)". Beside the
tensors (in safetensors: in the metadata) stands one text, "minivae", in JSON:

    format   1, counted up when this layout changes
    version  of the minivae that wrote the file
    model    the arguments that make the model again, see `describe`
    epochs   for how many epochs it has been trained; version 0.1 did not write it
    crc32    of this text without this entry, and then of the bytes of each tensor in the order of their names

The same model always makes the same bytes.
"""

import inspect
import json
import os
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arguments import integer
from ..arguments import path as check_path
from ..engine import get_backend
from ..engine.backend import NumpyBackend
from ..errors import MiniVAEError, shown
from ..files import MAX_BYTES, atomic_write, check_fits, reading, told_as
from ..model.flows import InverseAutoregressive
from ..model.layers import Sequential
from ..model.optimizers import Optimizer
from ..model.parameters import Part
from ..model.priors import StandardNormal
from ..model.vae import VAE, check_vae
from ..npy import ZIP_MAGIC, read_members

FORMAT = 1
RECORD = "minivae"
EXTRA = "extra."


def save(vae: VAE, path: str | os.PathLike, arrays: dict[str, np.ndarray] | None = None, **records: Any) -> None:
    """Write a model to `path`; raises MiniVAEError, and leaves what was there, where that cannot be done.

    arrays  : more NumPy arrays to keep, by name
    records : more entries of the record; anything that JSON can hold
    """
    arrays = check_vae("save: vae", vae).parameters.to_host() | {
        EXTRA + name: array for name, array in (arrays or {}).items()
    }
    write(path, arrays, {"model": describe_model(vae), "epochs": vae.epochs} | records)


def load(
    path: str | os.PathLike,
    backend: str | NumpyBackend = "numpy",
    max_bytes: int = MAX_BYTES,
    parts: Sequence[type] = (),
) -> VAE:
    """The model that `vae.save(path)` wrote, on any backend; it need not be the one it was trained on.

    parts : the classes of your own of which the model is made, beside minivae's

    Raises MiniVAEError where the file is missing, damaged, no checkpoint, of a newer minivae, names a class that is
    neither minivae's nor among `parts`, or where its arrays take more than `max_bytes` of memory.
    """
    backend, known = get_backend(backend), _parts(parts)
    arrays, record = read(path, integer("load: max_bytes", max_bytes))
    weights = model_arrays(arrays)
    try:
        model = build(record["model"], known)
        _check_shapes(model, weights)
        vae = VAE(**model, backend=backend)
        vae.parameters.load(weights)
        vae.epochs = integer("epochs", record.get("epochs", 0), 0)
    except Exception as error:  # whatever a damaged or newer description makes the constructors raise
        raise MiniVAEError(f"{path} does not make a model: {error}") from error
    return vae


def model_arrays(arrays):
    """Those of a checkpoint's arrays that are the model's parameters."""
    return {name: array for name, array in arrays.items() if not name.startswith(EXTRA)}


def extra_arrays(arrays):
    """Those of a checkpoint's arrays that were given to `save` beside the model, under the names given there."""
    return {name.removeprefix(EXTRA): array for name, array in arrays.items() if name.startswith(EXTRA)}


# -------------------------------------------------------------------------------------------- architecture


def describe(value):
    """A part such as a layer as plain data: {"class": its name, and each argument of its constructor}.

    A part keeps each argument as an attribute of the same name, which is where they are read. Lists and what they
    hold are described in turn. Raises MiniVAEError for what a checkpoint cannot hold.
    """
    if isinstance(value, (Part, Optimizer)):
        _parts([type(value)])
        arguments = {key: describe(argument) for key, argument in _arguments(value).items()}
        return {"class": type(value).__name__} | arguments
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise MiniVAEError(f"a checkpoint cannot hold {value!r}")


def describe_model(vae):
    """The arguments of `VAE` that make this model again, as plain data."""
    _known_of(vae)
    return {key: describe(value) for key, value in _model_arguments(vae).items()}


def _model_arguments(vae):
    """The arguments of `VAE` that make this model again, apart from its backend, by name."""
    kept_otherwise = {
        "encoder": vae.encoder.layers,
        "decoder": vae.decoder.layers,
        "kl": "analytic" if vae.analytic else "monte-carlo",
        "dtype": vae.dtype.name,
    }
    left_out = {"backend"} | ({"prior"} if type(vae.prior) is StandardNormal else set())  # as before there were others
    left_out |= {"regulariser"} if vae.regulariser is None else set()
    arguments = [key for key in inspect.signature(VAE).parameters if key not in left_out]
    return {key: kept_otherwise.get(key, getattr(vae, key, None)) for key in arguments}


def _arguments(part):
    """The arguments that make a part again, by name."""
    try:
        return {key: getattr(part, key) for key in inspect.signature(type(part)).parameters}
    except AttributeError as error:
        raise MiniVAEError(
            f"a checkpoint cannot hold {type(part).__name__}, which should keep each argument of its constructor as an "
            f"attribute of the same name: it has no {error.name!r}"
        ) from error


def _classes(value):
    """The classes of all parts in a value that `describe` takes."""
    if isinstance(value, (Part, Optimizer)):
        return {type(value)}.union(*map(_classes, _arguments(value).values()))
    return set().union(*map(_classes, value)) if isinstance(value, (list, tuple)) else set()


def _known_of(vae):
    """The classes that a checkpoint of this model may name; raises MiniVAEError where two of them have one name."""
    return _parts(_classes(list(_model_arguments(vae).values())))


def build(value, known):
    """The inverse of `describe`; `known` are the classes by name."""
    if isinstance(value, list):
        return [build(item, known) for item in value]
    if not isinstance(value, dict):
        return value
    arguments = {key: build(item, known) for key, item in value.items() if key != "class"}
    if "class" not in value:
        return arguments
    part = known.get(str(value["class"]))
    if part is Sequential:
        arguments.pop("needs_dx", None)  # of version 0.1, which left the first layer's dx out by it
    if part is InverseAutoregressive:
        arguments = {"masks": "0.1"} | arguments  # which version 0.1 did not name
    if part is None:
        raise MiniVAEError(
            f"this minivae has no {value['class']!r}: a class of your own is to be given, minivae.load(path, "
            "parts=[...]); or was the file written by a newer one?"
        )
    return part(**arguments)


def renewed(path, model, vae):
    """The description of a model from the file `path` as this version writes it; its classes are those of `vae`."""
    known = _known_of(vae)
    try:
        return {name: describe(value) for name, value in build(model, known).items()}
    except Exception as error:  # as in `load`
        raise MiniVAEError(f"{path} does not make a model: {error}") from error


def _parts(own):
    """The classes that a checkpoint may name: the parts that minivae exports, and these of one's own."""
    import minivae

    if not isinstance(own, (list, tuple, set)) or not all(map(_is_part, own)):
        raise MiniVAEError(f"parts should be a list of your own classes of layers and the like, got {shown(own)}")
    exported = {name: getattr(minivae, name) for name in minivae.__all__}
    parts = {name: x for name, x in exported.items() if _is_part(x)}
    for part in own:
        if parts.setdefault(part.__name__, part) is not part:
            raise MiniVAEError(f"two parts are called {part.__name__}, and a checkpoint knows them by name: rename one")
    return parts


def _is_part(x):
    return isinstance(x, type) and issubclass(x, (Part, Optimizer))


def _check_shapes(model, weights):
    """Compare before a model is allocated: what is in the file bounds the memory that loading it takes."""
    parts = {name: value for name, value in model.items() if isinstance(value, Part)}
    parts |= {name: Sequential(model[name]) for name in ("encoder", "decoder")}
    wanted = {f"{name}.{key}": shape for name, part in parts.items() for key, shape in part.shapes().items()}
    for name in sorted(wanted.keys() | weights.keys()):
        in_file = weights[name].shape if name in weights else "none"
        if in_file != wanted.get(name, "none"):
            raise MiniVAEError(f"its tensor {name!r} is {in_file}, its architecture {wanted.get(name, 'none')}")


# -------------------------------------------------------------------------------------------- the file


def write(path, arrays, record):
    """Write NumPy arrays, by name, and a record that JSON can hold, whole or not at all."""
    from .. import __version__

    check_path("save: path", path)
    arrays = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}  # safetensors ignores strides
    record = {"format": FORMAT, "version": __version__} | record
    text = json.dumps(record | {"crc32": _crc32(record, arrays)})
    if os.fspath(path).endswith(".npz"):
        with atomic_write(path) as file:
            np.savez(file, **arrays, **{RECORD: np.array(text)})
    else:
        from safetensors.numpy import save as to_bytes

        content = to_bytes(arrays, metadata={RECORD: text})
        with atomic_write(path) as file:
            file.write(content)


def read(path, max_bytes=MAX_BYTES):
    """The arrays, by name, and the record that `write` wrote.

    Raises MiniVAEError where the file is missing, damaged, no checkpoint, of a newer minivae, or too large.
    """
    check_path("load: path", path)
    # Whatever damage makes the readers raise; what the system raises, `reading` tells.
    with told_as(f"{path} is no checkpoint of minivae, or truncated"), reading(path) as file:
        is_zip = file.peek(len(ZIP_MAGIC)).startswith(ZIP_MAGIC)
        if not is_zip:  # nothing in it is compressed
            check_fits(path, os.fstat(file.fileno()).st_size, max_bytes)
        arrays, text = (_read_npz if is_zip else _read_safetensors)(path, max_bytes)
    if text is None:
        raise MiniVAEError(f"{path} is no checkpoint of minivae: it has no record of a model")
    record = _parse(path, text)
    if record.pop("crc32", None) != _crc32(record, arrays):
        raise MiniVAEError(f"{path} is damaged: its checksum is not that of its contents")
    return arrays, record


def _parse(path, text):
    try:
        record = json.loads(text)
        version, is_model = int(record["format"]), isinstance(record["model"], dict)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise MiniVAEError(f"{path} is no checkpoint of minivae: its record cannot be read ({error})") from error
    if version > FORMAT:
        raise MiniVAEError(
            f"{path} has format {version}, written by minivae {record.get('version')}; this minivae reads up to "
            f"format {FORMAT}: install a newer one"
        )
    if not is_model:
        raise MiniVAEError(f"{path} is no checkpoint of minivae: its record describes no model")
    return record


def _crc32(record, arrays):
    crc32 = zlib.crc32(json.dumps(record).encode())
    for name in sorted(arrays):
        crc32 = zlib.crc32(np.ascontiguousarray(arrays[name]), crc32)
    return crc32


def _read_safetensors(path, _max_bytes):
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(RECORD)


def _read_npz(path, max_bytes):
    arrays = read_members(path, max_bytes)
    return arrays, str(arrays.pop(RECORD)) if RECORD in arrays else None
