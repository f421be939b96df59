"""What `fit` offers beside plain epochs: validation, early stopping, schedules, clipping, and honest failure."""

import copy
import functools
import gc
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
import tqdm

import minivae as mv
from minivae.engine.backend import NumpyBackend
from minivae.randomness import FIT_NOISE, SHUFFLE, SPLIT, generator


def make(**options):
    return mv.VAE([mv.Dense(8, 6), mv.ReLU(), mv.Dense(6, 4)], [mv.Dense(2, 6), mv.Tanh(), mv.Dense(6, 8)], **options)


def data(n=40, seed=0):
    return np.random.default_rng(seed).random((n, 8), np.float32)


def losses(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def test_a_history_is_a_table_that_can_be_written(tmp_path):
    history = mv.fit(make(), data(), data(8, seed=1), epochs=2, batch_size=10)
    history.save_csv(tmp_path / "metrics.csv", validation="test")
    header, *rows = (line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines())
    assert header == ["epoch", "seconds"] + [
        f"{part}_{name}" for part in ("train", "test") for name in ("loss", "reconstruction", "kl")
    ]
    assert [list(map(float, row)) for row in rows] == [list(row.values()) for row in history]


# ----------------------------------------------------------------------------------------- validation


def test_a_share_for_validation_is_a_random_part_that_is_not_trained_on():
    x, seen = data(40), []
    vae = make(backend=NumpyBackend(compiled=False))
    original = vae.forward_and_backward
    vae.forward_and_backward = lambda params, x, *rest: seen.append(x.copy()) or original(params, x, *rest)
    history = mv.fit(vae, x, 0.25, epochs=1, batch_size=7)
    trained = {row.tobytes() for batch in seen for row in batch}
    held_out = np.array([row for row in x if row.tobytes() not in trained])
    assert len(trained) == 30 and len(held_out) == 10
    assert history[0]["val_loss"] == vae.evaluate(held_out).loss
    assert not np.array_equal(held_out, x[:10]) and not np.array_equal(held_out, x[30:])


def test_the_share_for_validation_may_be_given_by_hand():
    """The share equals passing the same rows; training does not depend on what is validated on."""
    x = data(40)
    split = mv.fit(make(), x, validation=0.25, epochs=2, batch_size=10)
    rows = np.sort(generator(0, SPLIT).permutation(40)[10:])
    plain = mv.fit(make(), x[rows], np.delete(x, rows, axis=0), epochs=2, batch_size=10)
    assert losses(split) == losses(plain)


def test_validation_has_the_bound_of_training():
    """That of fifty samples lies far from that of one, as which early stopping would look at another loss."""
    x, others = data(60), data(20, 1)

    def train(**options):
        vae = make(bound=mv.ImportanceWeighted(), likelihood=mv.Gaussian(0.1))
        return vae, mv.fit(vae, x, others, epochs=2, batch_size=20, samples=50, **options)

    vae, history = train()
    assert history[-1]["val_loss"] == vae.evaluate(others, samples=50).loss
    assert (history.samples, history.val_samples) == (50, 50) and "drawn" not in repr(history)
    vae, history = train(val_samples=3)
    assert history[-1]["val_loss"] == vae.evaluate(others, samples=3).loss != vae.evaluate(others, samples=50).loss
    assert "z is drawn 50 times for each example in training, 3 in validation" in repr(history)
    assert "in training, 3 in validation" in history._repr_html_()
    for bad in (0, 1.5, True):
        with pytest.raises(mv.MiniVAEError, match="fit: val_samples should be an integer of at least 1"):
            train(val_samples=bad)


# --------------------------------------------------------------------------------- one training after another


def test_two_trainings_of_one_epoch_are_one_of_two():
    """Order and noise go on where they were; in version 0.1 each training saw those of the first epoch again."""
    options = {"batch_size": 10, "optimizer": mv.SGD(0.1), "binarize": True, "samples": 2}
    at_once, in_turn, with_a_seed = make(), make(), make(seed=3)
    mv.fit(at_once, data(), epochs=3, **options)
    for _ in range(3):
        mv.fit(in_turn, data(), epochs=1, **options)
    assert in_turn.epochs == at_once.epochs == 3
    np.testing.assert_array_equal(in_turn.parameters.flat, at_once.parameters.flat)
    with_a_seed.parameters.flat[...] = make().parameters.flat
    for epochs in 2, 1:
        mv.fit(with_a_seed, data(), epochs=epochs, seed=0, **options)
    np.testing.assert_array_equal(with_a_seed.parameters.flat, at_once.parameters.flat)


def test_a_model_that_was_saved_or_copied_knows_its_epochs(tmp_path):
    vae = make()
    mv.fit(vae, data(), epochs=2, batch_size=10)
    vae.save(tmp_path / "model.npz")
    others = [mv.load(tmp_path / "model.npz"), copy.deepcopy(vae)]
    mv.fit(vae, data(), epochs=1, batch_size=10)
    for other in others:
        assert other.epochs == 2
        mv.fit(other, data(), epochs=1, batch_size=10)
        np.testing.assert_array_equal(other.parameters.flat, vae.parameters.flat)


def test_the_share_for_validation_is_the_same_in_every_training():
    """What one training holds out the next must not train on."""
    seen = []
    vae = make(backend=NumpyBackend(compiled=False))
    original = vae.forward_and_backward
    vae.forward_and_backward = lambda params, x, *rest: seen.append(x.copy()) or original(params, x, *rest)
    for _ in range(3):
        mv.fit(vae, data(40), 0.25, epochs=1, batch_size=7)
    assert len({row.tobytes() for batch in seen for row in batch}) == 30


def test_a_model_is_trained_by_one_training_at_a_time():
    """In another thread or from a callback; it is free after an error, and a copy is another model."""
    vae, started, go_on, errors = make(), threading.Event(), threading.Event(), []

    def wait(run):
        if not started.is_set():
            started.set()
            go_on.wait(10)
        with pytest.raises(mv.MiniVAEError, match="being trained already.*copy.deepcopy"):
            mv.fit(vae, data(), epochs=1)

    training = threading.Thread(target=lambda: errors.append(mv.fit(vae, data(), epochs=2, callbacks=[wait])))
    training.start()
    assert started.wait(10)
    with pytest.raises(mv.MiniVAEError, match="fit: this model is being trained already"):
        mv.fit(vae, data(), epochs=1)
    assert len(mv.fit(copy.deepcopy(vae), data(), epochs=1)) == 1
    go_on.set()
    training.join()
    assert len(errors[0]) == 2
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            mv.fit(vae, data(), epochs=1, callbacks=[lambda run: 1 / 0])
    assert len(mv.fit(vae, data(), epochs=1)) == 1


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 1.5, 0.001, 0.999, float("nan")])
def test_bad_shares(share):
    with pytest.raises(mv.MiniVAEError, match="should be a share that leaves some of the 40 examples on either side"):
        mv.fit(make(), data(), validation=share)


