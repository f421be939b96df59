"""From a list of operations to the order in which they run, the groups that run as one, and the memory they use.

A group is a set of elementwise operations on values of one shape, perhaps with sums along its rows, that can run as one
loop. Values that only their own group reads need no memory of their own where an engine makes such loops. All others
get a buffer for as long as somebody reads them, which then serves the next; or they are written straight to where they
end up: a new value of an input into that array, a part of a concatenation into its place there. For

    def step(a):
        y = np.tanh(a["x"] @ a["W"])
        return {"x": a["x"] - np.concatenate([y, y * y], axis=1)}

y gets the left half of the concatenation's buffer, y * y the right half; and the difference can be written into x at
once, since the product has read x by then and the difference reads each element just before it writes it.

Nothing may be overwritten while it is still to be read: neither a buffer, nor an input under any of its names and
views, since a step's assignments are parallel. What cannot be written in place is copied at the step's end.
"""

import math

import numpy as np

from .tracing import Untraceable, laid_out, same_memory


def squeezed(shape):
    """A shape without its axes of length 1."""
    return tuple(n for n in shape if n != 1)


def over(array, shape):
    """An operand of an operation of this shape, as its elements need it: broadcast, without axes of length 1."""
    if array.shape != shape:
        array = np.broadcast_to(array, shape)
    return array[tuple(slice(None) if n != 1 else 0 for n in shape) + (...,)]


def merged(space, arrays, keep_last=False):
    """The sizes of a space's axes and each array's strides along them, with as few axes as possible."""
    sizes, strides = [], []
    for i, n in enumerate(space):
        steps = [array.strides[i] for array in arrays]
        last = keep_last and i == len(space) - 1
        if sizes and not last and all(outer == inner * n for outer, inner in zip(strides[-1], steps, strict=True)):
            sizes[-1], strides[-1] = sizes[-1] * n, steps
        else:
            sizes.append(n)
            strides.append(steps)
    if not sizes:
        return [1], [[array.itemsize] for array in arrays]
    if keep_last and len(sizes) == 1:
        sizes, strides = [1, *sizes], [[0] * len(arrays), *strides]
    return sizes, [list(steps) for steps in zip(*strides, strict=True)]


