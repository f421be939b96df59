"""Ranks that are threads of one process: what MPI does between processes, for tests that need no MPI.

results = together(3, lambda ranks: mv.fit(make(), x, parallel=ranks))
"""

import copy
import threading

from minivae.parallel import Ranks


class Group:
    """Threads that wait for each other."""

    def __init__(self, size):
        self.size, self.given, self.barrier = size, [None] * size, threading.Barrier(size)
        self.calls = 0  # how often they met

    def exchange(self, rank, value):
        """The values of all ranks, in their order."""
        self.given[rank] = value
        if self.barrier.wait(30) == 0:
            self.calls += 1
        all_of_them = list(self.given)
        self.barrier.wait(30)  # nobody gives anew before everybody has read
        return all_of_them


class ThreadRanks(Ranks):
    def __init__(self, group, rank):
        self.group, self.rank, self.size = group, rank, group.size

    def allreduce(self, array):
        array[...] = sum(self.group.exchange(self.rank, array.copy()))

    def broadcast(self, value, root=0):
        return copy.deepcopy(self.group.exchange(self.rank, value)[root])


def together(size, program):
    """What program(ranks) returns on each of so many ranks; the first error of one of them is raised."""
    group, results, errors = Group(size), [None] * size, []

    def run(rank):
        try:
            results[rank] = program(ThreadRanks(group, rank))
        except BaseException as error:
            if not isinstance(error, threading.BrokenBarrierError):
                errors.append(error)
            group.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
