"""What `fit` offers beside plain epochs: validation, early stopping, schedules, clipping, and honest failure."""

import functools
import sys
import tracemalloc

import numpy as np
import pytest
import tqdm

import minivae as mv
from minivae.backend import generator
from minivae.optimizers import clip_by_norm
from minivae.vae import SHUFFLE


def make(**options):
    return mv.VAE(
        [mv.Dense(8, 6), mv.ReLU(), mv.Dense(6, 4)], [mv.Dense(2, 6), mv.Tanh(), mv.Dense(6, 8)], **options
    )


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


def test_the_validation_split_is_a_random_part_that_is_not_trained_on():
    x, seen = data(40), []
    vae = make()
    original = vae.losses_and_gradients
    vae.losses_and_gradients = lambda x, *rest: seen.append(x.copy()) or original(x, *rest)
    history = mv.fit(vae, x, validation_split=0.25, epochs=1, batch_size=7, progress=False)
    trained = {row.tobytes() for batch in seen for row in batch}
    held_out = np.array([row for row in x if row.tobytes() not in trained])
    assert len(trained) == 30 and len(held_out) == 10
    assert history[0]["val_loss"] == vae.evaluate(held_out).loss
    assert not np.array_equal(held_out, x[:10]) and not np.array_equal(held_out, x[30:])


def test_the_validation_split_may_be_given_by_hand():
    """The split equals passing the same rows as x_val; training does not depend on what is validated on."""
    x = data(40)
    vae, same = make(), make()
    split = mv.fit(vae, x, validation_split=0.25, epochs=2, batch_size=10)
    rows = np.sort(mv.backend.generator(0, mv.training.SPLIT).permutation(40)[10:])
    plain = mv.fit(same, x[rows], np.delete(x, rows, axis=0), epochs=2, batch_size=10)
    assert losses(split) == losses(plain)


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, 0.001, 0.999, float("nan")])
def test_bad_validation_splits(share):
    with pytest.raises(mv.MiniVAEError, match="validation_split"):
        mv.fit(make(), data(), validation_split=share)


def test_validation_data_twice_or_never():
    with pytest.raises(mv.MiniVAEError, match="not both"):
        mv.fit(make(), data(), data(), validation_split=0.5)
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
        lr_schedule=lambda epoch: 1e-2 if epoch <= 5 else 2.0,
        callbacks=[lambda history: weights.append(vae.parameters.flat.copy())],
    )
    best = int(np.argmin(history["val_loss"]))
    assert history.best_epoch == best + 1 == 5 and len(history) == 8
    np.testing.assert_array_equal(vae.parameters.flat, weights[best])
    assert vae.evaluate(data(20, 1)).loss == history["val_loss"][best]


def test_the_best_weights_are_restored_without_an_early_stop():
    vae = make()
    schedule = {1: 1e-2, 2: 1e-2, 3: 2.0}.__getitem__
    history = mv.fit(
        vae, data(), data(20, 1), epochs=3, batch_size=10, patience=9, optimizer=mv.SGD(), lr_schedule=schedule
    )
    assert len(history) == 3 and history.best_epoch == 2
    assert vae.evaluate(data(20, 1)).loss == history["val_loss"][1]


def test_a_warm_up_of_beta_is_no_reason_to_stop():
    """The loss rises with beta while the model improves."""
    history = mv.fit(
        make(),
        data(200),
        data(50, 1),
        epochs=10,
        batch_size=10,
        patience=2,
        optimizer=mv.Adam(1e-2),
        beta_schedule=lambda epoch: 4.0 ** min(epoch, 6),
    )
    assert history["val_loss"][4] > history["val_loss"][3] > history["val_loss"][2] and len(history) > 6
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
    schedule = mv.linear_warmup(4, end=2.0, start=1.0)
    assert [schedule(epoch) for epoch in range(1, 7)] == [1.25, 1.5, 1.75, 2.0, 2.0, 2.0]
    assert mv.linear_warmup(2)(1) == 0.5
    with pytest.raises(mv.MiniVAEError, match="epochs should be at least 1"):
        mv.linear_warmup(0)