def stored(matrix):
    """Whether BLAS is to read a matrix or its transpose, and how many values the rows of the one it reads lie apart.

    The first is 0 where the matrix lies row by row, 1 where its transpose does, as cuBLAS counts. None for a matrix
    whose values lie apart in both directions, or backwards.
    """
    (n_rows, n_columns), (down, across) = matrix.shape, (step // matrix.dtype.itemsize for step in matrix.strides)
    if (across == 1 or n_columns == 1) and (down >= n_columns or n_rows == 1):
        return 0, max(down, n_columns)
    if (down == 1 or n_rows == 1) and across >= n_rows:
        return 1, across
    return None


def is_number(value):
    """Whether a value is a constant whose elements are all the same number."""
    return value.kind == "constant" and value.ghost.tobytes() == value.ghost.flat[0].tobytes() * value.size


def aligned(view):
    """Whether a value holds all elements of its base in the same order, but for axes of length 1."""
    return view is view.base or same_memory(view.ghost, view.base.ghost)


# ------------------------------------------------------------------------------------------------------- groups


class Groups:
    """The values of a list, sorted into groups that can run one after another.

    Each value joins the group of one of its inputs, or of a value that reads what it reads, where no path between
    the two leads through a third group. `needs` holds for each group, as bits of an integer, all groups before it.
    """

    def __init__(self, values):
        self.of, self.members, self.needs = {}, {}, {}
        readers = {}
        for value in values:
            if value.kind in ("input", "constant"):
                continue
            group = self.of[value.number] = value.number
            self.members[group], self.needs[group] = [value], 0
            made = [source.base.number for source in value.inputs if source.base.number in self.of]
            for before in map(self.of.get, made):
                self.needs[group] |= 1 << before | self.needs[before]
            for number in made:
                self._try_merge(self.of[number], self.of[value.number])
            for source in value.inputs:
                for other in readers.setdefault(source.base.number, []):
                    self._try_merge(self.of[other], self.of[value.number])
                readers[source.base.number].append(value.number)

    def _try_merge(self, one, other):
        if one == other or not self._fit(one, other):
            return
        for first, last in ((one, other), (other, one)):
            if any(self.needs[last] >> g & 1 and self.needs[g] >> first & 1 for g in self.members):
                return
        keep, gone = min(one, other), max(one, other)
        self.members[keep] = sorted(self.members[keep] + self.members.pop(gone), key=lambda value: value.number)
        needs = (self.needs[keep] | self.needs.pop(gone)) & ~(1 << keep | 1 << gone)
        self.needs[keep] = needs
        for value in self.members[keep]:
            self.of[value.number] = keep
        for group in self.members:
            if self.needs[group] >> gone & 1 or self.needs[group] >> keep & 1:
                self.needs[group] = (self.needs[group] | 1 << keep | needs) & ~(1 << gone)

    def _fit(self, one, other):
        """Whether two groups run over the same elements, and read each other's values at the element they are at."""
        a, b = self.members[one], self.members[other]
        if a[0].kind == b[0].kind == "primitive":
            return _share_windows(a, b)
        space = next((squeezed(v.shape) for v in elementwise_of(a + b)), None)
        if space is None or math.prod(space) < 2:
            return False
        numbers = {v.number for v in a + b}
        for value in a + b:
            if value.kind == "elementwise":
                if squeezed(value.shape) != space:
                    return False
            elif not _sums_rows(value, space):
                return False
            for source in value.inputs:
                if source.base.number in numbers:
                    if source.base.kind == "reduce" or not aligned(source) or squeezed(source.shape) != space:
                        return False
        return True

    def in_order(self):
        """The groups, each a list of values, so that each comes after those that it needs."""
        order, done, waiting = [], set(), sorted(self.members, reverse=True)
        while waiting:
            before = self._direct(waiting[-1]) - done
            if before:
                waiting += sorted(before, reverse=True)
            elif (group := waiting.pop()) not in done:
                done.add(group)
                order.append(self.members[group])
        return order

    def _direct(self, group):
        sources = (source.base.number for value in self.members[group] for source in value.inputs)
        return {self.of[number] for number in sources if number in self.of} - {group}


def _sums_rows(value, space):
    """Whether a reduction runs along the last axis of a loop over this space."""
    if value.kind != "reduce" or value.function is not np.add or len(space) < 2:
        return False
    x = value.inputs[0]
    axes = [i for i in value.settings if x.shape[i] != 1]
    last = max(i for i, n in enumerate(x.shape) if n != 1)
    return squeezed(x.shape) == space and axes == [last] and aligned(x)


def _share_windows(a, b):
    """Whether both are operations on the same windows over the same images, of which the patches are made once."""
    if sorted(value.function.__name__ for value in a + b) != ["correlate", "correlate_weights"]:
        return False
    apart = a[0].number not in {source.base.number for source in b[0].inputs}
    return apart and a[0].inputs[0] is b[0].inputs[0] and repr(a[0].settings) == repr(b[0].settings)


def elementwise_of(group):
    """The values of a group that one loop can make."""
    return [value for value in group if value.kind == "elementwise"]


def whole_loop(group):
    """All of a group that has elementwise operations, for engines that make them and their sums in one loop."""
    return group if elementwise_of(group) else []


# ------------------------------------------------------------------------------------------------------- memory


class Plan:
    """Groups in order, and where each value that is in memory lies.

    trace  : the list
    empty  : makes an array, as a backend does
    upload : puts a NumPy array, a constant, where the engine wants it
    loop   : which values of a group the engine makes in one loop, so that what only these read needs no memory

    What an engine needs: `groups` and `values` in order, `array(value)`, `in_memory(value)`, `to_copy(concatenation)`,
    and `copies`, pairs (array, value) for the step's end. By the number of a value:

    at        : which group it is in
    readers   : the operations that read it, each with the view of it that they read
    arrays    : where it lies
    direct    : the input's array, for a value that is made there
    inside    : the concatenation that it is a part of, and its place there, for a value that is made there
    """

    def __init__(self, trace, empty, upload, loop):
        self.trace, self._empty, self.bytes = trace, empty, 0
        self._scratch = {}
        values = trace.live()
        self.groups = Groups(values).in_order()
        self.values = [value for group in self.groups for value in group]
        self.at = {value.number: i for i, group in enumerate(self.groups) for value in group}
        self.readers = {}
        for value in self.values:
            for source in value.inputs:
                self.readers.setdefault(source.base.number, []).append((value, source))
        self.in_loop = {value.number for group in self.groups for value in loop(group)}
        self.arrays = {}
        for value in trace.inputs.values():
            self.arrays[value.number] = trace.arrays[value.settings]
        for value in values:
            if value.kind == "constant":
                self.arrays[value.number] = upload(value.ghost)
        self.inside = {}
        self._find_places()
        self._allocate()

    def empty(self, shape, dtype):
        """New memory, which the step keeps."""
        array = self._empty(shape, dtype)
        self.bytes += array.nbytes
        return array

    def array(self, value):
        """A value's array, for a value in memory or a view of one."""
        return value.on(self.arrays[value.base.number])

    def in_memory(self, value):
        """Whether a value needs memory: where only its own loop reads it, that keeps it."""
        readers = [reader.number for reader, _ in self.readers.get(value.number, [])]
        elsewhere = any(self.at[n] != self.at[value.number] or n not in self.in_loop for n in readers)
        return elsewhere or value.number in self._assigned

    def scratch(self, owner, purpose, shape, dtype):
        """Memory for what one step of a convolution makes for the next; all convolutions share it in turn."""
        key = owner, purpose, tuple(shape), np.dtype(dtype)
        if key not in self._scratch:
            self._scratch[key] = self.empty(shape, dtype)
        return self._scratch[key]

    def zeros(self, shape, dtype):
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    # ---------------------------------------------------------------------------------------------- places

    def _find_places(self):
        """Which values are written straight into an input's array or into a concatenation."""
        trace, self.copies, self.direct = self.trace, [], {}
        self._assigned = {value.base.number for value in trace.assigned.values()}
        targets = {name: trace.arrays[name] for name in trace.assigned}
        for name, target in targets.items():
            for other, array in targets.items():
                if name < other and overlap(target, array):
                    raise Untraceable(f"a step assigns to {name!r} and to {other!r}, which share memory")
        for value in self.values:
            if value.kind == "assemble":
                self._place_parts(value)
        for name, value in trace.assigned.items():
            if value is trace.inputs[name]:
                continue
            if self._can_write(name, value):
                self.direct[value.base.number] = targets[name]
            else:
                self.copies.append((targets[name], value))

    def _can_write(self, name, value):
        """Whether a new value can be made in its input's array: all others who read that have done so by then.

        An operation of the same loop may also read the input, at the element that it is at, before this is written.
        """
        base, target = value.base, self.trace.arrays[name]
        if base.kind in ("input", "constant") or base.number in self.direct or base.number in self.inside:
            return False
        if not aligned(value) or not _compatible(base.ghost, target):
            return False
        parts = [part for part, (whole, _) in self.inside.items() if whole is base]
        first = min(self.at[number] for number in (base.number, *parts))
        for other, array in self.trace.arrays.items():
            if not overlap(target, array):
                continue
            for reader, source in self.readers.get(self.trace.inputs[other].number, []):
                before = self.at[reader.number] < first
                along = (
                    other == name
                    and base.kind == reader.kind == "elementwise"
                    and self.at[reader.number] == first
                    and reader.number <= base.number
                    and aligned(source)
                )
                if not (before or along):
                    return False
        return True

    def to_copy(self, whole):
        """The parts of a concatenation that are made elsewhere, with their places there, as indices."""
        for part, place in _places(whole):
            holder, seat = self.inside.get(part.base.number, (None, None))
            if holder is not whole or seat != place:
                yield part, place

    def _place_parts(self, whole):
        for part, place in _places(whole):
            base = part.base
            if base.kind not in ("input", "constant", "assemble") and self._holds(whole.ghost[place], part):
                self.inside[base.number] = whole, place

    def _holds(self, slot, part):
        """Whether a part's base, with all its views, can live in its slot of a concatenation."""
        base = part.base
        whole = part.size == base.size and part.ghost.flags.c_contiguous and base.ghost.flags.c_contiguous
        if not whole:
            return False
        seat = slot.reshape(base.shape)
        if not np.may_share_memory(seat, slot) or seat.squeeze().strides[-1:] not in ((), (seat.itemsize,)):
            return False  # with gaps between all its values, NumPy would compute them by other loops
        readers = self.readers.get(base.number, [])
        if not seat.flags.c_contiguous and any(reader.kind in ("reduce", "primitive") for reader, _ in readers):
            return False
        views = [*(source for _, source in readers), *self.trace.assigned.values()]
        return all(np.may_share_memory(view.on(seat), seat) for view in views if view.base is base)

    # ---------------------------------------------------------------------------------------------- buffers

    def _allocate(self):
        last = {n: max(self.at[reader.number] for reader, _ in readers) for n, readers in self.readers.items()}
        for _, value in self.copies:
            last[value.base.number] = len(self.groups)
        for number, (whole, _) in self.inside.items():
            last[whole.number] = max(last.get(whole.number, -1), last.get(number, -1), self.at[whole.number])
        free, self._owned = [], {}  # free buffers; number -> the buffer that a value has for itself
        for i, group in enumerate(self.groups):
            for value in group:
                if value.number not in self.arrays and self.in_memory(value):
                    self._seat(value, i, last, free)
            for number in [number for number in self._owned if last.get(number, -1) <= i]:
                free.append(self._owned.pop(number))

    def _seat(self, value, i, last, free):
        """Give a value its array."""
        number = value.number
        if number in self.direct:
            self.arrays[number] = self.direct[number]
        elif number in self.inside:
            whole, place = self.inside[number]
            if whole.number not in self.arrays:
                self._seat(whole, i, last, free)
            self.arrays[number] = self.arrays[whole.number][place].reshape(value.shape)
        else:
            buffer = self._inherited(value, i, last)
            buffer = self._taken(value, free) if buffer is None else buffer
            self._owned[number] = buffer
            self.arrays[number] = laid_out(buffer, value.shape, value.ghost)

    def _inherited(self, value, i, last):
        """The buffer of a value that is read for the last time here, each element just before this one is written."""
        if value.kind != "elementwise":
            return None
        for source in value.inputs:
            base = source.base
            if base.number not in self._owned or last[base.number] != i or base.dtype != value.dtype:
                continue
            if any(whole is base and last.get(part, -1) >= i for part, (whole, _) in self.inside.items()):
                continue
            same = base.ghost.flags.c_contiguous and value.ghost.flags.c_contiguous and base.size == value.size
            fits = all(
                aligned(view) and reader.number <= value.number and reader.kind == "elementwise"
                for reader, view in self.readers[base.number]
                if self.at[reader.number] == i
            )
            if same and fits:
                return self._owned.pop(base.number)
        return None

    def _taken(self, value, free):
        """The smallest free buffer that is large enough but not much too large, or a new one."""
        fits = [b for b in free if b.dtype == value.dtype and value.size <= b.size <= 2 * value.size]
        if fits:
            buffer = min(fits, key=lambda b: b.size)
            free[:] = [b for b in free if b is not buffer]
            return buffer
        return self.empty((value.size,), value.dtype)


def _places(whole):
    """The parts of a concatenation, each with its place there, as an index."""
    start, axis = 0, whole.settings
    for part in whole.inputs:
        stop = start + part.shape[axis]
        yield part, (slice(None),) * axis + (slice(start, stop),)
        start = stop


def overlap(x, y):
    """Whether two arrays may share memory."""
    if isinstance(x, np.ndarray):
        return np.may_share_memory(x, y)
    return x.data.ptr < y.data.ptr + y.nbytes and y.data.ptr < x.data.ptr + x.nbytes  # on a GPU


def _compatible(ghost, target):
    """Whether a value of this layout can be made in the target, so that all views of it are views of the target."""
    return ghost.shape == target.shape and ghost.flags.c_contiguous and target.flags.c_contiguous
