"""A training step as one CUDA graph: what it costs on the imaginary GPU, and that replay equals running it."""

import fakegpu
import numpy as np
import pytest
from reference.models import dense

import minivae as mv
from minivae.training.state import Training


def model(backend=None, **parts):
    """A small model of the shape of 784-256-2-256-784."""
    n_classes = parts.get("n_classes", 0)
    networks = {"encoder": dense(12 + n_classes, 8, 4), "decoder": dense(2 + n_classes, 8, 12)}
    return mv.VAE(**networks | parts, backend=backend or fakegpu.backend())


def images(n=50, pixels=12):
    return np.random.default_rng(0).integers(0, 256, (n, pixels), np.uint8)


def training(vae, optimizer, samples=1, binarize=False, batch_size=10):
    x = images(5 * batch_size, vae.input_dim)
    y = np.arange(len(x)) % 3 if vae.n_classes else None
    return Training(vae, optimizer, x, y, np.arange(len(x)), batch_size, samples, binarize, 0, None)


# What each variant is, and how many kernels and products a step of it is.
VARIANTS = {
    "SGD": (20, {"optimizer": lambda: mv.SGD(1e-4)}),
    "RMSprop": (20, {}),
    "Adam": (20, {"optimizer": mv.Adam}),
    "Adam, L = 3": (20, {"optimizer": mv.Adam, "samples": 3}),
    "Monte-Carlo KL": (20, {"kl": "monte-carlo"}),
    "importance-weighted": (20, {"bound": mv.ImportanceWeighted, "samples": 3}),
    "Gaussian": (20, {"likelihood": lambda: mv.Gaussian(0.5)}),
    "binarized": (20, {"binarize": True}),
    "conditional": (20, {"n_classes": 3}),
    "clipped": (20, {"optimizer": lambda: mv.ClipNorm(mv.Adam(), 0.1)}),
    "free bits": (22, {"free_bits": 0.5}),
}


def variant(name):
    """A training of this variant, on a device of its own, with noise for some steps."""
    options = {key: value() if callable(value) else value for key, value in VARIANTS[name][1].items()}
    optimizer = options.pop("optimizer", mv.RMSprop())
    kind = {key: options.pop(key) for key in ("samples", "binarize") if key in options}
    return training(model(**options), optimizer, **kind)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_is_few_kernels_and_nothing_else(name):
    trained = variant(name)
    ((step, _),), count = trained.parts, trained.vae.backend.xp.count
    step.noise.refill(5, np.random.default_rng(0), np.random.default_rng(1))
    for launches in VARIANTS[name][0], VARIANTS[name][0], VARIANTS[name][0] + 1, 1, 1:
        with count() as n:  # two steps kernel by kernel; one is captured and launched; launches
            step.run()
        assert n == fakegpu.Counts(launches=launches)


def test_the_step_of_784_256_2_is_26_launches():
    """With 100 images: ten products, four sums for the biases, and twelve kernels for all the rest."""
    vae = mv.VAE(dense(784, 256, 4), dense(2, 256, 784), backend=fakegpu.backend())
    ((step, _),) = training(vae, mv.RMSprop(), batch_size=100).parts
    step.noise.refill(5, np.random.default_rng(0), np.random.default_rng(1))
    with vae.backend.xp.count() as n:
        step.run()
    assert n == fakegpu.Counts(launches=26)


@pytest.mark.parametrize("name", VARIANTS)
def test_replay_equals_running_the_step(name):
    recorded, eager = variant(name), variant(name)
    for step, _ in eager.parts:
        step.calls[0].WARM_UP = 1000  # never captured
    for _ in range(2):
        for _ in zip(recorded.steps(), eager.steps(), strict=True):
            np.testing.assert_array_equal(recorded.vae.parameters.flat.get(), eager.vae.parameters.flat.get())
        losses = [trained.end_epoch(trained.totals.get()) for trained in (recorded, eager)]
        assert losses[0] == losses[1]


def test_full_batches_a_short_one_and_the_evaluation_take_turns():
    """Two graphs and eager work on the same arrays, in the order in which they were called."""
    losses = []
    for backend in fakegpu.backend(), "numpy":
        vae = model(backend)
        history = mv.fit(vae, images(55), images(20), epochs=4, batch_size=10, progress=False)
        losses.append([[row["train_loss"], row["val_loss"]] for row in history])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_the_host_waits_for_the_device_once_an_epoch_however_long_it_is():
    """For the losses, and to see that all is finite; noise and order go up without waiting."""
    counts = []
    for n_rows in 50, 500:
        backend, seen = fakegpu.backend(), []
        with backend.xp.count() as counter:

            def note(run, counter=counter, seen=seen):
                seen.append(counter.synchronisations)

            mv.fit(model(backend), images(n_rows), epochs=4, batch_size=10, callbacks=[note], progress=False)
        counts.append(np.diff(seen).tolist())
    assert counts == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("wrong", ["empty", "matmul", "synchronize"])
def test_what_cannot_be_captured_fails_with_its_own_reason(monkeypatch, wrong):
    """And leaves no stream that is still capturing."""
    trained = variant("RMSprop")
    xp, x = trained.vae.backend.xp, trained.vae.backend.asarray(np.ones((3, 3), np.float32))
    streams, make_stream, ((step, _),) = [], xp.cuda.Stream, trained.parts
    monkeypatch.setattr(xp.cuda, "Stream", lambda **kind: streams.append(make_stream(**kind)) or streams[-1])
    work = {
        "empty": lambda: xp.empty(3),
        "matmul": lambda: xp.matmul(x, x),
        "synchronize": xp.cuda.Device().synchronize,
    }
    step.calls[0]._launches.append(work[wrong])
    step.noise.refill(5, np.random.default_rng(0), np.random.default_rng(1))
    step.run()
    step.run()
    with pytest.raises((fakegpu.Refused, NotImplementedError), match="allocation|cuBLAS|synchronisation"):
        step.run()
    assert [stream.is_capturing() for stream in streams] == [False]
    step.calls[0]._launches.pop()
    step.run()
    assert trained.finite_totals() is not None
