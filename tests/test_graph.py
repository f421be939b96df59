"""A training step as one CUDA graph: what it costs on the imaginary GPU, and that replay equals running it."""

import fakegpu
import numpy as np
import pytest

import minivae as mv
from minivae.training import Trainer


def model(backend=None, **parts):
    """A small model of the shape of 784-256-2-256-784."""
    encoder = [mv.Dense(12 + parts.get("n_classes", 0), 8), mv.ReLU(), mv.Dense(8, 4)]
    decoder = [mv.Dense(2 + parts.get("n_classes", 0), 8), mv.ReLU(), mv.Dense(8, 12)]
    return mv.VAE(encoder, decoder, backend=backend or fakegpu.backend(), **parts)


def images(n=50):
    return np.random.default_rng(0).integers(0, 256, (n, 12), np.uint8)


def a_trainer(optimizer, samples=1, clip_norm=None, binarize=False, **parts):
    vae = model(**parts)
    optimizer = mv.optimizers.ClipNorm(optimizer, clip_norm) if clip_norm else optimizer
    optimizer.attach(vae.parameters, vae.gradients)
    y = np.arange(50) % 3 if "n_classes" in parts else None
    return Trainer(vae, optimizer, images(), 10, samples, seed=0, binarize=binarize, y=y)


# What each variant is, and how many kernels a step of it holds.
VARIANTS = {
    "SGD": (46, {"optimizer": mv.SGD}),
    "RMSprop": (47, {}),
    "Adam": (47, {"optimizer": mv.Adam}),
    "Adam, L = 3": (50, {"optimizer": mv.Adam, "samples": 3}),
    "Monte-Carlo KL": (51, {"kl": "monte-carlo"}),
    "importance-weighted": (66, {"bound": mv.ImportanceWeighted, "samples": 3}),
    "Gaussian": (47, {"likelihood": lambda: mv.Gaussian(0.5)}),
    "binarized": (48, {"binarize": True}),
    "conditional": (53, {"n_classes": 3}),
    "clipped": (51, {"clip_norm": 0.1}),
    "free bits": (57, {"free_bits": 0.5}),
}


def variant(name):
    launches, options = VARIANTS[name]
    options = {"optimizer": mv.RMSprop} | options
    return launches, {key: value() if callable(value) else value for key, value in options.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_is_few_kernels_and_nothing_else(name):
    launches, options = variant(name)
    trainer = a_trainer(**options)
    ((step, _),), count = trainer.parts, trainer.vae.xp.count
    step.refill(np.random.default_rng(0), 5, np.random.default_rng(1))
    step.launch()
    with count() as n:
        step.launch()
    assert n == fakegpu.Counts(launches=launches)
    step.launch()  # records, and launches what it recorded
    with count() as n:
        step.launch()
    assert n == fakegpu.Counts(launches=1)


@pytest.mark.parametrize("name", VARIANTS)
def test_replay_equals_running_the_step(name):
    recorded, eager = (a_trainer(**variant(name)[1]) for _ in range(2))
    for step, _ in eager.parts:
        step.launch = step.run
    for epoch in 1, 2:
        for _ in zip(recorded.steps(epoch), eager.steps(epoch), strict=True):
            np.testing.assert_array_equal(recorded.vae.parameters.flat.get(), eager.vae.parameters.flat.get())
        losses = [trainer.finish(trainer.epoch.totals.get()) for trainer in (recorded, eager)]
        assert losses[0] == losses[1]


def test_the_host_waits_for_the_device_once_an_epoch_however_long_it_is():
    """For the losses, and to see that all is finite; noise and order go up without waiting."""
    counts = []
    for n_rows in 50, 500:
        backend, seen = fakegpu.backend(), []

        def note(history, count=counts, seen=seen):
            seen.append(counter.synchronisations)

        with backend.xp.count() as counter:
            mv.fit(model(backend), images(n_rows), epochs=4, batch_size=10, callbacks=[note])
        counts.append(np.diff(seen).tolist())
    assert counts == [[1, 1, 1], [1, 1, 1]]


def test_the_host_sees_the_same_training_as_numpy():
    """Fused and captured, and yet the numbers of the plain passes."""
    weights = []
    for backend in "numpy", fakegpu.backend():
        vae = model(backend)
        mv.fit(vae, images(), epochs=2, batch_size=20, optimizer=mv.Adam(1e-2))
        weights.append(np.concatenate([array.ravel() for array in vae.parameters.to_host().values()]))
    np.testing.assert_allclose(*weights, rtol=1e-6, atol=1e-7)
