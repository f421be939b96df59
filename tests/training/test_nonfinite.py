"""A training that meets a NaN or an infinity says in which step and at which line first, and goes back to before."""

import inspect
import re

import numpy as np
import pytest

import minivae as mv
from minivae.engine.backend import NumpyBackend
from minivae.model import gaussian, layers, optimizers
from minivae.randomness import SHUFFLE, generator
from minivae.training.state import Training


def make(**options):
    encoder, decoder = [mv.Dense(8, 6), mv.ReLU(), mv.Dense(6, 4)], [mv.Dense(2, 6), mv.Tanh(), mv.Dense(6, 8)]
    return mv.VAE(**{"encoder": encoder, "decoder": decoder} | options)


def data(n=40, seed=0):
    return np.random.default_rng(seed).random((n, 8), np.float32)


def line_of(function, text):
    """How a message names the line of a function that holds this text: (file:number: `line`)."""
    lines, first = inspect.getsourcelines(function)
    (offset,) = (i for i, line in enumerate(lines) if text in line)
    file = inspect.getsourcefile(function).split("/")[-1]
    return re.escape(f"({file}:{first + offset}: `{lines[offset].strip()}`)")


PRODUCT = line_of(layers.dense, "return x @ W + b, backward")


def test_divergence_is_named_and_the_last_good_weights_come_back(tmp_path, backend):
    """In epoch 3 the learning rate makes the weights overflow: the first step still has a finite loss."""
    path, good = tmp_path / "checkpoint.safetensors", []
    vae = make(backend=backend)

    def keep(run):
        good[:] = [np.array(backend.to_host(vae.parameters.flat))]

    with pytest.raises(mv.MiniVAEError, match=r"a smaller learning rate, optimizer=ClipNorm\(\.\.\.\)") as error:
        mv.fit(
            vae,
            data(),
            epochs=5,
            batch_size=10,
            optimizer=mv.SGD(1e-2),
            schedules={"lr": lambda epoch: 1e-2 if epoch < 3 else 1e30},
            checkpoint=path,
            callbacks=[keep],
        )
    assert re.search(rf"in epoch 3, step 2 of 4: matmul with encoder.2.W {PRODUCT} is not finite", str(error.value))
    assert "The model is back where it was after epoch 2" in str(error.value)
    np.testing.assert_array_equal(backend.to_host(vae.parameters.flat), good[0])
    np.testing.assert_array_equal(mv.load(path).parameters.flat, good[0])
    assert vae.loss_and_gradients(data()).loss < 100


@pytest.mark.parametrize(
    "tensor, operation",
    [
        ("encoder.0.W", "matmul with encoder.0.W"),
        ("encoder.2.b", "add with encoder.2.b"),
        ("decoder.0.W", "matmul with decoder.0.W"),
    ],
)
def test_the_first_bad_value_is_the_one_that_is_named(tensor, operation):
    vae = make()

    def spoil(run):
        if run.epoch == 2:
            vae.parameters[tensor][...] = np.nan

    with pytest.raises(mv.MiniVAEError, match=f"epoch 3, step 1 of 4: {operation} {PRODUCT} is not finite"):
        mv.fit(vae, data(), epochs=5, batch_size=10, callbacks=[spoil])


class Root(mv.Layer):
    """y = sqrt(x - 1): NaN for every x below 1."""

    def forward(self, params, x):
        shifted = x - 1
        root = np.sqrt(shifted)
        return root, lambda dy: (dy * (0.5 / root), {})


class Steep(mv.Tanh):
    """A layer whose gradient is infinite everywhere."""

    def forward(self, params, x):
        y, _ = super().forward(params, x)
        return y, lambda dy: (dy * 1e38 * 1e38, {})


class Odd(mv.Tanh):
    """A layer that looks at values, so that no step with it can be traced."""

    def forward(self, params, x):
        if x[0, 0] > 1e30:
            raise AssertionError
        return super().forward(params, x)


def test_a_line_of_ones_own_layer_is_named(backend):
    vae = make(encoder=[mv.Dense(8, 6), Root(), mv.Dense(6, 4)], backend=backend)
    line = line_of(Root.forward, "root = np.sqrt(shifted)")
    with pytest.raises(mv.MiniVAEError, match=f"epoch 1, step 1 of 4: sqrt {line} is not finite"):
        mv.fit(vae, data(), epochs=1, batch_size=10)


def test_a_gradient_that_goes_bad_in_the_backward_pass_is_named():
    line = line_of(Steep.forward, "return y, lambda dy")
    vae = make(encoder=[mv.Dense(8, 6), Steep(), mv.Dense(6, 4)])
    with pytest.raises(mv.MiniVAEError, match=f"epoch 1, step 1 of 4: multiply {line} is not finite"):
        mv.fit(vae, data(), epochs=1, batch_size=10)


