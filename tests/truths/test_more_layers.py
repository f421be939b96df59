"""More activations and layer normalization: known values, limits, and what a formula written otherwise gives."""

import numpy as np
import pytest
from scipy import special, stats

import minivae as mv
from minivae.model.more_layers import elu, gelu, layer_norm, leaky_relu, softplus

X = np.concatenate([np.linspace(-30, 30, 241), [-700.0, 700.0, 0.0]])


def test_values():
    np.testing.assert_allclose(leaky_relu(X, 0.2)[0], np.maximum(X, 0) + 0.2 * np.minimum(X, 0))
    np.testing.assert_allclose(elu(X, 0.5)[0], np.where(X > 0, X, 0.5 * (np.exp(np.minimum(X, 0)) - 1)), atol=1e-15)
    np.testing.assert_allclose(softplus(X)[0], -special.log_expit(-X), rtol=1e-14)
    np.testing.assert_allclose(gelu(X)[0], X * stats.norm.cdf(X), atol=5e-4)  # so near is the approximation


def test_known_values():
    """Of PyTorch 2.13: LeakyReLU(0.01), ELU(), Softplus(), GELU(approximate="tanh") at -1.5 and 2."""
    x = np.array([-1.5, 2.0])
    np.testing.assert_allclose(leaky_relu(x)[0], [-0.015, 2])
    np.testing.assert_allclose(elu(x)[0], [-0.7768698, 2], rtol=1e-7)
    np.testing.assert_allclose(softplus(x)[0], [0.2014133, 2.1269280], rtol=1e-6)
    np.testing.assert_allclose(gelu(x)[0], [-0.1004284, 1.9545977], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layer", [mv.LeakyReLU(), mv.ELU(), mv.Softplus(), mv.GELU()], ids=lambda x: type(x).__name__)
def test_nothing_overflows_and_dtypes_stay(layer, dtype):
    x = np.array([-1e4, -1.0, 0.0, 1.0, 1e4], dtype)
    with np.errstate(all="raise", under="ignore"):
        y, backward = layer.forward({}, x)
        dx, _ = backward(np.ones_like(x))
    assert y.dtype == dx.dtype == np.dtype(dtype)
    assert dx[-1] == 1 and abs(dx[0]) <= 0.01 and y[-1] == 1e4


def test_rows_are_normalized():
    rng = np.random.default_rng(0)
    x, gain, bias = rng.normal(3, 5, (4, 3, 6)), rng.random(6), rng.random(6)
    y, backward = layer_norm(x, gain, bias, 1e-12)
    n = (y - bias) / gain
    np.testing.assert_allclose(n.mean(axis=-1), 0, atol=1e-12)
    np.testing.assert_allclose(n.var(axis=-1), 1, rtol=1e-10)
    np.testing.assert_allclose(layer_norm(7 * x + 2, gain, bias, 1e-12)[0], y, rtol=1e-8)
    dx, dgain, dbias = backward(rng.random(y.shape))
    assert dx.shape == x.shape and dgain.shape == dbias.shape == (6,)
    np.testing.assert_allclose(dx.sum(axis=-1), 0, atol=1e-12)  # a shift of a row changes nothing


def test_a_constant_row_is_no_division_by_zero():
    y, _ = layer_norm(np.full((1, 4), 7.0), np.ones(4), np.zeros(4), 1e-5)
    np.testing.assert_array_equal(y, 0)


def test_bad_arguments():
    for make, what in (
        (lambda: mv.LeakyReLU(1.0), "LeakyReLU: slope should be"),
        (lambda: mv.ELU(0), "ELU: alpha should be"),
        (lambda: mv.LayerNorm(0), "LayerNorm: n should be"),
        (lambda: mv.LayerNorm(3, eps=0), "LayerNorm: eps should be"),
        (lambda: mv.LayerNorm(3).output_shape((4,)), r"LayerNorm\(3\) expects \(B, ..., 3\), got \(B, 4\)"),
    ):
        with pytest.raises(mv.MiniVAEError, match=what):
            make()


def test_a_file_keeps_them(tmp_path):
    encoder = [mv.Dense(6, 5), mv.LayerNorm(5, 1e-3), mv.LeakyReLU(0.2), mv.Dense(5, 4)]
    vae = mv.VAE(encoder, [mv.Dense(2, 5), mv.ELU(0.3), mv.GELU(), mv.Softplus(), mv.Dense(5, 6)], seed=3)
    vae.parameters["encoder.1.gain"][...] = [1, 2, 3, 4, 5]
    vae.save(tmp_path / "model.safetensors")
    x = np.random.default_rng(0).random((3, 6))
    np.testing.assert_array_equal(mv.load(tmp_path / "model.safetensors").reconstruct(x), vae.reconstruct(x))


def test_pytorch_computes_the_same():
    torch = pytest.importorskip("torch")
    x = torch.linspace(-4, 4, 30, dtype=torch.float64).reshape(5, 6).requires_grad_()
    rng = np.random.default_rng(0)
    params = {"gain": rng.random(6), "bias": rng.random(6)}
    norm = torch.nn.LayerNorm(6, dtype=torch.float64)
    norm.load_state_dict({"weight": torch.from_numpy(params["gain"]), "bias": torch.from_numpy(params["bias"])})
    pairs = [
        (mv.LeakyReLU(0.2), torch.nn.LeakyReLU(0.2)), (mv.ELU(0.7), torch.nn.ELU(0.7)),
        (mv.Softplus(), torch.nn.Softplus()), (mv.GELU(), torch.nn.GELU("tanh")), (mv.LayerNorm(6), norm),
    ]  # fmt: skip
    for ours, theirs in pairs:
        y, backward = ours.forward(params, x.detach().numpy())
        cotangent = rng.random(y.shape)
        (dx,) = torch.autograd.grad(theirs(x), x, torch.from_numpy(cotangent))
        np.testing.assert_allclose(y, theirs(x).detach().numpy(), 1e-9, 1e-12)
        np.testing.assert_allclose(backward(cotangent)[0], dx.numpy(), 1e-9, 1e-12)
