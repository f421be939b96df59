"""VAEEstimator: scikit-learn's own checks, and what its users do with an estimator."""

import copy
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import minivae as mv
from minivae.sklearn import VAEEstimator
from minivae.training.state import Training


@pytest.mark.filterwarnings("ignore:feature . has a root mean square")  # which some of the checks' data have
@parametrize_with_checks([VAEEstimator(max_iter=10)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_none_of_the_checks_is_skipped():
    """One of them needs a variable that SciPy reads when it is imported."""
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from sklearn.utils.estimator_checks import check_estimator\n"
        "from minivae.sklearn import VAEEstimator\n"
        "results = check_estimator(VAEEstimator(hidden_layer_sizes=(), max_iter=2), on_fail='raise')\n"
        "print(len(results), {result['status'] for result in results})"
    )
    environment = os.environ | {"SCIPY_ARRAY_API": "1", "PYTHONPATH": str(Path(mv.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    assert process.returncode == 0, process.stderr
    number, statuses = process.stdout.split(maxsplit=1)
    assert int(number) > 40 and statuses.strip() == "{'passed'}"


@pytest.fixture(scope="module")
def iris():
    return StandardScaler().fit_transform(load_iris().data)


@pytest.fixture(scope="module")
def fitted(iris):
    return VAEEstimator(max_iter=100, random_state=0).fit(iris)


def test_the_scores_are_the_log_density_of_a_linear_gaussian_model():
    """A linear VAE's p(x) is N(b, W'W + var I), in which probabilistic PCA is the best; estimates lie near it."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 1)) @ [[1.0, 1.0, 0.5]] + 0.3 * rng.standard_normal((2000, 3))
    model = VAEEstimator(1, hidden_layer_sizes=(), max_iter=40, learning_rate=5e-3, random_state=0).fit(x)
    weights = model.vae_.parameters
    W, b, var = weights["decoder.0.W"], weights["decoder.0.b"], np.exp(weights["likelihood.log_var"])
    covariance = W.T @ W + var * np.eye(3)
    residual = x - b
    exact = -0.5 * (np.sum(residual @ np.linalg.inv(covariance) * residual, axis=1))
    exact -= 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    np.testing.assert_allclose(model.score_samples(x), exact, atol=0.05)
    assert model.score(x) == pytest.approx(PCA(1).fit(x).score(x), abs=0.02)
    assert model.score(x) <= PCA(1).fit(x).score(x)


def test_many_rows_are_scored_by_compiled_lines_and_get_the_scores_of_a_few(fitted, monkeypatch):
    x, batches = np.random.default_rng(0).standard_normal((805, 4)), []
    few = np.concatenate([fitted.score_samples(x[i : i + 115]) for i in range(0, 805, 115)])
    weighted = mv.VAE._weighted
    monkeypatch.setattr(mv.VAE, "_weighted", lambda vae, *arguments: batches.append(1) or weighted(vae, *arguments))
    np.testing.assert_allclose(fitted.score_samples(x), few, rtol=1e-13)
    assert len(batches) < 30  # of 41


def test_draws_have_the_mean_and_covariance_of_the_data(iris):
    model = VAEEstimator(3, max_iter=300, random_state=0).fit(iris)
    x = model.sample(5000, random_state=0)
    np.testing.assert_allclose(x.mean(axis=0), iris.mean(axis=0), atol=0.25)
    np.testing.assert_allclose(np.cov(x.T), np.cov(iris.T), atol=0.3)


def test_draws_are_keyed_by_the_random_state(fitted):
    np.testing.assert_array_equal(fitted.sample(3, random_state=1), fitted.sample(3, random_state=1))
    assert (fitted.sample(3) != fitted.sample(3)).all()


def test_draws_of_a_bernoulli_are_0_or_1():
    x = load_digits().data[:200] / 16
    draws = VAEEstimator(likelihood="bernoulli", max_iter=2, random_state=0).fit(x).sample(10, random_state=0)
    assert draws.shape == (10, 64) and set(np.unique(draws)) == {0, 1}


def test_the_inverse_reconstructs(fitted, iris):
    error = np.mean((fitted.inverse_transform(fitted.transform(iris)) - iris) ** 2)
    assert error < 0.3  # of a variance of 1


def test_same_random_state_same_model(fitted, iris):
    again = clone(fitted).fit(iris)
    np.testing.assert_array_equal(again.transform(iris), fitted.transform(iris))
    assert again.offset_ == fitted.offset_
    other = clone(fitted).set_params(random_state=1).fit(iris)
    assert (other.transform(iris) != fitted.transform(iris)).any()


def test_the_history_has_every_epoch_of_the_training(fitted):
    assert fitted.n_iter_ == len(fitted.history_) == 100
    assert fitted.history_[-1]["train_loss"] < fitted.history_[0]["train_loss"]


def test_a_pickled_model_is_the_same(fitted, iris):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.score_samples(iris), fitted.score_samples(iris))
    # Weights and gradients and two histories, and nothing of the engine's memory.
    assert len(pickle.dumps(fitted)) < 3 * fitted.vae_.parameters.flat.nbytes + 100 * len(fitted.history_)
    assert again.history_["train_loss"] == fitted.history_["train_loss"]
    again.set_params(n_components=5, hidden_layer_sizes=(3,))  # of the next fit
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again)).transform(iris), fitted.transform(iris))


def test_outliers_are_the_share_that_was_asked_for(fitted, iris):
    assert (fitted.predict(iris) == -1).mean() == pytest.approx(0.1)
    assert (clone(fitted).set_params(contamination=0.3).fit_predict(iris) == -1).mean() == pytest.approx(0.3)
    assert fitted.predict(np.full((1, 4), 5.0)) == -1


def test_a_class_that_was_left_out_is_found(iris):
    labels = load_iris().target
    model = VAEEstimator(max_iter=100, random_state=0).fit(iris[labels > 0])
    assert roc_auc_score(labels > 0, model.score_samples(iris)) > 0.95


def test_partial_fit_goes_on(iris):
    model = VAEEstimator(random_state=0)
    for _ in range(20):
        model.partial_fit(iris)
    assert model.n_iter_ == 20
    losses = model.history_["train_loss"]
    assert losses[19] < losses[9] < losses[0]
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(iris[:, :2])
    assert model.fit(iris).n_iter_ == 100  # anew


def test_partial_fit_draws_other_noise_each_time(iris):
    model = VAEEstimator(random_state=0).partial_fit(iris)
    same_noise, next_noise = copy.deepcopy(model.vae_), copy.deepcopy(model.vae_)
    same_noise.epochs = 0
    for vae in same_noise, next_noise:
        mv.fit(vae, iris, epochs=1, batch_size=32, optimizer=mv.Adam(3e-3))
    weights = model.partial_fit(iris).vae_.parameters.flat
    assert (weights != same_noise.parameters.flat).any()
    np.testing.assert_array_equal(weights, next_noise.parameters.flat)


def test_after_ctrl_c_the_estimator_can_be_used(iris, monkeypatch):
    """The epochs that were finished are counted, and a second call adds its own."""
    presses = iter([False] * 7 + [True])

    def step(training, **options):
        for _ in steps(training, **options):
            if next(presses, False):
                signal.raise_signal(signal.SIGINT)
            yield

    steps, before = Training.steps, signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(Training, "steps", step)
    model = VAEEstimator(random_state=0)
    try:
        with pytest.raises(mv.Interrupted):
            model.fit(iris)  # 5 steps an epoch
    finally:
        signal.signal(signal.SIGINT, before)
    assert model.history_["epoch"] == [1] and model.n_iter_ == 1
    assert (model.predict(iris) == -1).mean() == pytest.approx(0.1)
    assert model.partial_fit(iris).history_["epoch"] == [1, 2]
    with pytest.raises(mv.MiniVAEError, match="batch_size"):
        model.set_params(batch_size=0).partial_fit(iris)
    assert model.n_iter_ == 2


@pytest.mark.parametrize("setting", [{"beta": 0.1}, {"batch_size": 8}, {"learning_rate": 1e-3}, {"max_iter": 99}])
def test_each_setting_of_the_training_matters(setting, fitted, iris):
    other = clone(fitted).set_params(**setting).fit(iris)
    assert np.abs(other.transform(iris) - fitted.transform(iris)).max() > 1e-3


def test_the_backend_is_the_one_asked_for(iris):
    backend = mv.get_backend("numpy")
    assert VAEEstimator(max_iter=1, backend=backend).fit(iris).vae_.backend is backend


def test_training_is_silent_unless_asked_to_talk(iris, capsys):
    VAEEstimator(max_iter=2).fit(iris)
    assert capsys.readouterr() == ("", "")
    VAEEstimator(max_iter=2, verbose=True).fit(iris)
    assert "2/2" in capsys.readouterr().out


def test_in_a_pipeline_before_a_classifier():
    x, y = load_digits(return_X_y=True)
    model = make_pipeline(StandardScaler(), VAEEstimator(10, max_iter=20, random_state=0), LogisticRegression())
    assert model.fit(x, y).score(x, y) > 0.8


def test_in_a_grid_search_over_processes(iris):
    """Without labels: the mean of log p(x) on the rows that were left out of training decides."""
    pipeline = make_pipeline(StandardScaler(), VAEEstimator(random_state=0))
    search = GridSearchCV(pipeline, {"vaeestimator__max_iter": [1, 50]}, cv=2, n_jobs=2).fit(iris)
    assert search.best_params_ == {"vaeestimator__max_iter": 50}
    assert search.transform(iris).shape == (150, 2)


def test_pandas_in_and_out(iris):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(iris, columns=list("abcd"), index=range(100, 250))
    model = VAEEstimator(max_iter=1, random_state=0).set_output(transform="pandas")
    codes = model.fit_transform(frame)
    assert list(codes.columns) == list(model.get_feature_names_out()) == ["vaeestimator0", "vaeestimator1"]
    assert list(codes.index) == list(frame.index)
    assert list(model.feature_names_in_) == list("abcd") and model.n_features_in_ == 4
    with pytest.raises(ValueError, match="feature names"):
        model.transform(frame[["b", "a", "c", "d"]])


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (4, 8, 2), (16, 4)])
def test_convolutional(shape):
    x = load_digits().data[:100] / 16
    model = VAEEstimator(3, image_shape=shape, hidden_layer_sizes=(4, 6, 2), max_iter=2, random_state=0).fit(x)
    assert sum(isinstance(layer, mv.Conv2d) for layer in model.vae_.encoder.layers) == 3
    assert model.transform(x).shape == (100, 3)
    assert model.inverse_transform(model.transform(x)).shape == (100, 64)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).transform(x), model.transform(x))


def test_images_with_odd_sides():
    x = np.random.default_rng(0).random((20, 7 * 10 * 3))
    model = VAEEstimator(image_shape=(7, 10, 3), max_iter=1).fit(x)
    assert model.inverse_transform(model.transform(x)).shape == x.shape


def test_the_model_computes_in_the_datas_precision(iris):
    for dtype, wanted in (("float32", "float32"), ("float64", "float64"), ("int64", "float64")):
        model = VAEEstimator(max_iter=1).fit(iris.astype(dtype))
        assert model.vae_.dtype == wanted
        assert model.score_samples(iris.astype(dtype)).dtype == "float64"


def test_fewer_rows_than_a_batch(iris):
    assert VAEEstimator(max_iter=2, batch_size=1000).fit(iris).n_iter_ == 2


def test_features_far_from_unit_scale_are_named(iris):
    with pytest.warns(UserWarning, match="feature 2 has a root mean square of .*StandardScaler"):
        VAEEstimator(max_iter=1).fit(iris * [1, 1, 200, 1])
    with pytest.warns(UserWarning, match="feature . has a root mean square"):
        VAEEstimator(max_iter=1).fit(iris * 1e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"likelihood": "poisson"}, 'likelihood should be "gaussian" or "bernoulli"'),
        ({"likelihood": "bernoulli"}, r"expects X in \[0, 1\], got .*MinMaxScaler"),
        ({"contamination": 0.6}, "contamination should lie in"),
        ({"contamination": 0}, "contamination should lie in"),
        ({"image_shape": (8, 8)}, r"\(8, 8\) has 64 values, but X has 4 features"),
        ({"n_components": 0}, "n_components should be an integer of at least 1"),
        ({"n_components": 1.5}, "n_components should be an integer of at least 1"),
        ({"max_iter": 0}, "^max_iter should be an integer of at least 1"),
        ({"batch_size": 0}, "^batch_size should be an integer of at least 1"),
        ({"learning_rate": -1}, "^learning_rate should be a positive number, got -1"),
    ],
)
def test_bad_arguments_are_named_when_they_are_used(options, message, iris):
    model = VAEEstimator(**options)
    with pytest.raises(mv.MiniVAEError, match=message):
        model.fit(iris)


@pytest.mark.parametrize("options", [{"max_iter": 0}, {"beta": -1}, {"learning_rate": 1e300}], ids=str)
def test_a_fit_that_fails_leaves_no_model_and_keeps_the_one_before(options, fitted, iris):
    """Of the three one is refused at once, one by the model, and one in the training, whose losses overflow."""
    model = VAEEstimator(**options)
    with pytest.raises(mv.MiniVAEError):
        model.fit(iris)
    for method in model.transform, model.predict, model.inverse_transform:
        with pytest.raises(NotFittedError):
            method(iris[:, :2])
    refitted = copy.deepcopy(fitted).set_params(**options)
    with pytest.raises(mv.MiniVAEError):
        refitted.fit(iris[:, :2])
    assert refitted.n_iter_ == 100 and refitted.n_features_in_ == 4
    np.testing.assert_array_equal(refitted.decision_function(iris), fitted.decision_function(iris))


def test_grey_values_beyond_the_training_range_are_named():
    x = load_digits().data[:100] / 16
    model = VAEEstimator(likelihood="bernoulli", max_iter=1).fit(x)
    with pytest.raises(mv.MiniVAEError, match="clip=True"):
        model.score_samples(x * 1.01)


def test_minivae_does_without_scikit_learn():
    """Importing minivae does not import it, and minivae.sklearn says how to get it where it is missing."""
    code = (
        "import sys, minivae; assert 'sklearn' not in sys.modules; sys.modules['sklearn'] = None\n"
        "try: import minivae.sklearn\n"
        "except ImportError as error: print(error)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(mv.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert 'pip install "minivae[sklearn]"' in process.stdout
