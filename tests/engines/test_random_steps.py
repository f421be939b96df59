"""Steps made at random, of all kinds of operations in any order: every engine computes what plain NumPy computes.

A step is a list of instructions, each a function of the values before it, so that it runs on arrays and on stand-ins
alike. Its arrays are small and of odd shapes, and now and then larger than the pieces in which the engines work.
"""

import numpy as np
import pytest

from minivae import get_backend
from minivae.engine import calls
from minivae.engine.backend import Eager
from minivae.engine.convolution import Axis, Windows, correlate, correlate_weights
from minivae.engine.interpreter import interpret
from minivae.engine.plan import Groups
from minivae.engine.tracing import Trace, Untraceable, rows, trace

SIZES = [1, 1, 2, 2, 3, 4, 5, 7, 8, 9, 65, 130]
LARGE = [(70_000,), (2, 40_000), (300, 257), (257, 1, 300), (5, 3, 7_000), (66_000, 1)]
N_ROWS = 3  # what the positions in "index" are below

ENGINES = ["numpy", "numba", "fake"]
CASES = [("numpy", first) for first in range(0, 600, 20)]
CASES += [(engine, first) for engine in ENGINES[1:] for first in (0, 20)]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Many arrays are worked on piece by piece, and those of LARGE in many pieces."""
    monkeypatch.setattr(calls, "PIECE", 1 << 12)


class RandomStep:
    """A step and its arrays: `step(arrays)`, and `fresh_arrays(backend)`, which makes them with their first values.

    smooth : leave out functions that jump or swing, for engines whose values may be a little different before
    """

    def __init__(self, seed, n_instructions=None, smooth=False):
        self.rng, self.smooth = np.random.default_rng([seed, 0x57E9]), smooth
        self.instructions = []
        self.dtype = np.dtype(self.pick("float32", "float32", "float64"))
        self.host = self._inputs()
        self.names = list(self.host)
        # While a step is made, it runs: the shapes of the values so far say what can be done with them next.
        with np.errstate(all="ignore"):
            self.pool = [array.copy() for array in self.host.values()]
            for _ in range(n_instructions or self.rng.integers(3, 25)):
                self._add(getattr(self, self.pick(*KINDS))())
        self.results = self._results()
        del self.pool

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, p):
        return self.rng.random() < p

    def values(self, shape, dtype):
        """Values of which some are 0, -0 or repeated."""
        if np.dtype(dtype) == bool:
            return self.rng.random(shape) < 0.5
        if np.dtype(dtype).kind in "iu":
            return self.rng.integers(0, N_ROWS, shape).astype(dtype)
        values = self.rng.standard_normal(shape).astype(dtype)
        kept = self.rng.random(shape)
        return np.where(kept < 0.05, np.copysign(np.zeros_like(values), values), values)

    def _shape(self):
        if self.chance(0.06):
            return LARGE[self.rng.integers(len(LARGE))]
        if self.chance(0.4):
            return self.pick(2, 3, 4), self.pick(1, 2, 5)
        return tuple(int(n) for n in self.rng.choice(SIZES, self.rng.integers(1, 5)))

    def _inputs(self):
        shapes = {f"x{i}": self._shape() for i in range(self.rng.integers(2, 6))}
        host = {}
        for name, shape in shapes.items():
            while np.prod(shape) > 1 << 20 or (np.prod(shape) > 20_000 and shape not in LARGE):
                shape = self._shape()
            other = self.pick("bool", "uint8", "int64", "float32", "float64") if self.chance(0.2) else self.dtype
            host[name] = self.values(shape, other)
        host["index"] = self.values((self.pick(1, 2, 5),), "int64")
        return host

    # ---------------------------------------------------------------------------- choosing operands

    def choose(self, *conditions):
        """The number of a value for which all conditions hold, a late one rather than an early one; None without."""
        fits = [i for i, x in enumerate(self.pool) if all(holds(x) for holds in conditions)]
        if not fits:
            return None
        return fits[-1 - min(int(self.rng.exponential(3)), len(fits) - 1)]

    def _add(self, instruction):
        if instruction is None:
            return
        value = instruction(self.pool)
        if isinstance(value, np.ndarray) and value.ndim and 0 < value.size <= 1 << 19:
            self.instructions.append(instruction)
            self.pool.append(value)

    # ---------------------------------------------------------------------------- kinds of instructions

    def unary(self):
        i = self.choose(is_float)
        jumps = [] if self.smooth else [np.rint, np.sign, np.floor, np.isfinite, np.sin]
        function = self.pick(
            *jumps, np.tanh, np.negative, np.abs, np.expm1,
            lambda x: x**2, lambda x: np.abs(x) ** 0.5, lambda x: (1 + x**2) ** -1, lambda x: np.exp(-np.abs(x)),
            lambda x: np.log1p(np.abs(x)), lambda x: np.log(1 + np.abs(x)), lambda x: np.clip(x, -0.5, 0.5),
        )  # fmt: skip
        return None if i is None else lambda pool: function(pool[i])

    def of_number(self):
        i = self.choose(is_float)
        number = self.pick(0.5, 1, 2, -1, 0.0, -0.0, 1 / 3, True, np.float32(0.7))
        jumps = [] if self.smooth else [np.greater, np.less_equal]
        function = self.pick(*jumps, np.add, np.multiply, np.subtract, np.maximum, np.minimum)
        if i is None:
            return None
        return self.pick(lambda pool: function(pool[i], number), lambda pool: function(number, pool[i]))

    def of_integers(self):
        i = self.choose(lambda x: x.dtype.kind in "iub")
        number = self.pick(0, 1, 2)
        function = self.pick(np.equal, np.greater, np.maximum, np.add, np.multiply)
        return None if i is None else lambda pool: function(pool[i], number)

    def binary(self):
        i = self.choose()
        j = self.choose(lambda y: fits_together(self.pool[i], y))
        function = self.pick(
            np.add, np.multiply, np.subtract, np.maximum, np.minimum, np.logaddexp, lambda x, y: x / (1 + np.abs(y))
        )
        if self.pool[i].dtype.kind != "f" or self.pool[j].dtype.kind != "f":
            function = self.pick(np.add, np.multiply, np.maximum)
        if self.chance(0.2) and not self.smooth:
            function = self.pick(np.greater, np.equal, np.less)
        return lambda pool: function(pool[i], pool[j])

    def of_constant(self):
        i = self.choose(is_float)
        if i is None:
            return None
        x = self.pool[i]
        shape = tuple(self.pick(1, n) for n in x.shape)[self.rng.integers(x.ndim) :]
        constant, function = self.values(shape, self.pick(x.dtype, bool)), self.pick(np.add, np.multiply, np.maximum)
        return lambda pool: function(pool[i], constant)

    def like(self):
        i, like = self.choose(is_float), self.pick(np.zeros_like, np.ones_like, lambda x: np.full_like(x, 0.3))
        return None if i is None else lambda pool: pool[i] - like(pool[i])

    def where(self):
        i = self.choose(lambda x: x.dtype == bool)
        j = self.choose(is_float) if i is None else self.choose(is_float, lambda y: fits_together(self.pool[i], y))
        if j is None:
            return None
        number = self.pick(0, 0.5, None)
        k = self.choose(lambda y: fits_together(self.pool[j], y, *(() if i is None else (self.pool[i],))))
        if i is None and self.smooth:
            return None
        condition = (lambda pool: pool[j] > 0.1) if i is None else (lambda pool: pool[i])
        other = (lambda pool: pool[k]) if number is None and k is not None else (lambda pool: number or 0)
        if self.chance(0.5):
            return lambda pool: np.where(condition(pool), pool[j], other(pool))
        return lambda pool: np.where(condition(pool), other(pool), pool[j])

    def slices(self):
        i = self.choose()
        x = self.pool[i]
        key = []
        for n in x.shape[: self.rng.integers(1, x.ndim + 1)]:
            start, stop = sorted(int(k) for k in self.rng.integers(0, n + 1, 2))
            key.append(
                self.pick(
                    slice(None), slice(start, stop), slice(None, None, -1), slice(None, None, 2), slice(start, None),
                    slice(None, None, -2), slice(None, -1), *([int(self.rng.integers(-n, n))] if x.ndim > 1 else []),
                )
            )  # fmt: skip
        if self.chance(0.2) and not any(isinstance(part, int) for part in key):
            key = [..., *key]
        if self.chance(0.3):
            key.insert(self.rng.integers(len(key) + 1), None)
        key = tuple(key) if len(key) > 1 else key[0]
        return lambda pool: pool[i][key]

    def transposed(self):
        i = self.choose(lambda x: x.ndim > 1)
        if i is None:
            return None
        n = self.pool[i].ndim
        axes, a, b = (
            tuple(int(k) for k in self.rng.permutation(n)),
            int(self.rng.integers(n)),
            int(self.rng.integers(n)),
        )
        return self.pick(
            lambda pool: pool[i].T, lambda pool: pool[i].transpose(axes), lambda pool: np.transpose(pool[i], axes),
            lambda pool: np.swapaxes(pool[i], a, b), lambda pool: np.moveaxis(pool[i], a, b),
        )  # fmt: skip

    def reshaped(self):
        i = self.choose()
        x = self.pool[i]
        shape, left = [], x.size
        while left > 1 and len(shape) < 4:
            n = self.pick(*(n for n in (left, left, 2, 3, 5, 7, *x.shape) if left % n == 0))
            shape.append(n)
            left //= n
        shape = tuple(shape) if left == 1 else (*shape, left)
        shape = shape or (1,)
        if self.chance(0.2):
            shape = (*shape, 1)
        return self.pick(
            lambda pool: pool[i].reshape(shape), lambda pool: pool[i].reshape(*shape), lambda pool: pool[i].reshape(-1),
            lambda pool: np.reshape(pool[i], shape), lambda pool: pool[i].ravel(),
        )  # fmt: skip

    def broadcast(self):
        i = self.choose(lambda x: x.size < 5_000)
        if i is None:
            return None
        shape = [self.pick(2, 3) if n == 1 else n for n in self.pool[i].shape]
        shape = self.pick((*shape,), (self.pick(1, 2, 3), *shape))
        axis = int(self.rng.integers(self.pool[i].ndim + 1))
        return self.pick(lambda pool: np.broadcast_to(pool[i], shape), lambda pool: np.expand_dims(pool[i], axis))

    def cast(self):
        i, dtype = self.choose(), self.pick("float32", "float64", "float64", "float32", bool)
        if self.pool[i].dtype.kind != "f" or self.smooth:
            dtype = self.pick("float32", "float64", *([] if is_float(self.pool[i]) else ["int64"]))
        return lambda pool: pool[i].astype(dtype)

    def reduced(self):
        i = self.choose(is_float)
        if i is None:
            return None
        n = self.pool[i].ndim
        axes = tuple(int(axis) for axis in self.rng.permutation(n)[: self.rng.integers(1, n + 1)])
        keepdims = len(axes) == n or self.chance(0.3)
        axes = axes[0] if len(axes) == 1 and self.chance(0.7) else None if len(axes) == n and self.chance(0.5) else axes
        function = self.pick(np.sum, np.sum, np.sum, np.mean, np.max, np.min)
        return lambda pool: function(pool[i], axis=axes, keepdims=keepdims)

    def product(self):
        i = self.choose(is_float, lambda x: x.ndim == 2 and x.size < 10_000)
        if i is None:
            return None
        a = self.pool[i]
        j = self.choose(lambda y: y.dtype == a.dtype and y.ndim == 2 and y.shape[0] == a.shape[1] and y.size < 10_000)
        k = self.choose(lambda y: y.dtype == a.dtype and y.ndim == 2 and y.shape[0] == a.shape[0] and y.size < 10_000)
        choices = [(lambda pool: pool[i].T @ pool[k])]
        if a.shape[0] < 200:
            choices += [lambda pool: pool[i] @ pool[i].T]
        if j is not None:
            choices += [lambda pool: pool[i] @ pool[j], lambda pool: np.matmul(pool[i], pool[j])]
        return self.pick(*choices)

    def joined(self):
        i = self.choose(lambda x: x.size < 40_000)
        if i is None:
            return None
        x = self.pool[i]
        if self.chance(0.3):
            axis = int(self.rng.integers(-x.ndim - 1, x.ndim + 1))
            alike = [
                self.choose(lambda y: y.shape == x.shape and y.dtype == x.dtype) for _ in range(self.rng.integers(3))
            ]
            parts = [i, *alike]
            return lambda pool: np.stack([pool[part] for part in parts], axis=axis)
        axis = int(self.rng.integers(x.ndim))

        def fits(y):
            others = [(a, b) for k, (a, b) in enumerate(zip(x.shape, y.shape, strict=False)) if k != axis]
            return y.dtype == x.dtype and y.ndim == x.ndim and y.size < 40_000 and all(a == b for a, b in others)

        parts = [i] + [self.choose(fits) for _ in range(self.rng.integers(4))]
        self.rng.shuffle(parts)
        axis = axis - x.ndim if self.chance(0.3) else axis
        return lambda pool: np.concatenate([pool[part] for part in parts], axis=axis)

    def chosen_rows(self):
        index = self.names.index("index")
        i = self.choose(lambda x: x.shape[0] >= N_ROWS and x.size < 40_000)
        return None if i is None else lambda pool: rows(pool[i], pool[index])

    def convolution(self):
        """A convolution, or its adjoint, of some value seen as images, with some values as the kernel."""
        i, j = self.choose(is_float, lambda x: x.size < 20_000), self.choose(is_float, lambda x: x.size < 20_000)
        if i is None or self.pool[i].dtype != self.pool[j].dtype:
            return None
        H, W, C, n_out = *(int(n) for n in self.rng.integers(2, 9, 2)), self.pick(1, 2, 3), self.pick(1, 1, 2, 4)
        K, stride = self.pick((1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (1, 1))
        axes = [Axis(n, -(-n // stride), K, stride, self.pick(0, (K - 1) // 2)) for n in (H, W)]
        there = Windows(*(axis.convolution() for axis in axes), tuple(axis.small for axis in axes), K)
        back = Windows(*(axis.adjoint() for axis in axes), (H, W), K)
        B = self.pool[i].size // (H * W * C)
        if not B or self.pool[j].size < K * K * C * n_out:
            return None
        permuted = [0, 1, 2, 3] if self.chance(0.6) else [int(k) for k in self.rng.permutation(4)]

        def images(pool):
            flat = pool[i].reshape(-1)[: B * H * W * C]
            shape = [(B, H, W, C)[k] for k in permuted]
            return flat.reshape(shape).transpose(np.argsort(permuted).tolist())

        swap = self.chance(0.5)

        def kernel(pool):
            flat = pool[j].reshape(-1)[: K * K * C * n_out]
            return flat.reshape(K, K, n_out, C).transpose(0, 1, 3, 2) if swap else flat.reshape(K, K, C, n_out)

        def gradients(pool):
            x, k = images(pool), kernel(pool)
            y = correlate(x, k, there)
            dx = correlate(y, k.transpose(0, 1, 3, 2), back)
            dk = correlate_weights(y, x, back)
            return np.concatenate([y.reshape(-1), dx.reshape(-1), dk.reshape(-1)])

        return self.pick(
            gradients,
            lambda pool: correlate(images(pool), kernel(pool), there),
            lambda pool: correlate_weights(images(pool), correlate(images(pool), kernel(pool), there), there),
        )

    # ---------------------------------------------------------------------------------------- results

    def _results(self):
        """Which values the step assigns to which arrays: some to those that it reads, and its last to others."""
        results, n = {}, len(self.names)
        for target, name in zip(self.pool, self.names, strict=False):
            i = self.choose(lambda y, target=target: y.shape == target.shape and y.dtype.kind == target.dtype.kind)
            if name != "index" and i is not None and self.chance(0.7):
                results[name] = i
        for k in range(self.rng.integers(1, 4)):
            i = max(0, len(self.pool) - 1 - int(self.rng.exponential(2)))
            if i < n and k:
                continue
            results[f"out{k}"] = i
            self.host[f"out{k}"] = np.zeros(self.pool[i].shape, self.pool[i].dtype)
        return results

    def fresh_arrays(self, backend):
        arrays = {}
        for name, array in self.host.items():
            arrays[name] = backend.empty(array.shape, array.dtype)
            backend.upload(array, to=arrays[name])
        return arrays

    def change(self, backend, arrays, call):
        """New values for those arrays that the step does not assign, as new data and noise come between steps."""
        rng, self.rng = self.rng, np.random.default_rng(call)
        for name, array in arrays.items():
            if name not in self.results:
                backend.upload(self.values(array.shape, array.dtype), to=array)
        self.rng = rng

    def all_values(self, arrays):
        pool = [arrays[name] for name in self.names]
        for instruction in self.instructions:
            pool.append(instruction(pool))
        return pool

    def step(self, arrays):
        pool = self.all_values(arrays)
        return {name: pool[i] for name, i in self.results.items()}


def is_float(x):
    return x.dtype.kind == "f"


def fits_together(*arrays):
    try:
        return np.prod(np.broadcast_shapes(*(x.shape for x in arrays))) <= 1 << 19
    except ValueError:
        return False


KINDS = [
    *("unary", "unary", "of_number", "binary", "binary", "binary", "of_integers", "of_constant", "like", "where"),
    *("slices", "slices", "transposed", "reshaped", "broadcast", "cast"),
    *("reduced", "reduced", "product", "joined", "joined", "chosen_rows", "convolution"),
]


def bits(array):
    """The bits of an array, all NaNs the same."""
    array = np.array(array)
    if array.dtype.kind == "f":
        array[np.isnan(array)] = np.nan
    return np.ascontiguousarray(array).view(np.uint8)


def compare(seed, backend, tolerance=None, n_calls=3, n_instructions=None):
    """Run the step of this seed on a backend, and eagerly on NumPy; raises AssertionError where they differ.

    tolerance : relative and absolute; None for the same bits
    """
    random = RandomStep(seed, n_instructions, smooth=tolerance is not None)
    plain = get_backend("numpy")
    theirs, ours = random.fresh_arrays(plain), random.fresh_arrays(backend)
    try:
        trace(random.step, ours)
    except Untraceable as error:  # once in a hundred steps
        assert "the same value, which is computed twice" in str(error)
        return
    compiled = backend.compile(random.step, ours)
    assert not isinstance(compiled, Eager), f"the step of seed {seed} was not compiled"
    eager = Eager(random.step, theirs)
    for call in range(n_calls):
        with np.errstate(all="ignore"):
            eager()
            compiled()
        for name, expected in theirs.items():
            got, where = backend.to_host(ours[name]), f"seed {seed}, call {call}, {name}"
            if tolerance is None:
                np.testing.assert_array_equal(bits(got), bits(expected), err_msg=where)
            else:
                np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=where)
        random.change(plain, theirs, call)
        random.change(backend, ours, call)


def tolerance(backend):
    """How far a backend's float32 may be from NumPy's; its own engine computes the same bits."""
    return None if backend.name == "numpy" else 1e-3


def compare_layouts(seed):
    """Each stand-in says the dtype, the shape and the layout that NumPy's own array has."""
    random = RandomStep(seed)
    arrays = random.fresh_arrays(get_backend("numpy"))
    with np.errstate(all="ignore"):
        expected = random.all_values(arrays)
    try:
        values = random.all_values(Trace(arrays).inputs)
    except Untraceable:
        return
    for i, (value, array) in enumerate(zip(values, expected, strict=True)):
        assert (value.shape, value.dtype) == (array.shape, array.dtype), f"seed {seed}, value {i}: {value}"
        if array.size > 1:
            assert value.ghost.squeeze().strides == array.squeeze().strides, f"seed {seed}, value {i}: {value}"