def test_patience_needs_validation_data():
    with pytest.raises(mv.MiniVAEError, match="patience needs validation data"):
        mv.fit(make(), data(), batch_size=10, patience=3)


# ------------------------------------------------------------------------------------- early stopping


def test_early_stopping_stops_and_restores_the_best_weights():
    """A learning rate that explodes after epoch 5 makes all that follows worse."""
    weights = []
    vae = make()
    history = mv.fit(
        vae,
        data(),
        data(20, 1),
        epochs=50,
        batch_size=10,
        patience=3,
        optimizer=mv.SGD(1e-3),
        schedules={"lr": lambda epoch: 1e-2 if epoch <= 5 else 2.0},
        callbacks=[lambda run: weights.append(vae.parameters.flat.copy())],
    )
    best = int(np.argmin(history["val_loss"]))
    assert history.best_epoch == best + 1 == 5 and len(history) == 8
    np.testing.assert_array_equal(vae.parameters.flat, weights[best])
    assert vae.evaluate(data(20, 1)).loss == history["val_loss"][best]


def test_the_best_weights_are_restored_without_an_early_stop():
    vae = make()
    schedule = {1: 1e-2, 2: 1e-2, 3: 2.0}.__getitem__
    history = mv.fit(
        vae, data(), data(20, 1), epochs=3, batch_size=10, patience=9, optimizer=mv.SGD(), schedules={"lr": schedule}
    )
    assert len(history) == 3 and history.best_epoch == 2
    assert vae.evaluate(data(20, 1)).loss == history["val_loss"][1]


