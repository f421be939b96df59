"""Bad input gives one clear error: what was expected, what came, how to mend it."""

import numpy as np
import pytest

import minivae as mv
from minivae.arguments import number


def vae(**parts):
    return mv.VAE([mv.Dense(6, 5), mv.ReLU(), mv.Dense(5, 4)], [mv.Dense(2, 6)], **parts)


GOOD = np.full((10, 6), 0.5, np.float32)


def with_value(value):
    x = GOOD.copy()
    x[7, 3] = value
    return x


@pytest.mark.parametrize(
    "x, message",
    [
        (np.ones((4, 7)), r"expects \(B, 6\), got \(4, 7\)"),
        (np.ones(6), r"expects \(B, 6\).*one image without the batch axis"),
        (np.ones((0, 6)), "at least one row"),
        (np.array(3.0), "at least one row"),
        (with_value(np.nan), "NaN or an infinity in row 7"),
        (with_value(np.inf), "NaN or an infinity in row 7"),
        (with_value(1.5), r"in \[0, 1\], got \[0.5, 1.5\].*Gaussian"),
        (with_value(-0.1), r"in \[0, 1\], got \[-0.1, 0.5\]"),
        (np.full((4, 6), "a"), "real numbers"),
        (np.ones((4, 6), complex), "real numbers"),
        (np.ma.masked_greater(with_value(0.9), 0.6), "x is a masked array with masked values"),
        ([[0.5] * 6, [0.5] * 5], "x should be an array of numbers, got .*inhomogeneous"),
        (None, "x should hold real numbers, got dtype object"),
    ],
)
@pytest.mark.parametrize("call", ["loss_and_gradients", "evaluate", "encode", "reconstruct", "log_likelihood", "fit"])
def test_bad_x(call, x, message):
    model = vae()
    function = (lambda x: mv.fit(model, x, epochs=1, batch_size=2)) if call == "fit" else getattr(model, call)
    with pytest.raises(mv.MiniVAEError, match=message):
        function(x)


def test_a_bad_row_is_found_however_far_down():
    for row in (9_999, 10_000, 20_004):
        x = np.full((20_005, 6), 0.5, np.float32)
        x[row, 2] = np.nan
        with pytest.raises(mv.MiniVAEError, match=f"NaN or an infinity in row {row}:"):
            vae().evaluate(x)
        x[row, 2] = 7
        with pytest.raises(mv.MiniVAEError, match=r"in \[0, 1\], got \[0.5, 7\]"):
            vae().evaluate(x)


def test_a_gaussian_likelihood_takes_any_finite_x():
    assert np.isfinite(vae(likelihood=mv.Gaussian()).evaluate(with_value(-30.0)).loss)


COUNTS = np.arange(6, dtype=np.uint8)[None] % 3