@pytest.mark.parametrize("where", [{"backend": NumpyBackend(compiled=False)}, {}], ids=["eager", "not traceable"])
def test_a_step_that_is_not_compiled_is_explained_too(where, capsys):
    odd = {"encoder": [mv.Dense(8, 6), Odd(), mv.Dense(6, 4)]}
    vae = make(**odd, **where)
    vae.parameters["decoder.0.W"].fill(np.nan)
    culprit = "a value, which cannot be named because the step cannot be traced, is not finite"
    with pytest.raises(mv.MiniVAEError, match=f"epoch 1, step 1 of 4: {culprit}"):
        mv.fit(vae, data(), epochs=1, batch_size=10)
    assert ("several times slower: test_nonfinite.py:" in capsys.readouterr().err) == (not where)


def test_a_step_on_an_eager_backend_names_the_line():
    vae = make(backend=NumpyBackend(compiled=False))
    vae.parameters["decoder.0.W"].fill(np.nan)
    with pytest.raises(mv.MiniVAEError, match=f"epoch 1, step 1 of 4: matmul with decoder.0.W {PRODUCT} is not finite"):
        mv.fit(vae, data(), epochs=1, batch_size=10)


def test_the_step_that_is_named_is_the_one_with_the_bad_example():
    """In whose place the epoch's own order put it."""
    x, vae = data(), make(likelihood=mv.Gaussian())
    orders = [generator(0, SHUFFLE, epoch).permutation(40).tolist() for epoch in (1, 2, 3)]
    bad = next(i for i in range(40) if len({order.index(i) // 10 for order in orders}) == 3)

    def spoil(run):
        if run.epoch == 2:
            x[bad] = 1e25

    step, line = orders[2].index(bad) // 10 + 1, line_of(gaussian.gaussian_kl, "mu**2")
    with pytest.raises(mv.MiniVAEError, match=rf"epoch 3, step {step} of 4: square {line} is not finite"):
        mv.fit(vae, x, epochs=5, batch_size=10, optimizer=mv.SGD(1e-30), callbacks=[spoil])


@pytest.mark.parametrize("scale, told", [(255.0, True), (1.0, False)])
def test_the_scale_of_x_is_named_where_it_may_be_the_cause(scale, told):
    """Weights that overflow for another reason say nothing of x; uint8 pixels are brought to [0, 1] anyway."""
    for x in data() * np.float32(scale), (data() * 255).astype(np.uint8):
        vae = make(likelihood=mv.Gaussian())
        vae.parameters["decoder.0.W"].fill(np.nan)
        with pytest.raises(mv.MiniVAEError, match="Usual cures") as error:
            mv.fit(vae, x, epochs=1, batch_size=10)
        scaled = re.search(r"x lies in \[(\S+), (\S+)\]: divide it", str(error.value))
        assert bool(scaled) == (told and x.dtype != np.uint8)
        assert not scaled or float(scaled[2]) == pytest.approx(x.max(), rel=1e-3)


def test_the_short_last_step_is_named_as_well():
    """43 rows: the last step has 3 of them, among which is the bad one."""
    order = generator(0, SHUFFLE, 1).permutation(43)
    x, vae = data(43), make(likelihood=mv.Gaussian())
    x[order[41]] = 1e25
    with pytest.raises(mv.MiniVAEError, match=r"epoch 1, step 5 of 5: square "):
        mv.fit(vae, x, epochs=1, batch_size=10, optimizer=mv.SGD(1e-30))


def test_a_log_variance_that_explodes_is_named():
    vae = make(likelihood=mv.SharedVarianceGaussian())
    vae.parameters["likelihood.log_var"].fill(np.nan)
    line = line_of(gaussian.hold, "y = np.minimum")
    with pytest.raises(mv.MiniVAEError, match=f"step 1 of 4: maximum with likelihood.log_var {line} is not finite"):
        mv.fit(vae, data(), epochs=1, batch_size=10)


def test_weights_that_overflow_in_the_last_step_are_not_returned():
    vae = make(likelihood=mv.Gaussian(0.1))
    start, line = vae.parameters.flat.copy(), line_of(optimizers.SGD.update, 'return p - state["lr"] * g, state')
    with pytest.raises(mv.MiniVAEError, match=f"epoch 1, step 1 of 1: multiply {line} is not finite"):
        mv.fit(vae, data(), epochs=1, batch_size=40, optimizer=mv.SGD(3e38))
    np.testing.assert_array_equal(vae.parameters.flat, start)


def test_an_optimizer_state_that_overflows_is_named():
    """Squared gradients beyond float32 would freeze RMSprop's weights without a word."""
    vae, line = make(likelihood=mv.Gaussian(1e-11, constants=False)), line_of(optimizers.RMSprop.update, "w = self.rho")
    with pytest.raises(mv.MiniVAEError, match=f"step 1 of 4: square {line} is not finite"):
        mv.fit(vae, data(), epochs=1, batch_size=10)


@pytest.mark.parametrize("optimizer", [mv.SGD(1e-3, momentum=0.9), mv.RMSprop(), mv.Adam()])
def test_the_search_leaves_the_training_as_it_was(optimizer, tmp_path):
    """After the third epoch went wrong, what the checkpoint and the model hold is what two epochs give."""
    x, vae, plain, path = data(), make(), make(), tmp_path / "checkpoint.safetensors"
    schedules = {"lr": lambda epoch: 1e-3 if epoch < 3 else 1e38}
    with pytest.raises(mv.MiniVAEError, match="stopped in epoch 3"):
        mv.fit(vae, x, epochs=3, batch_size=10, optimizer=optimizer, schedules=schedules, checkpoint=path)
    mv.fit(plain, x, epochs=2, batch_size=10, optimizer=optimizer, schedules=schedules)
    np.testing.assert_array_equal(vae.parameters.flat, plain.parameters.flat)
    np.testing.assert_array_equal(mv.load(path).parameters.flat, plain.parameters.flat)


def test_a_validation_that_is_not_finite_takes_the_epoch_back(tmp_path):
    """With beta and the count of epochs; the checkpoint is that of the epoch before."""
    vae, plain = (make(likelihood=mv.Gaussian()) for _ in range(2))
    others, path = data(8, 1), tmp_path / "checkpoint"
    schedules = {"beta": lambda epoch: epoch / 10}
    options = {"batch_size": 10, "optimizer": mv.Adam(), "schedules": schedules}

    def spoil(run):
        if run.epoch == 2:
            others[3] = 1e30

    with pytest.raises(mv.MiniVAEError, match="validation after epoch 3: the loss is not finite.* was after epoch 2$"):
        mv.fit(vae, data(), others, epochs=3, callbacks=spoil, checkpoint=path, **options)
    mv.fit(plain, data(), epochs=2, **options)
    np.testing.assert_array_equal(vae.parameters.flat, plain.parameters.flat)
    np.testing.assert_array_equal(mv.load(path).parameters.flat, plain.parameters.flat)
    assert (vae.beta, vae.epochs, len(vae.history)) == (0.2, 2, 2)


def test_an_epoch_that_failed_is_not_counted():
    vae = make()
    vae.parameters["decoder.0.W"].fill(np.nan)
    with pytest.raises(mv.MiniVAEError):
        mv.fit(vae, data(), epochs=1, batch_size=10, schedules={"beta": lambda epoch: 0.5})
    assert (vae.epochs, vae.beta) == (0, 1)


def test_an_epoch_that_failed_is_not_counted_after_others_and_one_that_has_begun_is():
    vae = make()
    mv.fit(vae, data(), epochs=2, batch_size=10)
    vae.parameters["decoder.0.W"].fill(np.nan)
    with pytest.raises(mv.MiniVAEError):
        mv.fit(vae, data(), epochs=1, batch_size=10)
    assert vae.epochs == 2
    training = Training(make(), mv.SGD(), data(), None, np.arange(40), 10, 1, False, 0, None)
    next(training.steps())
    training.roll_back(training.snapshot())
    assert (training.done, training.vae.epochs) == (1, 1)


def test_large_numbers_whose_sum_is_infinite_are_finite():
    training = Training(make(), mv.SGD(1e-3, momentum=0.9), data(), None, np.arange(40), 10, 1, False, 0, None)
    training.state["velocity"].fill(3e38)
    assert training.finite_totals() is not None


def test_a_scale_far_below_zero_is_named_too():
    vae = make(likelihood=mv.Gaussian())
    vae.parameters["decoder.0.W"].fill(np.nan)
    with pytest.raises(mv.MiniVAEError, match=r"x lies in \[-\S+, -?\S+\]: divide it"):
        mv.fit(vae, -200 * data(), epochs=1, batch_size=10)


class Inverse(mv.Layer):
    """1 / x, or 0 for a gap; it begins a network, which asks for no dx."""

    fills_nan, input_shape = True, (8,)

    def output_shape(self, input_shape):
        return input_shape

    def forward(self, params, x):
        inverse = 1 / x
        return np.where(np.isnan(x), 0, inverse), lambda dy: (dy, {})


def test_an_infinity_among_gaps_is_named_and_a_gap_is_not():
    x = data()
    x[:, 0] = np.nan
    vae = make(encoder=[Inverse(), mv.Dense(8, 4)], likelihood=mv.Observed([(mv.Gaussian(), 8)]))
    mv.fit(vae, x, epochs=1, batch_size=10, optimizer=mv.SGD(1e-6))
    x[3, 1] = 0
    with pytest.raises(mv.MiniVAEError, match=r"divide .*test_nonfinite.py:\d+: `inverse = 1 / x`\) is not finite"):
        mv.fit(vae, x, epochs=1, batch_size=10)
