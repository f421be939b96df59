"""The real CuPy has every function that the package and the imaginary GPU use, with these parameters.

CuPy can be imported without a GPU, so this runs wherever it is installed.
"""

import ast
import functools
import inspect
import itertools
import re
import types
from pathlib import Path

import fakegpu
import numpy as np
import pytest
from reference.models import recipes
from test_kernels import SMALL, compiled_steps

import minivae
from minivae.engine import cuda, tracing
from minivae.engine.kernels import Kernels

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
    """ "lib.stride_tricks" for xp.lib.stride_tricks and self.backend.xp.lib.stride_tricks, else None."""
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
    assert n_calls > 10


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


def test_cupy_takes_the_sources_of_kernels():
    """It compiles them when a function is asked for, which needs a GPU."""
    source = 'extern "C" __global__ void kernel0(float* p0) {}'
    assert isinstance(cupy.RawModule(code=source), cupy.RawModule)
    assert not set(parameters(fakegpu.RawKernel.__call__)) - set(parameters(cupy.RawKernel(source, "kernel0").__call__))


@pytest.mark.parametrize("function", tracing.FUNCTIONS)
def test_cupy_has_the_functions_that_a_step_may_call(function):
    """Under the name by which its arrays look for them, and with the parameters that the tracer knows."""
    real = lookup(function.__name__)
    assert function.__module__ == "numpy" and callable(real)
    for name, functions in {
        "axis": (np.sum, np.max, np.min, np.mean, np.concatenate, np.stack),
        "keepdims": (np.sum, np.max, np.min, np.mean),
        "shape": (np.zeros_like, np.ones_like, np.full_like),
    }.items():
        assert function not in functions or name in parameters(real)


@pytest.mark.parametrize("function", [f for f in cuda.EXPRESSIONS if isinstance(f, np.ufunc)])
def test_cupy_has_the_ufuncs_that_a_step_may_call(function):
    assert lookup(function.__name__).nin == function.nin


# ------------------------------------------------------------------------------------ CuPy's views, without a GPU


class Hollow(cupy.ndarray):
    """An array of CuPy's without memory: enough for views of it, which are made on the host."""

    def __new__(cls, shape, dtype):
        size = 1 << 40
        memory = cupy.cuda.UnownedMemory(next(cls.addresses), size, None, device_id=0)
        return super().__new__(cls, shape, dtype, memptr=cupy.cuda.MemoryPointer(memory, 0))

    addresses = itertools.count(1 << 40, 1 << 41)

    def fill(self, value):
        """Nothing: there is no memory."""


class Recorder:
    """Stands for a backend: notes the source and what is launched, each array as its place in its own memory."""

    def __init__(self, empty, stride_tricks, offset):
        self.launches, self.offset = [], offset
        self.empty, self.asarray = empty, lambda host: empty(host.shape, host.dtype)
        self.products = types.SimpleNamespace(bind=lambda *arrays: self._note("product", *arrays))
        self.xp = types.SimpleNamespace(lib=types.SimpleNamespace(stride_tricks=stride_tricks), RawModule=self._module)

    def _module(self, code):
        return types.SimpleNamespace(get_function=lambda name: lambda *_: name)

    def _note(self, what, *arrays):
        self.launches.append((what, *(self._place(x) if hasattr(x, "strides") else x for x in arrays)))

    def _place(self, x):
        return self.offset(x), x.shape, [step for n, step in zip(x.shape, x.strides, strict=True) if n != 1]

    def kernels(self, list_):
        made = Kernels(list_, self)
        for launch in made._launches:
            if isinstance(launch, functools.partial):
                _, grid, block, arrays = launch.func(), *launch.args
                self._note("kernel", grid, block, *arrays)
        return made.source, self.launches


@pytest.mark.parametrize("name", [*recipes(), *SMALL])
def test_the_views_of_cupys_arrays_lie_where_those_of_numpys_do(name):
    """The plan made for both leads to the same source and the same places, and no view of CuPy's is a copy."""
    for step in compiled_steps(name):
        xp = fakegpu.FakeCupy()
        fake = Recorder(xp.empty, xp.lib.stride_tricks, lambda x: x.data.ptr - x._memory.address)
        real = Recorder(Hollow, cupy.lib.stride_tricks, lambda x: x.data.ptr - x.data.mem.ptr)
        made = []
        for recorder in fake, real:
            list_ = tracing.trace(step.step, step.arrays, step.vae.dtype)
            list_.arrays = {key: recorder.empty(array.shape, array.dtype) for key, array in step.arrays.items()}
            made.append(recorder.kernels(list_))
        assert made[0][0] == made[1][0]
        assert made[0][1] == made[1][1] and len(made[0][1]) > 10