@pytest.mark.parametrize("observed", [False, True])
def test_counts_and_levels_are_not_read_as_pixels(observed):
    def evaluate(likelihood, x):
        if observed:
            likelihood = mv.Observed([(mv.Gaussian(), 1), (likelihood, 5)])
        return mv.mlp(6, likelihood=likelihood).evaluate(x).loss

    with pytest.raises(mv.MiniVAEError, match=r'uint8, .* divided by 255: pass counts as x.astype\("int64"\)'):
        evaluate(mv.Poisson(), COUNTS)
    assert evaluate(mv.Poisson(), COUNTS.astype("int64")) == evaluate(mv.Poisson(), COUNTS.astype("float32"))
    with pytest.raises(mv.MiniVAEError, match="its largest value is 2: pass the levels of Categorical.3. as x / 2, or"):
        evaluate(mv.Categorical(3), COUNTS)
    for levels, x in ((3, COUNTS * 0), (3, COUNTS * 127), (256, COUNTS)):
        assert evaluate(mv.Categorical(levels), x) == pytest.approx(evaluate(mv.Categorical(levels), x / 255))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: mv.Dense(0, 3), "n_in should be an integer of at least 1, got 0"),
        (lambda: mv.Dense(3, 2.5), "n_out should be an integer of at least 1, got 2.5"),
        (lambda: mv.Dense(3, 2, init="he"), 'init should be "glorot_uniform", "glorot_normal" or "he_normal", got'),
        (lambda: mv.VAE([], [mv.Dense(2, 6)]), "at least one layer"),
        (lambda: mv.VAE(["Dense"], [mv.Dense(2, 6)]), "layer 0 should be a layer"),
        (lambda: mv.VAE([mv.ReLU()], [mv.Dense(2, 6)]), "encoder has no layer that fixes its input size"),
        (lambda: mv.VAE([mv.Dense(6, 5)], [mv.Dense(2, 6)]), "make its width even"),
        (lambda: mv.VAE([mv.Dense(6, 4)], [mv.Dense(4, 6)]), "twice as wide as the decoder's first"),
        (lambda: mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 7)]), r"needs a decoder output of \(B, 6\), got \(B, 7\)"),
        (lambda: mv.VAE([mv.Dense(6, 5), mv.Dense(6, 4)], [mv.Dense(2, 6)]), r"expects \(B, 6\), got \(B, 5\)"),
        (lambda: vae(dtype="float16"), 'should be "float32" or "float64"'),
        (lambda: vae(beta=-1), "beta should be a finite number"),
        (lambda: vae(beta=float("nan")), "beta should be a finite number"),
        (lambda: vae(seed=-1), "seed should be an integer of at least 0"),
        (lambda: vae(kl="exact"), 'kl should be "analytic", "monte-carlo" or None'),
        (lambda: vae(kl="analytic", bound=mv.ImportanceWeighted()), "has no analytic KL"),
        (lambda: vae(likelihood="bernoulli"), r"likelihood should be an instance such as .*\(\), got 'bernoulli'"),
        (lambda: vae(likelihood=mv.Bernoulli), r"Bernoulli\(\), got the class Bernoulli: write Bernoulli\(...\)"),
        (lambda: vae(posterior=mv.FlowPosterior), r"posterior .* such as DiagonalGaussian\(\), got the class Flow"),
        (lambda: vae(bound=3), r"bound should be an instance such as ELBO\(\), got 3"),
        (lambda: vae(dtype="floaty"), 'should be "float32" or "float64", got \'floaty\''),
        (lambda: mv.VAE(None, [mv.Dense(2, 6)]), "expected a list of layers, got None"),
        (lambda: mv.VAE([mv.Dense(6, 4), mv.ReLU], [mv.Dense(2, 6)]), r"layer 1 .*, got the class ReLU: write ReLU\("),
        (lambda: vae(backend="tpu"), 'unknown backend \'tpu\': expected "numpy", "numba", "cupy" or "auto"'),
        (lambda: mv.Gaussian(std=0), "Gaussian: std should be a finite number of at least 1e-15 .*, got 0"),
        (lambda: mv.Adam(lr=0), "Adam: lr should be a positive number, got 0"),
        (lambda: mv.RMSprop(rho=1), "rho should be a positive number below 1, got 1"),
        (lambda: mv.SGD(momentum=1), "momentum should be a finite number of at least 0 and below 1, got 1"),
    ],
)
def test_bad_parts(make, message):
    with pytest.raises(mv.MiniVAEError, match=message):
        make()


def test_a_layer_or_a_sequential_does_for_a_list():
    model = mv.VAE(encoder=mv.Sequential([mv.Dense(6, 5), mv.ReLU(), mv.Dense(5, 4)]), decoder=mv.Dense(2, 6))
    assert [*model.parameters] == [*vae().parameters]
    assert mv.fit(model, GOOD, epochs=1)["train_loss"] == mv.fit(vae(), GOOD, epochs=1)["train_loss"]


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"decoder": [mv.Sigmoid()]}, "decoder ends in Sigmoid, so the logits are never below 0 and never above 1. B"),
        ({"decoder": [mv.ReLU(), mv.Flatten()]}, "ends in ReLU, so the logits are never below 0. .*: leave ReLU out"),
        ({"decoder": [mv.Sequential([mv.Tanh()])]}, "ends in Tanh, so the logits are never below -1 and never above 1"),
        ({"decoder": [mv.ReLU()], "likelihood": mv.Categorical(2)}, "the logits are never below 0. Categorical makes"),
        ({"encoder": [mv.ReLU()]}, "the encoder ends in ReLU, so mu and log_var are never below 0"),
    ],
)
def test_an_activation_at_the_end_is_told(parts, message):
    """At the line that makes the model."""
    likelihood = parts.get("likelihood", mv.Bernoulli())
    layers = {"encoder": [mv.Dense(6, 4)], "decoder": [mv.Dense(2, likelihood.params_dim(6))]}
    layers = {name: stack + parts.get(name, []) for name, stack in layers.items()}
    with pytest.warns(mv.MiniVAEWarning, match=message) as warned:
        mv.VAE(**layers, likelihood=likelihood)
    assert [each.filename for each in warned] == [__file__]


class Scaled(mv.Layer):
    """y = a x, with whatever it was given for the gradient of a."""

    def __init__(self, grads):
        self.grads = grads

    def shapes(self):
        return {"a": [3, 4]}

    def initial(self, rng):
        return {"a": np.ones((3, 4))}

    def forward(self, params, x):
        return x * params["a"].reshape(-1)[:1], lambda dy: (dy, self.grads)


