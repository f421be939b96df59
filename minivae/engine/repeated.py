"""A function that many batches go through: run as it stands at first, compiled for the shapes that keep coming."""

from collections import Counter


class Repeated:
    """A function of arrays, for batches one after another.

    function : from a dict of arrays to one array
    staying  : the arrays by name that all batches share

    It is to be made for one series of batches and left to its thread: what is compiled works in memory of its own, and
    takes all but the arrays for constant.
    """

    COMPILED_AFTER = 16  # batches of a shape: compiling takes about as long as they do

    def __init__(self, function, backend, dtype, staying):
        self._function, self._backend, self._dtype, self._staying = function, backend, dtype, staying
        self._met, self._compiled = Counter(), {}

    def __call__(self, **batch):
        """The result for a batch's arrays, those that are None left out: a NumPy array that the next call changes."""
        batch = {name: array for name, array in batch.items() if array is not None}
        shapes = tuple(array.shape for array in batch.values())
        self._met[shapes] += 1
        if self._met[shapes] <= self.COMPILED_AFTER:
            return self._backend.to_host(self._function(self._staying | batch))
        if shapes not in self._compiled:
            self._compiled[shapes] = self._compile(batch)
        run, arrays = self._compiled[shapes]
        for name, array in batch.items():
            arrays[name][...] = array
        run()
        return self._backend.to_host(arrays["result"])

    def _compile(self, batch):
        """A list for batches of these shapes, and its arrays."""
        backend, function = self._backend, self._function
        arrays = {name: backend.empty(array.shape, array.dtype) for name, array in batch.items()}
        result = function(self._staying | batch)
        arrays |= self._staying | {"result": backend.empty(result.shape, result.dtype)}
        return backend.compile(lambda a: {"result": function(a)}, arrays, self._dtype), arrays
