"""Finds races in a list of instructions without running it: by which bytes each thread would touch.

Between two joins no thread may read or write a byte that another one writes. A list says of each instruction which
arrays it reads and writes and how the threads share them out (`Access`), where each thread's share begins, and whether
all threads join afterwards. So a race shows here on any machine, with any luck, and with as many threads as one likes.
"""

import numpy as np


def races(program):
    """What is wrong with a program, a text for each race; an empty list where nothing is."""
    found, phase = [], []
    for number, (step, accesses) in enumerate(zip(program._list, program.accesses, strict=True)):
        phase.append((number, step["bounds"], accesses))
        if step["join"]:
            found += _races_within(phase, program.n_workers)
            phase = []
    found += _races_within(phase, program.n_workers)
    late = [number for number, bounds, _ in phase if bounds[program.n_workers] > bounds[1]]
    return found + [f"helpers may still be at instruction {number} when the program ends" for number in late]


def _races_within(phase, n_workers):
    """The races of instructions between two joins."""
    active = [w for w in range(n_workers) if any(bounds[w] < bounds[w + 1] for _, bounds, _ in phase)]
    if len(active) < 2:
        return []
    touched = {w: [] for w in active}  # (first byte, last byte, writes, instruction)
    for number, bounds, accesses in phase:
        for w in active:
            if bounds[w] < bounds[w + 1]:
                for array, axis, writes in accesses:
                    part = array
                    if axis is not None:
                        part = array[(slice(None),) * axis + (slice(bounds[w], bounds[w + 1]),)]
                    touched[w].append((*_runs(part), writes, number))
    found = []
    for writer in active:
        writes = [(starts, size, number) for starts, size, writes, number in touched[writer] if writes]
        for other in active:
            if other != writer:
                for starts, size, _, number in touched[other]:
                    clashes = [n for s, length, n in writes if _overlap(s, length, starts, size)]
                    found += [f"thread {writer} writes in {n} what thread {other} touches in {number}" for n in clashes]
    return found


def _runs(array):
    """The sorted addresses at which gapless runs of bytes of an array begin, and the length of each run."""
    first, size, axes = array.__array_interface__["data"][0], array.itemsize, []
    for n, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            first, stride = first + (n - 1) * stride, -stride
        if n > 1 and stride:
            axes.append((stride, n))
    axes.sort()
    while axes and axes[0][0] == size:
        size *= axes.pop(0)[1]
    starts = np.array([first])
    for stride, n in axes:
        starts = (starts[:, None] + stride * np.arange(n)).ravel()
    return np.unique(starts), size


def _overlap(starts, size, others, other_size):
    """Whether runs [start, start + size) have a byte in common with others."""
    # The first of the others that ends behind a start must not begin before that run's end.
    i = np.searchsorted(others + other_size, starts, side="right")
    behind = i < len(others)
    return bool((others[i[behind]] < starts[behind] + size).any())