def test_schedules_set_beta_and_the_learning_rate_of_an_epoch(backend):
    """Three epochs with schedules are three trainings of an epoch with these values."""
    x, seen = data(), []
    vae = make(backend=backend)
    optimizer = mv.SGD(0.7)
    mv.fit(
        vae,
        x,
        epochs=3,
        batch_size=10,
        optimizer=optimizer,
        beta_schedule=mv.linear_warmup(4),
        lr_schedule=lambda epoch: 0.01 / epoch,
        callbacks=[lambda _: seen.append((vae.beta, optimizer.lr))],
    )
    assert seen == [(0.25, 0.01), (0.5, 0.005), (0.75, 0.01 / 3)]

    by_hand = make(backend=backend)
    for number, (beta, lr) in enumerate(seen, start=1):
        by_hand.beta = beta
        steps = mv.SGD(lr)
        steps.attach(by_hand.parameters, by_hand.gradients)
        trainer = mv.training.Trainer(by_hand, steps, x, 10, samples=1, seed=0)
        for _ in trainer.steps(number):
            pass
    np.testing.assert_array_equal(backend.to_host(vae.parameters.flat), backend.to_host(by_hand.parameters.flat))


# -------------------------------------------------------------------------------------------- clipping


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping_scales_the_gradient_to_the_limit_and_never_up(backend, dtype):
    xp = backend.xp
    for values, limit in (([3.0, -4.0], 2.5), ([3.0, -4.0], 5.0), ([3.0, -4.0], 9.0), ([0.0, 0.0], 1.0)):
        g = backend.asarray(values, dtype)
        clip_by_norm(backend, g, limit=limit, norm=xp.empty(1, dtype), work=xp.empty_like(g))
        expected = np.array(values) * min(1, limit / max(np.linalg.norm(values), 1e-9))
        np.testing.assert_allclose(backend.to_host(g), expected.astype(dtype), rtol=1e-6)


def test_clipped_training_moves_by_at_most_the_limit():
    vae = make()
    start = vae.parameters.flat.copy()
    mv.fit(vae, data(), epochs=1, batch_size=40, optimizer=mv.SGD(0.1), clip_norm=0.01)
    assert np.linalg.norm(vae.parameters.flat - start) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_a_limit_that_is_never_reached_changes_no_bit():
    histories = [mv.fit(make(), data(), epochs=2, batch_size=10, clip_norm=limit) for limit in (None, 1e6)]
    assert losses(histories[0]) == losses(histories[1])
    with pytest.raises(mv.MiniVAEError, match="limit should lie in"):
        mv.fit(make(), data(), batch_size=10, clip_norm=0)


# -------------------------------------------------------------------------------- NaN and infinity


def test_divergence_is_named_and_the_last_good_weights_come_back(tmp_path, backend):
    """In epoch 3 the learning rate makes the weights overflow: the first step still has a finite loss."""
    path, good = tmp_path / "checkpoint.safetensors", []
    vae = make(backend=backend)

    def keep(history):
        good[:] = [np.array(backend.to_host(vae.parameters.flat))]

    with pytest.raises(mv.MiniVAEError, match="clip_norm") as error:
        mv.fit(
            vae,
            data(),
            epochs=5,
            batch_size=10,
            optimizer=mv.SGD(1e-2),
            lr_schedule=lambda epoch: 1e-2 if epoch < 3 else 1e30,
            checkpoint=path,
            callbacks=[keep],
        )
    assert "stopped in epoch 3, step 2 of 4: the output of encoder." in str(error.value)
    assert "back where it was after epoch 2" in str(error.value)
    np.testing.assert_array_equal(backend.to_host(vae.parameters.flat), good[0])
    np.testing.assert_array_equal(mv.load(path).parameters.flat, good[0])
    assert vae.loss_and_gradients(data()).loss < 100