@pytest.mark.parametrize(
    "grads, got",
    [({}, "none"), ({"a": np.ones((4, 3))}, r"\(4, 3\)"), ({"a": np.ones(5)}, r"\(5,\)"), ({"a": 1.0}, r"\(\)")],
)
@pytest.mark.parametrize("compiled", [True, False])
def test_a_gradient_that_a_layer_of_ones_own_lacks_or_that_has_another_shape(grads, got, compiled, capsys):
    model = mv.VAE([mv.Dense(6, 4), Scaled(grads)], [mv.Dense(2, 6)])
    model.backend.compiled = compiled
    message = rf"should give the gradient of 'encoder.1.a', \(3, 4\), got {got}"
    with pytest.raises(mv.MiniVAEError, match=message):
        model.loss_and_gradients(GOOD)
    with pytest.raises(mv.MiniVAEError, match=message):
        mv.fit(model, GOOD, epochs=1, progress=False)
    assert not capsys.readouterr().err
    right = mv.VAE([mv.Dense(6, 4), Scaled({"a": np.ones((3, 4), "float32")})], [mv.Dense(2, 6)])
    mv.fit(right, GOOD, epochs=1, progress=False)


def test_a_state_of_an_optimizer_of_ones_own_that_has_no_beginning(capsys):
    class Counting(mv.SGD):
        def update(self, g, p, state):
            return p - state["lr"] * g, state | {"count": state["lr"] * 0, "average": p}

    model = mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)])
    with pytest.raises(
        mv.MiniVAEError, match="Counting.update gives the state average, count: begin it in fresh_state"
    ):
        mv.fit(model, GOOD, epochs=1, optimizer=Counting(), progress=False)
    assert not capsys.readouterr().err


def test_an_activation_at_the_end_that_belongs_there_is_not():
    class Scaled(mv.Tanh):
        def forward(self, params, x):
            y, backward = super().forward(params, 0.1 * x)
            return 10 * y, backward

    encoder, decoder = [mv.Dense(6, 4)], [mv.Dense(2, 6)]
    mv.VAE(encoder, [*decoder, mv.Sigmoid()], mv.Gaussian())
    mv.VAE(encoder, [*decoder, Scaled()])
    mv.VAE([mv.Dense(6, 4), mv.ReLU(), mv.Dense(4, 4)], decoder)


def test_one_part_may_serve_many_places_and_models():
    """Parts hold no arrays: a layer that stands twice has weights of its own in each place."""
    square, likelihood = mv.Dense(4, 4), mv.SharedVarianceGaussian()
    posterior, x = mv.FlowPosterior([mv.Planar(2)]), GOOD[:, :4]
    layers = {"encoder": [square, square, mv.Dense(4, 4)], "decoder": [mv.Dense(2, 4), square]}
    first, second = (mv.VAE(**layers, likelihood=likelihood, posterior=posterior, seed=seed) for seed in (1, 2))
    weights = [first.parameters[f"{name}.W"] for name in ("encoder.0", "encoder.1", "decoder.1")]
    assert len({W.tobytes() for W in weights}) == 3
    before = first.evaluate(x)
    mv.fit(second, x, epochs=1, batch_size=5)
    assert first.evaluate(x) == before


def test_statistics_given_for_z():
    model = mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)])
    params = {"0.W": np.ones((2, 6)), "0.b": np.ones(6)}
    with pytest.raises(mv.MiniVAEError, match=r"Dense\(2, 6\) expects \(B, 2\), got \(B, 4\): did you pass"):
        model.decoder.forward(params, np.ones((3, 4), np.float32))
    with pytest.raises(mv.MiniVAEError, match=r"z should be \(N, 2\) with N at least 1, got \(3, 4\)"):
        model.decode(np.ones((3, 4)))


