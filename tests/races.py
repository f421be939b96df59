"""Finds races in a list of instructions, in two ways that need no luck and no threads.

Between two joins no thread may read or write a byte that another one writes. `races` tells it from what the list says
of each instruction: which arrays it reads and writes, and where each thread's share begins. `in_turn` runs the list in
one thread, in each phase first all that one thread has to do, then the next: where the order of the threads makes a
difference, there is a race, whatever the list says.
"""

import ctypes
import math

import numpy as np


def phases(loops):
    """The numbers of the instructions between two joins."""
    found, phase = [], []
    for number, step in enumerate(loops.instructions):
        phase.append(number)
        if step.join:
            found.append(phase)
            phase = []
    return [*found, phase] if phase else found


def races(loops):
    """What is wrong with a list, a text for each race; an empty list where nothing is."""
    found = []
    for phase in phases(loops):
        found += _races_within([(number, loops.instructions[number]) for number in phase], loops.n_workers)
    if not loops.instructions[-1].join:
        found.append("helpers may still be at work when the list ends")
    return found


def _races_within(phase, n_workers):
    """The races of instructions between two joins."""
    touched = {w: [] for w in range(n_workers)}  # (starts of runs of bytes, their length, writes, instruction)
    for number, step in phase:
        for w in range(n_workers):
            start, stop = step.shares[w : w + 2]
            for access in step.accesses if start < stop else ():
                for block in blocks(access.array, access.outer, start, stop):
                    touched[w].append((*_runs(block), access.writes, number))
    found = []
    for writer in range(n_workers):
        writes = [(starts, size, number) for starts, size, writes, number in touched[writer] if writes]
        for other in range(n_workers):
            if other != writer:
                for starts, size, _, number in touched[other]:
                    clashes = [n for s, length, n in writes if _overlap(s, length, starts, size)]
                    found += [f"thread {writer} writes in {n} what thread {other} touches in {number}" for n in clashes]
    return found


def blocks(array, outer, start, stop):
    """The parts of an array that are the elements [start, stop) of its first `outer` axes, taken as one."""
    if outer == 0:
        return [array]
    if outer == 1:
        return [array[start:stop]]
    rest = math.prod(array.shape[1:outer])
    first, last = -(-start // rest), stop // rest  # those that are touched as a whole
    if first > last:
        return blocks(array[last], outer - 1, start - last * rest, stop - last * rest)
    found = [array[first:last]] if first < last else []
    if start < first * rest:
        found += blocks(array[first - 1], outer - 1, start - (first - 1) * rest, rest)
    if stop > last * rest:
        found += blocks(array[last], outer - 1, 0, stop - last * rest)
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


def in_turn(loops, order):
    """Run a list once in this thread: in each phase all that the first thread of `order` has to do, then the next."""
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    words = loops.compiled().tolist()
    for phase in phases(loops):
        for w in order:
            for number in phase:
                start, stop = loops.instructions[number].shares[w : w + 2]
                if start < stop:
                    kernel(words[number][0])(words[number][1], start, stop)