@pytest.mark.parametrize(
    "tensor, expected",
    [
        ("decoder.0.W", "the output of decoder.0"),
        ("encoder.2.b", "the output of encoder.2"),
    ],
)
def test_the_first_bad_tensor_is_the_one_that_is_named(tensor, expected):
    vae = make()

    def spoil(history):
        if len(history) == 2:
            vae.parameters[tensor][...] = np.nan

    with pytest.raises(mv.MiniVAEError, match=f"epoch 3, step 1 of 4: {expected} is not finite"):
        mv.fit(vae, data(), epochs=5, batch_size=10, callbacks=[spoil])


def test_the_step_that_is_named_is_the_one_with_the_bad_example():
    """In whose place the epoch's own order put it."""
    x, vae = data(), make(likelihood=mv.Gaussian())
    orders = [generator(0, SHUFFLE, epoch).permutation(40).tolist() for epoch in (1, 2, 3)]
    bad = next(i for i in range(40) if len({order.index(i) // 10 for order in orders}) == 3)

    def spoil(history):
        if len(history) == 2:
            x[bad] = 1e25

    step = orders[2].index(bad) // 10 + 1
    with pytest.raises(mv.MiniVAEError, match=rf"epoch 3, step {step} of 4: log p\(x given z\) is not finite"):
        mv.fit(vae, x, epochs=5, batch_size=10, optimizer=mv.SGD(1e-30), callbacks=[spoil])
    layer = vae.encoder.layers[0]
    assert layer.forward == mv.Dense.forward.__get__(layer), "the search for the step was left in the model"


def test_a_gradient_that_goes_bad_in_the_backward_pass_is_named():
    class Steep(mv.Tanh):
        def backward(self, dy):
            dx = super().backward(dy)
            dx.fill(np.inf)
            return dx

    vae = mv.VAE([mv.Dense(8, 6), Steep(), mv.Dense(6, 4)], [mv.Dense(2, 8)])
    with pytest.raises(mv.MiniVAEError, match="epoch 1, step 1 of 4: the gradient of encoder.0.b is not finite"):
        mv.fit(vae, data(), epochs=1, batch_size=10)


def test_a_loss_that_overflows_is_named():
    vae = make(likelihood=mv.Gaussian())
    with pytest.raises(mv.MiniVAEError, match=r"epoch 1, step 1 of 1: log p\(x given z\) is not finite"):
        mv.fit(vae, data() * np.float32(1e25), epochs=1, batch_size=40, optimizer=mv.SGD(1e-30))


def test_weights_that_overflow_in_the_last_step_are_not_returned():
    vae = make(likelihood=mv.Gaussian(0.1))
    start = vae.parameters.flat.copy()
    with pytest.raises(mv.MiniVAEError, match="epoch 1, step 1 of 1: parameter .* is not finite"):
        mv.fit(vae, data(), epochs=1, batch_size=40, optimizer=mv.SGD(3e38))
    np.testing.assert_array_equal(vae.parameters.flat, start)


def test_an_optimizer_state_that_overflows_is_named():
    """Squared gradients beyond float32 would freeze RMSprop's weights without a word."""
    vae = make(likelihood=mv.Gaussian(1e-11, constants=False))
    with pytest.raises(mv.MiniVAEError, match="step 1 of 4: optimizer.w is not finite"):
        mv.fit(vae, data(), epochs=1, batch_size=10)


def test_a_memory_map_is_trained_on_where_it_lies(tmp_path):
    """Peak memory stays far below the data's; the History is that of the same data in memory."""
    x = np.memmap(tmp_path / "images", np.uint8, "w+", shape=(100_000, 800))
    x[:3000] = np.random.default_rng(0).integers(0, 256, (3000, 800))

    def model():
        return mv.VAE([mv.Dense(800, 4)], [mv.Dense(2, 800)])

    tracemalloc.start()
    mv.fit(model(), x, epochs=1, batch_size=1000, progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 2
    histories = [mv.fit(model(), rows, epochs=1, progress=False) for rows in (x[:3000], np.array(x[:3000]))]
    assert histories[0]["train_loss"] == histories[1]["train_loss"]
