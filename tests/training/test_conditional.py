"""The conditional VAE: the labels reach encoder and decoder, row by row, and are asked for where they are needed."""

import numpy as np
import pytest

import minivae as mv


def small_vae(**options):
    encoder = [mv.Dense(6 + 3, 8), mv.Tanh(), mv.Dense(8, 4)]
    return mv.VAE(encoder, [mv.Dense(2 + 3, 8), mv.Tanh(), mv.Dense(8, 6)], n_classes=3, **options)


def draw(n, seed=0):
    """Pixels that the class decides: class c is bright in the columns 2c and 2c + 1."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    bright = np.arange(6) // 2 == y[:, None]
    return np.where(bright, 0.9, 0.1) + rng.uniform(-0.1, 0.1, (n, 6)), y


def test_the_labels_stand_behind_x_and_z():
    """encode and decode against products of the rows [x, one-hot y] and [z, one-hot y], written out."""
    vae = small_vae(dtype="float64")
    x, y = draw(5)
    z = np.random.default_rng(1).standard_normal((5, 2))
    W = vae.parameters
    joined = np.hstack([x, np.eye(3)[y]])
    stats = np.tanh(joined @ W["encoder.0.W"] + W["encoder.0.b"]) @ W["encoder.2.W"] + W["encoder.2.b"]
    np.testing.assert_allclose(np.hstack(vae.encode(x, y=y)), stats, rtol=1e-12)
    joined = np.hstack([z, np.eye(3)[y]])
    logits = np.tanh(joined @ W["decoder.0.W"] + W["decoder.0.b"]) @ W["decoder.2.W"] + W["decoder.2.b"]
    np.testing.assert_allclose(vae.decode(z, y=y), 1 / (1 + np.exp(-logits)), rtol=1e-12)


def test_every_sample_of_an_example_has_its_label(backend):
    """The loss of two samples is the mean of the losses of each."""
    vae = small_vae(dtype="float64", backend=backend)
    x, y = draw(5)
    eps = np.random.default_rng(1).standard_normal((2, 5, 2))
    losses = [vae.loss_and_gradients(x, each, y).loss for each in eps]
    assert vae.loss_and_gradients(x, eps, y).loss == pytest.approx(np.mean(losses), rel=1e-12)


def test_every_sample_of_a_reconstruction_has_the_label_of_its_example():
    vae = small_vae(dtype="float64")
    x, y = draw(5)
    eps = np.random.default_rng(1).standard_normal((3, 5, 2))
    together = vae.reconstruct(x, eps, y=y)
    assert together.shape == (3, *x.shape)
    for one, each in zip(together, eps, strict=True):
        np.testing.assert_allclose(one, vae.reconstruct(x, each, y=y)[0], rtol=1e-12)
    np.testing.assert_array_equal(vae.reconstruct(x, eps, y=1), vae.reconstruct(x, eps, y=np.ones(5, int)))


def test_all_methods_follow_the_labels_row_by_row():
    """Permuting rows and labels together permutes the results, whatever the batch; other labels change them."""
    vae = small_vae()
    x, y = draw(2500)
    z = np.random.default_rng(1).standard_normal((2500, 2))
    order = np.random.default_rng(2).permutation(2500)
    for result in (
        lambda rows: vae.encode(x[rows], y=y[rows])[0],
        lambda rows: vae.decode(z[rows], y=y[rows]),
        lambda rows: vae.reconstruct(x[rows], y=y[rows]),
        lambda rows: vae.reconstruct(x[rows], z[rows], y=y[rows])[0],
    ):
        np.testing.assert_allclose(result(order), result(slice(None))[order], rtol=1e-5, atol=1e-6)
    assert vae.evaluate(x, y=y) == vae.evaluate(x, y=y, batch_size=1000)
    assert vae.evaluate(x, y=y) != vae.evaluate(x, y=(y + 1) % 3)
    assert vae.log_likelihood(x[:20], samples=3, y=y[:20]) != vae.log_likelihood(x[:20], samples=3, y=(y[:20] + 1) % 3)


def test_one_number_stands_for_all_rows():
    vae = small_vae()
    np.testing.assert_array_equal(vae.sample(4, seed=0, y=2), vae.sample(4, seed=0, y=[2, 2, 2, 2]))
    assert (vae.sample(4, seed=0, y=2) != vae.sample(4, seed=0, y=1)).any()


def test_fit_learns_what_the_label_says(backend):
    vae = small_vae(backend=backend)
    x, y = draw(300)
    history = mv.fit(vae, (x, y), (x[:50], y[:50]), epochs=15, batch_size=40, optimizer=mv.Adam(1e-2), seed=1)
    assert history[-1]["val_loss"] < history[0]["val_loss"]
    for label in range(3):
        assert list(np.flatnonzero(vae.sample(1, y=label)[0] > 0.5)) == [2 * label, 2 * label + 1]


def test_a_share_for_validation_takes_its_labels_along():
    """With wrong labels in the validation part, these losses would be far apart."""
    history = mv.fit(small_vae(), draw(300), 0.3, epochs=15, batch_size=30, optimizer=mv.Adam(1e-2))
    assert history[-1]["val_loss"] == pytest.approx(history[-1]["train_loss"], abs=0.2)


def test_the_figure_of_styles_decodes_each_style_as_every_class():
    from minivae.views import plots

    vae, (x, y) = small_vae(), draw(2)
    ax = plots.styles(vae, x, y, image_shape=(2, 3)).axes[0]
    picture, gap = ax.images[0].get_array(), plots.GAP
    mu, _ = vae.encode(x, y=y)
    for row in range(2):
        top = row * (2 + gap)
        np.testing.assert_allclose(picture[top : top + 2, :3].ravel(), x[row], atol=1e-6)
        for label in range(3):
            left = (label + 1) * (3 + gap)
            cell = picture[top : top + 2, left : left + 3]
            np.testing.assert_allclose(cell.ravel(), vae.decode(mu[row : row + 1], y=label)[0], atol=1e-6)
    with pytest.raises(mv.MiniVAEError, match="needs a conditional model"):
        plots.styles(mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)]), x, y)


def test_a_saved_model_knows_its_classes(tmp_path):
    vae, (x, y) = small_vae(), draw(5)
    vae.save(tmp_path / "model.safetensors")
    again = mv.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.reconstruct(x, y=y), vae.reconstruct(x, y=y))


def test_training_with_other_labels_is_not_resumed(tmp_path):
    (x, y), path = draw(20), tmp_path / "checkpoint.safetensors"
    checkpoint = mv.Checkpoint(path, resume=True)

    def fit(y_train, y_val):
        return mv.fit(small_vae(), (x, y_train), (x[:8], y_val), epochs=2, batch_size=5, checkpoint=checkpoint)

    history = fit(y, y[:8])
    with pytest.raises(mv.MiniVAEError, match="of another training: y_train is "):
        fit((y + 1) % 3, y[:8])
    with pytest.raises(mv.MiniVAEError, match="of another training: y_val is "):
        fit(y, (y[:8] + 1) % 3)
    assert fit(y, y[:8]) == history


@pytest.mark.parametrize(
    "call, problem",
    [
        (lambda vae, x, y: vae.evaluate(x), "n_classes=3: pass the labels too"),
        (lambda vae, x, y: vae.sample(4), "pass the labels too"),
        (lambda vae, x, y: mv.fit(vae, x, epochs=1, batch_size=2), "pass the labels too"),
        (lambda vae, x, y: mv.fit(vae, (x, y), x, epochs=1, batch_size=2), "pass the labels too"),
        (lambda vae, x, y: mv.fit(vae, (x, y[:-1]), epochs=1, batch_size=2), "y should hold 5 integers"),
        (lambda vae, x, y: vae.encode(x, y=y[:-1]), "y should hold 5 integers"),
        (lambda vae, x, y: vae.encode(x, y=np.eye(3)[y]), "y should hold 5 integers"),
        (lambda vae, x, y: vae.encode(x, y=y + 1.0), "y should hold 5 integers, .* got float64"),
        (lambda vae, x, y: vae.encode(x, y=[0, 1, 2, 3, 0]), "should lie in 0 .. 2, got 0 to 3"),
        (lambda vae, x, y: vae.decode(np.zeros((1, 2)), y=-1), "should lie in 0 .. 2"),
        (lambda vae, x, y: mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)]).encode(x, y=y), "knows no labels"),
        (lambda vae, x, y: mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)], n_classes=3), "has 3 classes behind it"),
        (lambda vae, x, y: mv.VAE([mv.Dense(3, 4)], [mv.Dense(5, 6)], n_classes=3), "leaves no room for x"),
        (lambda vae, x, y: mv.VAE([mv.Dense(6, 4)], [mv.Dense(3, 6)], n_classes=1), "an integer of at least 2"),
    ],
)
def test_bad_input_gives_one_clear_error(call, problem):
    x, _ = draw(5)
    with pytest.raises(mv.MiniVAEError, match=problem):
        call(small_vae(), x, np.array([0, 1, 2, 1, 0]))
