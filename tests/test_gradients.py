"""Every backward pass against central differences, in float64, on every backend."""

import numpy as np
import pytest

import minivae as mv
from minivae.gradcheck import checks
from minivae.layers import Layer


@pytest.mark.parametrize("name", checks())
def test_backward_pass(name, backend):
    result = checks()[name](backend)
    assert result.checked > 0
    assert result.passed, f"{result.name}: relative error {result.error:.1e} at {result.where}"


def test_gradcheck_finds_a_wrong_backward_pass():
    class Wrong(mv.Tanh):
        def backward(self, dy):
            dx = super().backward(dy)
            dx *= 1.001
            return dx

    vae = mv.VAE([mv.Dense(5, 4), Wrong(), mv.Dense(4, 4)], [mv.Dense(2, 5)], dtype="float64")
    result = mv.gradcheck(vae, np.random.default_rng(0).random((3, 5)))
    assert not result.passed
    assert result.where.startswith("encoder.0")


def test_gradcheck_leaves_the_parameters_alone():
    vae = mv.VAE([mv.Dense(5, 4)], [mv.Dense(2, 5)], dtype="float64")
    before = vae.parameters.flat.copy()
    assert mv.gradcheck(vae, np.random.default_rng(0).random((3, 5))).passed
    np.testing.assert_array_equal(vae.parameters.flat, before)


def test_gradcheck_asks_for_float64():
    vae = mv.VAE([mv.Dense(5, 4)], [mv.Dense(2, 5)])
    with pytest.raises(mv.MiniVAEError, match="float64"):
        mv.gradcheck(vae, np.zeros((3, 5)))


def test_the_table_covers_every_layer():
    """A layer that is exported without a row in the table is a layer that nobody checks."""
    exported = {name for name in mv.__all__ if isinstance(getattr(mv, name), type)}
    layers = {name for name in exported if issubclass(getattr(mv, name), Layer)}
    assert {name for name in layers if not any(row.startswith(name) for row in checks())} == set()