def test_a_warm_up_of_beta_is_no_reason_to_stop():
    """The loss rises with beta while the model improves. The data are two patterns, which z tells apart."""
    x = (np.random.default_rng(0).integers(0, 2, (450, 1)) ^ np.arange(8) % 2).astype(np.float32)
    history = mv.fit(
        make(),
        x[:400],
        x[400:],
        epochs=10,
        batch_size=10,
        patience=2,
        optimizer=mv.Adam(1e-2),
        schedules={"beta": lambda epoch: 0.3 * min(epoch, 6)},
    )
    assert history["val_loss"][3] > history["val_loss"][2] > history["val_loss"][1] and len(history) > 6
    assert history.best_epoch >= 6


@pytest.mark.parametrize("progress, terminal, shown", [(True, False, True), (False, True, False), (None, True, True)])
def test_progress_is_shown_on_demand_or_on_a_terminal(capsys, monkeypatch, progress, terminal, shown):
    monkeypatch.setattr(tqdm, "tqdm", functools.partial(tqdm.tqdm, mininterval=0))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    mv.fit(make(), data(20), epochs=2, batch_size=5, progress=progress)
    err = capsys.readouterr().err
    assert ("| 7/8 [" in err and "loss=" in err) if shown else err == ""


# ------------------------------------------------------------------------------------------- schedules


def test_linear_warmup():
    schedule = mv.linear_warmup(4, end=3.0, start=1.0)
    assert [schedule(epoch) for epoch in range(1, 7)] == [1.5, 2.0, 2.5, 3.0, 3.0, 3.0]
    assert mv.linear_warmup(2)(1) == 0.5
    with pytest.raises(mv.MiniVAEError, match="epochs should be a finite number of at least 1"):
        mv.linear_warmup(0)


def by_hand(vae, x, betas, lrs, batch_size=10, seed=0, before=0):
    """Train with SGD as a reader would write it: a beta and a learning rate for each epoch. Returns the weights.

    before : for how many epochs the model was trained before
    """
    p = vae.parameters.flat.copy()
    for epoch, (beta, lr) in enumerate(zip(betas, lrs, strict=True), start=before + 1):
        order = generator(seed, SHUFFLE, epoch).permutation(len(x))
        noise = generator(seed, FIT_NOISE, epoch)
        for start in range(0, len(x), batch_size):
            rows = order[start : start + batch_size]
            eps = noise.standard_normal((1, len(rows), vae.latent_dim), np.float32).astype(p.dtype)
            _, g = vae.forward_and_backward(
                vae.parameters.named(p) | vae.constants, x[rows].astype(p.dtype), eps, np.full(1, beta)
            )
            p = p - lr * g
    return p


BETAS, LRS = [0.25, 0.5, 0.75], [0.1, 0.05, 0.1 / 3]


def test_schedules_set_beta_and_the_learning_rate_of_an_epoch(backend):
    """Though a compiled step takes for constant whatever does not lie in its arrays; 44 rows leave a batch of 4."""
    x, seen = data(44), []
    vae = make(backend=backend, dtype="float64")
    schedules = {"beta": mv.linear_warmup(4), "lr": lambda epoch: 0.1 / epoch}
    optimizer, callbacks = mv.SGD(0.7), [lambda run: seen.append(run.vae.beta)]
    history = mv.fit(vae, x, epochs=3, batch_size=10, optimizer=optimizer, schedules=schedules, callbacks=callbacks)
    assert seen == BETAS and optimizer.lr == 0.7
    assert (history["beta"], history["lr"]) == (BETAS, LRS) and str(history).endswith(" 0.75  0.0333")
    expected = by_hand(make(dtype="float64"), x, BETAS, LRS)
    np.testing.assert_allclose(backend.to_host(vae.parameters.flat), expected, rtol=1e-9, atol=1e-12)


