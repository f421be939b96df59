"""Pixels drawn black or white: with the right probability, anew in each epoch, the same on every backend."""

import numpy as np
import pytest

import minivae as mv
from minivae import randomness
from minivae.engine.backend import NumpyBackend
from minivae.model.binarization import thresholds
from minivae.training import noise

ALL_GREYS = np.tile(np.arange(256, dtype=np.uint8), (4000, 1))
FORMS = {"uint8": ALL_GREYS, "float32": np.float32(ALL_GREYS / 255), "float64": ALL_GREYS / 255}


def small_vae(backend="numpy", n_pixels=256, dtype="float32"):
    return mv.VAE([mv.Dense(n_pixels, 8)], [mv.Dense(4, n_pixels)], backend=backend, dtype=dtype)


def batches(x, epochs=1, batch_size=100, **options):
    """The batches of pixels that training sees, one list for each epoch."""
    vae, seen, by_epoch = small_vae(NumpyBackend(compiled=False), x.shape[1]), [], []
    compute = vae.forward_and_backward
    vae.forward_and_backward = lambda params, x, *rest: seen.append(x) or compute(params, x, *rest)

    def turn(history):
        by_epoch.append(list(seen))
        seen.clear()

    mv.fit(vae, x, epochs=epochs, batch_size=batch_size, callbacks=[turn], **{"binarize": "dynamic"} | options)
    return by_epoch


@pytest.mark.parametrize("x", FORMS.values(), ids=FORMS)
def test_training_sees_white_with_the_probability_of_the_grey_value(x):
    drawn = np.concatenate(batches(x)[0])
    assert set(np.unique(drawn)) == {0, 1}
    check_probability(drawn)


@pytest.mark.parametrize("x", FORMS.values(), ids=FORMS)
def test_binarize_draws_white_with_the_probability_of_the_grey_value(x):
    drawn = mv.binarize(x)
    assert drawn.dtype == np.uint8 and drawn.shape == x.shape and set(np.unique(drawn)) == {0, 255}
    check_probability(drawn / 255)


def test_binarize_of_no_rows():
    assert mv.binarize(np.zeros((0, 3))).shape == (0, 3)


def test_binarize_draws_every_row_of_a_large_set():
    white = np.full((20_005, 2), [0, 255], np.uint8)
    np.testing.assert_array_equal(mv.binarize(white), white)


def check_probability(drawn):
    p = np.arange(256) / 255
    error = np.sqrt(p * (1 - p) / len(drawn))
    deviation = drawn.mean(axis=0) - p
    assert (np.abs(deviation) <= 5 * error + 1e-12).all()  # 0 and 255 without exception
    assert abs(deviation.mean()) < 5 * np.sqrt((error**2).sum()) / 256  # x / 256 in place of x / 255 fails this


def test_every_epoch_draws_anew_and_keyed():
    x = np.full((50, 64), 128, np.uint8)
    first, second = batches(x, epochs=2, batch_size=50)
    assert 0.4 < (first[0] != second[0]).mean() < 0.6
    again = batches(x, epochs=2, batch_size=50)
    np.testing.assert_array_equal(again[0][0], first[0])
    assert len(np.unique(first[0], axis=0)) == 50  # no row shares its noise with another


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_thresholds_of_pixels_have_a_key_of_their_own(dtype):
    """That of no other purpose, least of all of the noise of z: what pixels say must not foretell it."""
    grey = np.full((20, 64), 128 if dtype == np.uint8 else 0.5, dtype)
    seen = np.concatenate(batches(grey, batch_size=10, seed=4)[0])
    drawn = thresholds(randomness.generator(4, randomness.FIT_BINARIZATION, 1), (20, 64), np.dtype(dtype))
    np.testing.assert_array_equal(seen, grey > drawn)
    purposes = [value for name, value in vars(randomness).items() if name.isupper()]
    assert len(purposes) > 9 and len(set(purposes)) == len(purposes)


def in_order(batches):
    """The rows of an epoch in an order of their own, whatever they were shuffled to."""
    rows = np.concatenate(batches)
    return rows[np.lexsort(rows.T)]


def test_the_static_protocol_draws_once_whatever_the_seed():
    x = np.random.default_rng(0).integers(0, 256, (50, 64), np.uint8)
    first, second = batches(x, epochs=2, batch_size=20, binarize="static")
    np.testing.assert_array_equal(in_order(first), in_order(second))
    (other_seed,) = batches(x, batch_size=20, binarize="static", seed=9)
    np.testing.assert_array_equal(in_order(first), in_order(other_seed))
    np.testing.assert_array_equal(in_order(first), in_order([mv.binarize(x, seed=1) / 255]))