@pytest.mark.parametrize("backend, first", CASES, indirect=["backend"])
def test_a_random_step_computes_what_numpy_computes(backend, first):
    for seed in range(first, first + 20):
        compare(seed, backend, tolerance(backend))


@pytest.mark.parametrize("first", range(0, 600, 100))
def test_a_stand_in_has_the_layout_of_numpys_array(first):
    for seed in range(first, first + 100):
        compare_layouts(seed)


def test_a_list_can_be_run_one_operation_at_a_time():
    """As the search for the first NaN does; the arrays stay as they are."""
    for seed in range(100):
        random = RandomStep(seed, smooth=True)
        arrays = random.fresh_arrays(get_backend("numpy"))
        before = {name: array.copy() for name, array in arrays.items()}
        with np.errstate(all="ignore"):
            expected = random.step(arrays)
            try:
                list_ = trace(random.step, arrays)
            except Untraceable:
                continue
            made = {value.number: array for value, array in interpret(list_, arrays)}
        for name, value in list_.assigned.items():
            if value.base.number in made:
                got = value.on(made[value.base.number])
                np.testing.assert_allclose(got, expected[name], rtol=1e-3, atol=1e-3, err_msg=f"seed {seed}, {name}")
        for name, array in before.items():
            np.testing.assert_array_equal(arrays[name], array)


def test_groups_know_all_groups_before_them():
    """What a group needs is what its members' inputs come from, and what that needs in turn."""
    for seed in range(150):
        random = RandomStep(seed)
        try:
            groups = Groups(trace(random.step, random.fresh_arrays(get_backend("numpy"))).live())
        except Untraceable:
            continue
        order, seen = groups.in_order(), {}
        for members in order:
            group = groups.of[members[0].number]
            direct = groups._direct(group)
            assert direct <= seen.keys(), f"seed {seed}: a group comes before what it reads"
            seen[group] = direct.union(*(seen[other] for other in direct))
            assert groups.needs[group] == sum(1 << other for other in seen[group]), f"seed {seed}"
        assert sorted(value.number for members in order for value in members) == sorted(groups.of)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 5000, 100))
@pytest.mark.parametrize("backend", ENGINES, indirect=True)
def test_many_random_steps(backend, first):
    for seed in range(first, first + 100):
        compare(seed, backend, tolerance(backend), n_instructions=None if seed % 2 else 20 + seed % 50)
        compare_layouts(seed)
