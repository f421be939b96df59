"""`mlp` and `convnet` make models whose sizes fit, whatever the data."""

import numpy as np
import pytest

import minivae as mv


def step(vae, y=None):
    """One training step is possible, and gives what it takes the shape of."""
    x = np.random.default_rng(0).random((3, vae.input_dim))
    assert np.isfinite(vae.loss_and_gradients(x, y=y).loss)
    assert vae.reconstruct(x, y=y).shape == x.shape


def test_mlp_is_the_tutorials_network():
    vae = mv.mlp(784)
    table = [type(layer).__name__ for layer in vae.encoder.layers + vae.decoder.layers]
    assert table == ["Dense", "ReLU", "Dense"] * 2
    assert {name: w.shape for name, w in vae.parameters.items() if name.endswith("W")} == {
        "encoder.0.W": (784, 256), "encoder.2.W": (256, 4), "decoder.0.W": (2, 256), "decoder.2.W": (256, 784),
    }  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden": ()},
        {"likelihood": mv.PredictedVarianceGaussian()},
        {"likelihood": mv.Categorical(4), "latent": 1},
        {"n_classes": 4},
        {"posterior": mv.FlowPosterior([mv.InverseAutoregressive(3, 5, context=2)]), "latent": 3},
    ],
)
def test_mlp(options):
    vae = mv.mlp(10, **options)
    assert vae.latent_dim == options.get("latent", 2) and vae.input_dim == 10
    step(vae, [0, 3, 1] if vae.n_classes else None)


def test_what_is_given_is_what_is_made():
    vae = mv.mlp(10, 3, [7, 5], mv.Tanh, dtype="float64", beta=0.5, seed=4)
    assert vae.parameters["encoder.2.W"].shape == (7, 5) == vae.parameters["decoder.2.W"].shape[::-1]
    assert (vae.dtype, vae.beta, vae.seed) == ("float64", 0.5, 4)
    for made in (vae, mv.convnet((4, 4), activation=mv.Tanh)):
        for stack in (made.encoder, made.decoder):
            kinds = {type(layer) for layer in stack.layers}
            assert mv.Tanh in kinds and mv.ReLU not in kinds


@pytest.mark.parametrize("shape", [(28, 28), (9, 9), (7, 12), (5, 6, 3), (1, 1), (2, 3), (30, 17, 2), (64, 48)])
@pytest.mark.parametrize("channels", [(4,), (4, 6), (3, 4, 5)])
def test_convnet(shape, channels):
    vae = mv.convnet(shape, channels=channels, hidden=8)
    assert vae.input_dim == np.prod(shape)
    step(vae)


def test_convnet_halves_the_image():
    vae = mv.convnet((28, 28), latent=5)
    shape, shapes = (28 * 28,), []
    for layer in vae.encoder.layers:
        shape = layer.output_shape(shape)
        shapes.append(shape)
    assert (14, 14, 32) in shapes and (7, 7, 64) in shapes and shapes[-1] == (10,)


def test_convnet_of_levels():
    """The logits of a pixel lie side by side, as Categorical reads them."""
    vae = mv.convnet((4, 4), likelihood=mv.Categorical(3), channels=(2,), hidden=4)
    for name, tensor in vae.parameters.items():
        tensor[...] = 0
        if name.startswith("decoder.") and name.endswith(".b") and tensor.shape == (3,):
            tensor[...] = [0, 50, 0]  # the middle level of each pixel
    np.testing.assert_allclose(vae.reconstruct(np.zeros((1, 16))), 0.5)


def test_none_stands_for_the_default():
    for vae in (mv.mlp(4, likelihood=None, posterior=None), mv.convnet((4, 4), likelihood=None, posterior=None)):
        assert isinstance(vae.likelihood, mv.Bernoulli) and isinstance(vae.posterior, mv.DiagonalGaussian)


def test_bad_arguments():
    for make, what in (
        (lambda: mv.mlp(0), "mlp: n_in should be an integer of at least 1, got 0"),
        (lambda: mv.mlp(4, hidden=(3, 2.5)), r"mlp: hidden\[1\] should be"),
        (lambda: mv.mlp(4, activation=mv.ReLU()), r"mlp: activation should be the class of a layer, .*, got ReLU\(\)"),
        (lambda: mv.convnet((4, 4), activation=dict), "convnet: activation should be the class of a layer"),
        (lambda: mv.convnet((4, 0)), r"convnet: image_shape\[1\] should be"),
        (lambda: mv.convnet((4, 4), n_classes=3), "convnet does not know n_classes"),
        (lambda: mv.convnet((4, 4), likelihood=mv.PredictedVarianceGaussian()), "does not know a PredictedVariance"),
        (lambda: mv.mlp(4, likelihood=mv.Bernoulli), r"likelihood should be an instance such as Bernoulli\(\)"),
        (lambda: mv.convnet((4, 4), posterior=mv.DiagonalGaussian), "posterior should be an instance such as"),
        (
            lambda: mv.mlp(4, posterior=mv.FlowPosterior([mv.Planar(3)])),
            "fit 2 .*: flows of dim 3",
        ),
        (lambda: mv.mlp(4, 6, posterior=mv.GumbelSoftmax(4)), r"fit 6 .* got \(B, 6\): make it a multiple of 4"),
        (lambda: mv.mlp(4, 5, posterior=mv.VectorQuantized(8, 3)), r"fit 5 .* got \(B, 5\): make it a multiple of 3"),
    ):
        with pytest.raises(mv.MiniVAEError, match=what):
            make()