def test_static_validation_data_share_no_noise_with_training_data():
    x = np.full((30, 64), 128, np.uint8)
    vae = small_vae(n_pixels=64)
    history = mv.fit(vae, x, validation=x, epochs=1, batch_size=30, binarize="static")
    assert history["val_loss"] == [vae.evaluate(mv.binarize(x)).loss]
    assert 0.4 < (mv.binarize(x) != mv.binarize(x, seed=1)).mean() < 0.6


def test_the_names_of_protocols_and_the_bools_for_them(tmp_path):
    """A checkpoint names them as the bools, so those of earlier versions are resumed."""
    x = np.random.default_rng(0).integers(0, 256, (20, 64), np.uint8)
    for names in (("dynamic", True), ("grey", False)):
        results = []
        for name in names:
            vae = small_vae(n_pixels=64)
            mv.fit(vae, x, epochs=1, batch_size=10, binarize=name, checkpoint=tmp_path / f"{name}.npz")
            results.append(vae.parameters.flat.copy())
        np.testing.assert_array_equal(*results)
        resume = mv.Checkpoint(tmp_path / f"{names[0]}.npz", resume=True)
        mv.fit(small_vae(n_pixels=64), x, epochs=2, batch_size=10, binarize=names[1], checkpoint=resume)
    with pytest.raises(mv.MiniVAEError, match="is of another training: binarize is True there and static here"):
        resume = mv.Checkpoint(tmp_path / "dynamic.npz", resume=True)
        mv.fit(small_vae(n_pixels=64), x, epochs=2, batch_size=10, binarize="static", checkpoint=resume)
    for wrong in ("fixed", None, 1):
        with pytest.raises(mv.MiniVAEError, match='binarize should be "grey", "dynamic" or "static", got'):
            mv.fit(small_vae(n_pixels=64), x, binarize=wrong)


def test_the_seed_of_fit_keys_the_pixels():
    x = np.full((50, 64), 128, np.uint8)
    assert (batches(x, batch_size=50, seed=5)[0][0] != batches(x, batch_size=50, seed=6)[0][0]).mean() > 0.4


@pytest.mark.parametrize("form", FORMS)
def test_every_backend_draws_the_same_pixels(form, backend, monkeypatch):
    """Where the thresholds of two steps at most fit into a block; with a short last batch."""
    monkeypatch.setattr(noise, "NOISE_VALUES", 2 * 10 * 256)
    x = FORMS[form][:45]
    vae, eager = (small_vae(where, dtype="float64") for where in (backend, NumpyBackend(compiled=False)))
    for model in vae, eager:
        mv.fit(model, x, epochs=2, batch_size=10, optimizer=mv.SGD(1e-4), samples=2, binarize=True)
    np.testing.assert_allclose(backend.to_host(vae.parameters.flat), eager.parameters.flat, rtol=1e-9, atol=1e-12)


def test_what_the_thresholds_of_pixels_are():
    """uint8 pixels need no more than 255 of them: x > t has the probability x / 255."""
    rng = np.random.default_rng(0)
    t = thresholds(rng, (10_000,), np.dtype(np.uint8))
    assert t.dtype == np.uint8 and t.min() == 0 and t.max() == 254
    t = thresholds(rng, (10_000,), np.dtype(np.float64))
    assert t.dtype == np.float32 and t.min() >= 0 and t.max() < 1


def test_fit_validates_on_one_fixed_draw():
    x, x_val = ALL_GREYS[:40], ALL_GREYS[:7]
    vae = small_vae()
    history = mv.fit(vae, x, x_val, epochs=1, batch_size=8, binarize=True)
    assert history["val_loss"] == [vae.evaluate(mv.binarize(x_val)).loss]


def test_values_that_are_no_grey_are_refused():
    with pytest.raises(mv.MiniVAEError, match=r"expects uint8 pixels or values in \[0, 1\], got \[0, 255\]"):
        mv.binarize(np.array([[0.0, 255.0]]))
    gaussian = mv.VAE([mv.Dense(2, 4)], [mv.Dense(2, 2)], likelihood=mv.Gaussian())
    with pytest.raises(mv.MiniVAEError, match=r"got \[-3, 1\]"):
        mv.fit(gaussian, np.array([[-3.0, 1.0]]), epochs=1, batch_size=1, binarize=True)
    with pytest.raises(mv.MiniVAEError, match="nan"):
        mv.binarize(np.array([[np.nan]]))
