"""Fixtures that several test files share."""

import fakegpu
import pytest

from minivae import get_backend

MAKE_BACKEND = {
    "numpy": lambda: get_backend("numpy"),
    "numba": lambda: pytest.importorskip("llvmlite") and get_backend("numba"),
    "fake": fakegpu.backend,
    "cupy": lambda: get_backend("cupy"),
}


@pytest.fixture(params=["numpy", "numba", "fake", pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request):
    """Each backend in turn: NumPy, NumPy with Numba, the imaginary GPU, and with `-m gpu` a real one."""
    return MAKE_BACKEND[request.param]()
