"""Pixels drawn black or white: with the right probability, anew in each epoch, the same on every backend."""

import tracemalloc

import fakegpu
import numpy as np
import pytest

import minivae as mv
from minivae.training import Trainer

ALL_GREYS = np.tile(np.arange(256, dtype=np.uint8), (4000, 1))
FORMS = {"uint8": ALL_GREYS, "float32": np.float32(ALL_GREYS / 255), "float64": ALL_GREYS / 255}


def small_vae(backend="numpy", n_pixels=256):
    return mv.VAE([mv.Dense(n_pixels, 8)], [mv.Dense(4, n_pixels)], backend=backend)


def batches(x, backend="numpy", epochs=1, batch_size=100):
    """The batches of pixels that training sees, one list for each epoch."""
    vae, optimizer = small_vae(backend, x.shape[1]), mv.SGD(1e-9)
    optimizer.attach(vae.parameters, vae.gradients)
    trainer = Trainer(vae, optimizer, x, batch_size, 1, seed=0, binarize=True)
    epochs_seen = []
    for number in range(1, epochs + 1):
        seen = []
        for _ in trainer.steps(number):
            step = trainer.parts[len(seen) >= len(x) // batch_size][0]
            seen.append(np.array(vae.backend.to_host(step.x)))
        trainer.finish(vae.backend.to_host(trainer.epoch.totals))
        epochs_seen.append(seen)
    return epochs_seen


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


def test_the_gpu_draws_the_same_pixels():
    x = np.random.default_rng(0).integers(0, 256, (30, 64), np.uint8)
    on_numpy, on_gpu = batches(x, batch_size=8)[0], batches(x, fakegpu.backend(), batch_size=8)[0]
    for numpy_batch, gpu_batch in zip(on_numpy, on_gpu, strict=True):
        np.testing.assert_array_equal(numpy_batch, gpu_batch)


def test_a_step_allocates_and_transfers_nothing():
    backend = fakegpu.backend()
    vae, optimizer = small_vae(backend), mv.Adam()
    optimizer.attach(vae.parameters, vae.gradients)
    step = Trainer(vae, optimizer, ALL_GREYS[:100], 10, 1, 0, binarize=True).parts[0][0]
    step.refill(np.random.default_rng(0), 3, np.random.default_rng(1))
    step.run()
    with backend.xp.count() as n:
        step.run()
    assert (n.allocations, n.transfers, n.synchronisations, n.copies) == (0, 0, 0, 0)


def test_a_step_on_numpy_allocates_no_array():
    n = 65_536
    vae, optimizer, rng = small_vae(n_pixels=16), mv.Adam(), np.random.default_rng(0)
    optimizer.attach(vae.parameters, vae.gradients)
    step = Trainer(vae, optimizer, np.full((n, 16), 100, np.uint8), n, 1, 0, binarize=True).parts[0][0]
    step.refill(rng, 1, rng)
    step.run()
    step.refill(rng, 1, rng)  # there is room for one step; a second would read what lay in memory
    tracemalloc.start()
    step.run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < n * 4


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
