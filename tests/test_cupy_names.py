"""The real CuPy has every function that the package and the imaginary GPU use, with these parameters.

CuPy can be imported without a GPU, so this runs wherever it is installed.
"""

import ast
import inspect
import re
import types
from pathlib import Path

import fakegpu
import numpy as np
import pytest

import minivae

cupy = pytest.importorskip("cupy")


def calls(path):
    """(name, keywords, line) of everything taken from a module called `xp`."""
    tree = ast.parse(path.read_text())
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            name = dotted(node)
            if name:
                call = called.get(id(node))
                keywords = [k.arg for k in call.keywords if k.arg] if call else []
                yield name, keywords, node.lineno


def dotted(node):
    """"lib.stride_tricks" for xp.lib.stride_tricks and self.backend.xp.lib.stride_tricks, else None."""
    parts = []
    while isinstance(node, ast.Attribute) and node.attr != "xp":
        parts.append(node.attr)
        node = node.value
    if parts and (getattr(node, "id", None) == "xp" or getattr(node, "attr", None) == "xp"):
        return ".".join(reversed(parts))


def lookup(name):
    found = cupy
    for part in name.split("."):
        found = getattr(found, part)
    return found


def parameters(function):
    """The names of a CuPy function's parameters, in order; the compiled ones tell them in their docstring."""
    if isinstance(function, cupy.ufunc):
        return ["x1", "x2"][: function.nin] + ["out", "casting", "dtype"]
    try:
        return list(inspect.signature(function).parameters)
    except ValueError:
        inside = re.search(r"\((.*?)\)(?: ->|$)", function.__doc__.strip().splitlines()[0]).group(1)
        return [re.split(r"[\s*]", part.split("=")[0].strip())[-1] for part in inside.split(",")]


SOURCES = sorted(Path(minivae.__file__).parent.rglob("*.py"))


def test_the_package_uses_only_what_cupy_has():
    missing, n_calls = [], 0
    for path in SOURCES:
        for name, keywords, line in calls(path):
            n_calls += 1
            where = f"{path.name}:{line}: xp.{name}"
            try:
                function = lookup(name)
            except AttributeError:
                missing.append(where)
            else:
                known = parameters(function) if keywords else []
                missing += [f"{where}({key}=)" for key in keywords if key not in known]
    assert not missing, "\n".join(missing)
    assert n_calls > 50


def public(thing):
    return [name for name in dir(thing) if not name.startswith("_")]


def test_the_imaginary_cupy_has_nothing_that_the_real_one_lacks():
    fake = fakegpu.FakeCupy()
    for prefix, namespace in ("", fake), ("cuda.", fake.cuda), ("cuda.runtime.", fake.cuda.runtime):
        for name in public(namespace):
            if prefix + name != "count":
                lookup(prefix + name)
    lookup("lib.stride_tricks.as_strided"), lookup("cuda.nvrtc.getVersion")
    for name in public(fakegpu.Array):
        assert hasattr(cupy.ndarray, name), name
    for name in "begin_capture", "end_capture", "is_capturing", "synchronize", "__enter__":
        assert hasattr(cupy.cuda.Stream, name)


def functions():
    """Every function of the imaginary CuPy, beside the real one."""
    fake = fakegpu.FakeCupy()
    for mine, real in (
        (fake, cupy),
        (fake.cuda, cupy.cuda),
        (fake.lib.stride_tricks, cupy.lib.stride_tricks),
        (fakegpu.Array, cupy.ndarray),
    ):
        for name in public(mine):
            if name != "count":
                yield name, getattr(mine, name), getattr(real, name)
    for name in "begin_capture", "end_capture":
        yield name, getattr(fakegpu.Stream, name), getattr(cupy.cuda.Stream, name)
    yield "launch", fakegpu.Graph.launch, cupy.cuda.Graph.launch
    yield "reduce", fakegpu.Ufunc.reduce, cupy.ufunc.reduce


def test_the_imaginary_functions_take_the_real_parameters():
    compared = 0
    for name, fake, real in functions():
        if isinstance(fake, fakegpu.Ufunc):
            assert isinstance(real, cupy.ufunc), name
            assert real.nin == fake._ufunc.nin, name
        elif isinstance(fake, (types.FunctionType, types.MethodType)):
            mine = inspect.signature(fake).parameters.values()
            mine = [p.name for p in mine if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
            known = parameters(real)
            assert not set(mine) - set(known), f"{name}: {mine} against {known}"
            compared += 1
    assert compared > 50


def fused_calls():
    """Every set of arguments that fused functions get in small trainings: {function: [(operands, named), ...]}."""
    calls = {}

    class Spy(minivae.backend._Fused):
        def __call__(self, xp, *operands, **named):
            calls.setdefault(self._function, []).append((operands, named))
            super().__call__(xp, *operands, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minivae.backend, "_Fused", Spy)
        for optimizer, parts, samples in (
            (minivae.Adam(), {}, 1),
            (minivae.RMSprop(), {"kl": "monte-carlo"}, 2),
            (minivae.SGD(momentum=0.9), {"bound": minivae.ImportanceWeighted()}, 2),
            (minivae.Adam(), {"likelihood": minivae.Gaussian(0.5), "free_bits": 0.1}, 1),
        ):
            encoder = [minivae.Dense(6, 5), minivae.ReLU(), minivae.Dense(5, 4)]
            decoder = [minivae.Dense(2, 5), minivae.Tanh(), minivae.Dense(5, 4), minivae.Sigmoid(), minivae.Dense(4, 6)]
            vae = minivae.VAE(encoder, decoder, backend=fakegpu.backend(), **parts)
            options = {"samples": samples, "clip_norm": 1.0, "binarize": "likelihood" not in parts}
            minivae.fit(vae, np.zeros((4, 6), np.uint8), epochs=1, batch_size=4, optimizer=optimizer, **options)
    return calls


def like(array):
    """An array of CuPy with the dtype and shape of an imaginary one, and no memory: none is there without a GPU."""
    memory = cupy.cuda.UnownedMemory(4096, 1 << 20, None, device_id=0)
    return cupy.ndarray(array.shape, array.dtype, memptr=cupy.cuda.MemoryPointer(memory, 0))


def test_cupy_makes_one_kernel_of_each_fused_function():
    """By CuPy's own tracer, and none computes in float64 unless it is given float64."""
    fusion = pytest.importorskip("cupy._core.fusion")
    calls = fused_calls()
    assert len(calls) > 25
    for function, given in calls.items():
        for operands, named in given:
            arrays = {key: value for key, value in named.items() if hasattr(value, "dtype")}
            numbers = {key: value for key, value in named.items() if key not in arrays}

            names, n = list(arrays), len(operands)

            def body(*values, f=function, n=n, names=names, numbers=numbers):
                f(cupy, *values[:n], **dict(zip(names, values[n:], strict=True)), **numbers)

            values = [*operands, *arrays.values()]
            local, history = fusion._thread_local, fusion._FusionHistory()
            local.history, local.is_old_fusing = history, True
            try:
                kernel, _ = history.get_fusion(body, tuple(map(like, values)), function.__name__)
            finally:
                local.history, local.is_old_fusing = None, False
            assert isinstance(kernel, cupy.ElementwiseKernel), function
            if not any(value.dtype == np.float64 for value in values):
                assert not re.search(r"\bdouble v\d+_\d+;", kernel.operation), function  # constants are cast