@pytest.mark.parametrize("shape", [(4, 2), (10, 3), (0, 10, 2), (1, 1, 10, 2)])
def test_bad_eps(shape):
    with pytest.raises(mv.MiniVAEError, match=r"eps should be \(L, 10, 2\) or \(10, 2\), got"):
        vae().loss_and_gradients(GOOD, np.zeros(shape))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": 0}, "batch_size should be an integer of at least 1, got 0"),
        ({"batch_size": True}, "batch_size should be an integer of at least 1, got True"),
        ({"seed": -1}, "fit: seed should be an integer of at least 0, got -1"),
        ({"binarize": "yes"}, 'fit: binarize should be "grey", "dynamic" or "static", got .yes'),
        (
            {"schedules": {"lr": lambda epoch: None}},
            "learning rate of the schedule should be a positive number, got None",
        ),
        (
            {"schedules": {"beta": lambda epoch: None}},
            "fit: beta of the schedule should be a finite number of at least 0, got None",
        ),
        (
            {"schedules": {"beta": lambda epoch: -1}},
            "fit: beta of the schedule should be a finite number of at least 0, got -1",
        ),
        ({"checkpoint": b"x"}, "Checkpoint: path should be a path, as text or a pathlib.Path, got b'x'"),
        ({"checkpoint": "a\0b"}, "Checkpoint: path holds the character NUL"),
        ({"validation": "x"}, r"validation=.x. should be a share that leaves some of the 10 examples"),
        ({"validation": 1}, r"validation=1 should be a share that leaves some of the 10 examples"),
        (
            {"validation": np.float32(0.01)},
            r"validation=\S*0.01\S* should be a share that leaves some of the 10 examples",
        ),
        ({"epochs": -1}, "epochs should be an integer of at least 1, got -1"),
        ({"samples": 1.5}, "samples should be an integer of at least 1, got 1.5"),
        ({"optimizer": "adam"}, r"optimizer should be one such as Adam\(1e-3\), got 'adam'"),
        ({"optimizer": mv.Adam}, r"got the class Adam: write Adam\(...\)"),
        ({"callbacks": [3]}, "callbacks should be functions of the run, or objects such as .*, got 3"),
        ({"callbacks": mv.EpochPrinter}, r"got the class EpochPrinter: write EpochPrinter\(...\)"),
        ({"validation": np.arange(10)}, r"of shape \(10,\), which looks like labels .* fit\(vae, \(x, y\)\)"),
        ({"validation": np.eye(10, 3)}, r"of shape \(10, 3\), which looks like labels"),
        ({"validation": np.ones((3, 5))}, r"expects \(B, 6\), got \(3, 5\)"),
        ({"validation": 0.01}, r"validation=0.01 should be a share that leaves some of the 10 examples"),
        ({"schedules": {"beta": 0.5}}, "schedules should be a dict of functions of the epoch"),
        ({"checkpoint": 3}, r"checkpoint should be a path or Checkpoint\(path, resume=True\), got 3"),
        ({"patience": 0, "validation": 0.5}, "patience should be an integer of at least 1, got 0"),
        ({"x_val": GOOD}, r"x_val= is now validation=x_val"),
        ({"validation_split": 0.1}, "validation_split= is now validation=0.1, the share"),
        ({"y_train": [0]}, r"y_train= is now a pair, fit\(vae, \(x_train, y_train\), ...\)"),
        ({"y_val": [0]}, r"y_val= is now a pair, validation=\(x_val, y_val\)"),
        ({"beta_schedule": float}, 'beta_schedule= is now schedules={"beta": ...}'),
        ({"lr_schedule": float}, 'lr_schedule= is now schedules={"lr": ...}'),
        ({"clip_norm": 1.0}, r"clip_norm= is now optimizer=ClipNorm\(Adam\(1e-3\), limit\)"),
        ({"resume": True}, r"resume= is now checkpoint=Checkpoint\(path, resume=True\)"),
    ],
)
def test_bad_arguments_of_fit(arguments, message):
    model = vae()
    before = model.parameters.flat.copy()
    with pytest.raises(mv.MiniVAEError, match=message):
        mv.fit(model, GOOD, **({"epochs": 1, "batch_size": 5} | arguments))
    np.testing.assert_array_equal(model.parameters.flat, before)


