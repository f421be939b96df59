"""Gated layers, residual blocks and networks side by side: known values, and what else they are equal to."""

import numpy as np
import pytest
from scipy import special
from truths.parts import params_of

import minivae as mv

RNG = np.random.default_rng(0)


def test_a_gated_layer_is_an_affine_map_times_a_sigmoid():
    layer, x = mv.GatedDense(3, 5), RNG.standard_normal((4, 3))
    p = params_of(layer, scale=1.0)
    y, _ = layer.forward(p, x)
    np.testing.assert_allclose(y, (x @ p["W"] + p["b"]) * special.expit(x @ p["V"] + p["c"]))


def test_gates_wide_open_are_a_dense_layer_and_closed_ones_nothing():
    layer, x = mv.GatedDense(3, 5), RNG.standard_normal((4, 3))
    p = params_of(layer, scale=1.0)
    dense, _ = mv.Dense(3, 5).forward(p, x)
    for c, share in ((1000, 1), (-1000, 0)):
        y, backward = layer.forward(p | {"c": np.full(5, c)}, x)
        np.testing.assert_allclose(y, share * dense, atol=1e-12)
        np.testing.assert_allclose(backward(np.ones((4, 5)))[0], share * np.ones((4, 5)) @ p["W"].T, atol=1e-12)


@pytest.mark.parametrize("init", ["glorot_uniform", "glorot_normal", "he_normal"])
def test_the_initial_values_of_gates(init):
    p = mv.GatedDense(400, 100, init).initial(np.random.default_rng(0))
    var = 2 / 400 if init == "he_normal" else 2 / 500
    assert p["W"].var() == pytest.approx(var, rel=0.03) and p["V"].var() == pytest.approx(var, rel=0.03)
    assert (p["b"] == 0).all() and (p["c"] == 0).all() and abs(np.corrcoef(p["W"].flat, p["V"].flat)[0, 1]) < 0.02


def test_a_residual_block_adds_what_its_layers_give():
    layers, x = [mv.Dense(3, 5), mv.Tanh(), mv.Dense(5, 3)], RNG.standard_normal((4, 3))
    block, stack = mv.Residual(layers), mv.Sequential(layers)
    p = params_of(stack, scale=1.0)
    assert block.shapes() == stack.shapes()
    (y, backward), (f, f_backward) = block.forward(p, x), stack.forward(p, x)
    np.testing.assert_array_equal(y, x + f)
    dy = RNG.standard_normal((4, 3))
    np.testing.assert_array_equal(backward(dy)[0], dy + f_backward(dy)[0])


def test_networks_side_by_side_see_their_own_columns():
    a, b = [mv.Dense(2, 3), mv.Tanh()], [mv.Dense(1, 4)]
    both, x = mv.SideBySide([a, b]), RNG.standard_normal((5, 3))
    p = params_of(both, scale=1.0)
    of = [{name[2:]: value for name, value in p.items() if name[0] == i} for i in "01"]
    (y_a, a_back), (y_b, b_back) = mv.Sequential(a).forward(of[0], x[:, :2]), mv.Sequential(b).forward(of[1], x[:, 2:])
    y, backward = both.forward(p, x)
    np.testing.assert_array_equal(y, np.concatenate([y_a, y_b], axis=1))
    dy = RNG.standard_normal((5, 7))
    dx, grads = backward(dy)
    np.testing.assert_allclose(dx, np.concatenate([a_back(dy[:, :3])[0], b_back(dy[:, 3:])[0]], axis=1))
    np.testing.assert_allclose(grads["1.0.W"], b_back(dy[:, 3:])[1]["0.W"])
    assert both.input_shape == (3,) and both.output_shape((3,)) == (7,)


def test_with_input_hands_x_on():
    layer, x = mv.WithInput([mv.Dense(3, 2)]), RNG.standard_normal((4, 3))
    p = params_of(layer, scale=1.0)
    y, backward = layer.forward(p, x)
    np.testing.assert_array_equal(y, np.concatenate([x @ p["0.W"] + p["0.b"], x], axis=1))
    np.testing.assert_allclose(backward(np.ones((4, 5)))[0], np.ones((4, 2)) @ p["0.W"].T + 1)
    assert layer.output_shape((3,)) == (5,)


@pytest.mark.parametrize(
    "around", [mv.Residual, mv.WithInput, lambda layers: mv.SideBySide([layers])], ids=["Residual", "WithInput", "Side"]
)
def test_dropout_inside_draws_in_training(around):
    x, losses = np.random.default_rng(0).random((40, 4)), []
    for rate in (0.0, 0.5):
        part = around([mv.Dropout(rate), mv.Dense(4, 4)])
        vae = mv.VAE([part, mv.Dense(*part.output_shape((4,)), 4)], [mv.Dense(2, 4)])
        losses.append(mv.fit(vae, x, epochs=1, batch_size=20)[-1]["train_loss"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    "layer, width",
    [(mv.GatedDense(3, 3), 2), (mv.Residual([mv.Tanh(), mv.Dense(3, 3)]), 1), (mv.SideBySide([[mv.Dense(3, 3)]]), 4)],
)
def test_rows_of_another_width_are_refused_by_forward_too(layer, width):
    """Some would be broadcast, or have columns that nobody reads."""
    with pytest.raises(mv.MiniVAEError, match=r"expects \(B, 3\), got \(B, \d\)"):
        layer.forward(params_of(layer), np.ones((2, width)))


def test_a_residual_block_broadcasts_nothing():
    block = mv.Residual([mv.Dense(3, 1)])
    with pytest.raises(mv.MiniVAEError, match=r"Residual: its layers make rows of shape \(1,\) of \(3,\)"):
        block.forward(params_of(block), np.ones((2, 3)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: mv.GatedDense(0, 3), "GatedDense: n_in should be an integer of at least 1, got 0"),
        (lambda: mv.GatedDense(3, 3, "xavier"), 'GatedDense: init should be "glorot_uniform"'),
        (lambda: mv.GatedDense(3, 2).output_shape((4,)), r"GatedDense\(3, 2\) expects \(B, 3\), got \(B, 4\)"),
        (
            lambda: mv.VAE([mv.Residual([mv.Dense(3, 2)])], [mv.Dense(1, 3)]),
            r"Residual: its layers make rows of shape \(2,\) of \(3,\)",
        ),
        (lambda: mv.SideBySide([[mv.Tanh()]]), "SideBySide: network 0 should begin with a layer of known width"),
        (lambda: mv.SideBySide([]), r"at least one network, got \[\]"),
        (lambda: mv.SideBySide(mv.Dense(2, 3)), r"a list of at least one network, got Dense\(2, 3"),
        (
            lambda: mv.SideBySide([[mv.Dense(2, 4), mv.Reshape((2, 2, 1))]]),
            r"network 0 .*, got \(B, 2, 2, 1\)",
        ),
        (lambda: mv.WithInput([mv.Dense(2, 4), mv.Reshape((2, 2, 1))]), "layers should give rows .* Flatten"),
        (lambda: mv.SideBySide([[mv.Dense(2, 3)], [mv.Dense(2, 3), mv.Dense(2, 3)]]), r"network 1: Dense\(2, 3\) exp"),
        (lambda: mv.SideBySide([[mv.Dense(2, 3)]]).output_shape((3,)), r"SideBySide expects \(B, 2\), got \(B, 3\)"),
        (lambda: mv.WithInput([mv.ReLU()]), "WithInput: layers should begin with a layer of known width"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(mv.MiniVAEError, match=message):
        make()