def test_a_callback_may_change_beta_between_epochs(backend):
    x, betas = data(44), iter([0.5, 2.0, 0.0])
    vae = make(backend=backend, dtype="float64", beta=1.5)

    def change(run):
        vae.beta = next(betas)

    mv.fit(vae, x, epochs=3, batch_size=10, optimizer=mv.SGD(0.1), callbacks=[change])
    expected = by_hand(make(dtype="float64"), x, [1.5, 0.5, 2.0], [0.1] * 3)
    np.testing.assert_allclose(backend.to_host(vae.parameters.flat), expected, rtol=1e-9, atol=1e-12)


def test_a_callback_may_change_the_weights_between_epochs(backend):
    x = data(40)
    vae, expected = make(backend=backend, dtype="float64"), make(dtype="float64")

    def change(run):
        backend.upload(np.full(vae.parameters.flat.shape, 0.1), to=vae.parameters.flat)

    mv.fit(vae, x, epochs=1, batch_size=10, optimizer=mv.SGD(0.1), callbacks=[change])
    vae.beta = 0.5
    mv.fit(vae, x, epochs=1, batch_size=10, optimizer=mv.SGD(0.1))
    expected.parameters.flat.fill(0.1)
    expected = by_hand(expected, x, [0.5], [0.1], before=1)
    np.testing.assert_allclose(backend.to_host(vae.parameters.flat), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_learning_rate_of_a_schedule_is_refused(lr):
    with pytest.raises(mv.MiniVAEError, match="the learning rate of the schedule should be a positive number, got"):
        mv.fit(make(), data(), epochs=1, batch_size=10, schedules={"lr": lambda epoch: lr})


@pytest.mark.parametrize("schedules", [{"gamma": float}, {"beta": 1.0}, mv.linear_warmup(2), "beta"])
def test_bad_schedules_are_refused(schedules):
    with pytest.raises(mv.MiniVAEError, match='a dict of functions of the epoch, under "beta" or "lr"'):
        mv.fit(make(), data(), epochs=1, batch_size=10, schedules=schedules)


# -------------------------------------------------------------------------------------------- clipping


def test_clipped_training_moves_by_at_most_the_limit():
    vae = make()
    start = vae.parameters.flat.copy()
    mv.fit(vae, data(), epochs=1, batch_size=40, optimizer=mv.ClipNorm(mv.SGD(0.1), 0.01))
    assert np.linalg.norm(vae.parameters.flat - start) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_a_limit_that_is_never_reached_changes_no_bit():
    optimizers = mv.RMSprop(), mv.ClipNorm(mv.RMSprop(), 1e6)
    histories = [mv.fit(make(), data(), epochs=2, batch_size=10, optimizer=optimizer) for optimizer in optimizers]
    assert losses(histories[0]) == losses(histories[1])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((mv.SGD(), 0), "limit should be a positive number, got 0"),
        ((1.0,), r"ClipNorm: optimizer should be one such as"),
    ],
)
def test_bad_arguments_of_clip_norm(arguments, message):
    with pytest.raises(mv.MiniVAEError, match=message):
        mv.ClipNorm(*arguments)


# -------------------------------------------------------------------------------------------- the data


def test_a_memory_map_is_trained_on_where_it_lies(tmp_path):
    """Peak memory stays far below the data's; the History is that of the same data in memory."""
    x = np.memmap(tmp_path / "images", np.uint8, "w+", shape=(100_000, 800))
    x[:3000] = np.random.default_rng(0).integers(0, 256, (3000, 800))

    def model():
        return mv.VAE([mv.Dense(800, 4)], [mv.Dense(2, 800)])

    tracemalloc.start()
    mv.fit(model(), x, epochs=1, batch_size=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 2
    histories = [mv.fit(model(), rows, epochs=1) for rows in (x[:3000], np.array(x[:3000]))]
    assert histories[0]["train_loss"] == histories[1]["train_loss"]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_what_a_training_used_is_free_at_once(backend):
    """Its data as well, with no help of the collector of circular references."""
    if backend == "numba":
        pytest.importorskip("minivae.engine.loops", exc_type=ImportError)
    vae = mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)], backend=backend)
    x = np.random.default_rng(0).random((40, 6), "f4")
    data = weakref.ref(x)
    gc.collect()
    gc.disable()
    try:
        mv.fit(vae, x, validation=0.5, epochs=2, batch_size=7, progress=False)
        del x
        assert data() is None
    finally:
        gc.enable()