def test_a_misspelt_argument_of_fit_is_refused_as_python_does():
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        mv.fit(vae(), GOOD, epoch=1)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: m.sample(0), "sample: n should be an integer of at least 1, got 0"),
        (lambda m: m.sample(2.5), "sample: n should be an integer of at least 1, got 2.5"),
        (lambda m: m.sample(10**30), "sample: n should be an integer of at least 1, got 1000"),
        (lambda m: m.sample(3, seed=-1), "seed should be an integer of at least 0, got -1"),
        (lambda m: m.evaluate(GOOD, samples=0), "samples should be an integer of at least 1, got 0"),
        (lambda m: m.evaluate(GOOD, batch_size=-5), "batch_size should be an integer of at least 1, got -5"),
        (lambda m: m.evaluate(GOOD, batch_size=0), "batch_size should be an integer of at least 1, got 0"),
        (lambda m: m.evaluate(GOOD, seed=0.5), "seed should be an integer of at least 0, got 0.5"),
        (lambda m: m.active_units(GOOD, "few"), "threshold should be a number, got 'few'"),
        (lambda m: m.decode([[1, 2], [3]]), "z should be an array of numbers, got .*inhomogeneous"),
        (lambda m: m.decode([["a", "b"]]), "z should hold real numbers"),
        (lambda m: m.save(b"x"), "save: path should be a path, as text or a pathlib.Path, got b'x'"),
        (lambda m: m.save("x\0"), "save: path holds the character NUL"),
        (lambda m: m.save(3), "save: path should be a path"),
        (lambda m: mv.load(3), "load: path should be a path"),
        (lambda m: mv.load("x\0"), "load: path holds the character NUL"),
        (lambda m: mv.fit("vae", GOOD), "fit: vae should be a VAE, got 'vae'"),
        (lambda m: mv.fit(mv.VAE, GOOD), r"fit: vae should be a VAE, got the class VAE: write VAE\(...\)"),
        (lambda m: mv.linear_warmup("ten"), "epochs should be a finite number of at least 1, got 'ten'"),
        (lambda m: mv.linear_warmup(3, end=None), "linear_warmup: end should be a finite number, got None"),
        (lambda m: mv.CSVWriter(b"x"), "CSVWriter: path should be a path"),
        (lambda m: mv.History().save_csv(b"x"), "History.save_csv: path should be a path"),
        (lambda m: mv.Checkpoint("x", resume="yes"), "Checkpoint: resume should be True or False, got 'yes'"),
    ],
)
def test_bad_arguments_of_other_calls(call, message):
    with pytest.raises(mv.MiniVAEError, match=message):
        call(vae())


def test_a_large_seed_is_a_seed_and_a_masked_array_without_masked_values_is_an_array():
    assert vae(seed=2**70).evaluate(np.ma.array(GOOD), seed=2**70) != vae(seed=2**71).evaluate(GOOD, seed=2**70)


def test_a_tuple_of_rows_is_data_unless_it_is_a_pair():
    rows = tuple(GOOD[:3])
    assert mv.fit(vae(), rows, epochs=1)["train_loss"] == mv.fit(vae(), GOOD[:3], epochs=1)["train_loss"]


def test_what_is_a_number():
    """What is none is NaN, which no range of numbers holds; what is too long for a float is infinite."""
    for value in (0.5, np.float32(0.5), np.array(0.5)):
        assert number(value) == 0.5
    assert (number(3), number(10**400), number(-(10**400))) == (3, np.inf, -np.inf)
    for value in (None, "1", True, np.bool_(True), np.array(True), 1j, np.complex64(1), np.ones(1), [1], np.nan):
        assert np.isnan(number(value))


def test_an_error_says_no_more_of_a_value_than_fits_into_a_line():
    with pytest.raises(mv.MiniVAEError) as error:
        mv.fit(vae(), GOOD, batch_size=np.arange(10_000).reshape(100, 100))
    assert len(str(error.value)) < 200 and "\n" not in str(error.value)


def test_unknown_tensor_name():
    with pytest.raises(KeyError, match="encoder.0.W"):
        vae().parameters["encoder.1.W"]


@pytest.mark.parametrize("dtype", [">f4", "<f4", ">f8", "f2", ">f2", "g", "?", "i1", ">i2", "i8", ">u4", "u1"])
def test_numbers_of_any_dtype_train_as_the_same_numbers_in_a_known_one(backend, dtype):
    """Other byte orders trained on garbage with Numba, float16 and long double raised what NumPy raises."""
    rng, losses = np.random.default_rng(0), []
    x = rng.integers(0, 2, (40, 6)).astype(np.uint8)
    for known in True, False:
        data = (x / 255 if dtype == "u1" else x).astype("f4") if known else x.astype(dtype)
        model = vae(backend=backend)
        history = mv.fit(model, data, data[:10], epochs=2, batch_size=10)
        losses.append([history[-1]["train_loss"], history[-1]["val_loss"], *model.encode(data)[0].ravel()])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["f2", "g"])
def test_what_is_not_finite_in_the_models_dtype_is_refused(dtype):
    x = GOOD.astype(dtype)
    x[7, 3] = np.inf if dtype == "f2" else np.longdouble("1e400")
    with pytest.raises(mv.MiniVAEError, match="NaN or an infinity in row 7"):
        vae(likelihood=mv.Gaussian()).evaluate(x)


def test_known_dtypes_are_not_copied():
    for dtype in "u1", "f4", "f8":
        x = np.zeros((10, 6), dtype)
        assert np.shares_memory(vae().check_input(x), x)
