"""`VAEEstimator`: a VAE that scikit-learn knows as a transformer, as a density, and as a detector of outliers.

    make_pipeline(StandardScaler(), VAEEstimator(n_components=2)).fit_transform(X)

It needs scikit-learn: pip install "minivae[sklearn]". Nothing else in minivae imports this module.
"""

import math
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .engine.backend import NumpyBackend

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, OutlierMixin, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_array, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError('minivae.sklearn needs scikit-learn 1.6 or newer: pip install "minivae[sklearn]"') from error

from .arguments import check_unit, integer, integers, is_integer, number, one_of, positive
from .errors import MiniVAEError, shown
from .model.builders import convnet, mlp
from .model.inference import finite, unwarned
from .model.likelihoods import Bernoulli, SharedVarianceGaussian
from .model.optimizers import Adam
from .model.parameters import joined, within
from .randomness import LIKELIHOOD_NOISE, SAMPLING, generator
from .training import History, fit

LIKELIHOODS = {"gaussian": SharedVarianceGaussian, "bernoulli": Bernoulli}
DRAWS = 50  # of z for each example in `score_samples`


class VAEEstimator(OutlierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A variational autoencoder as a scikit-learn estimator.

    It is trained on X alone. `transform` gives the means of q(z given x); `score_samples` estimates log p(x), which
    makes it a density (`score`, `sample`) and a detector of outliers (`decision_function`, `predict`).

    n_components       : D, the dimensions of z
    hidden_layer_sizes : the widths of the encoder's hidden layers; the decoder's are those in reverse. With
                         `image_shape` the channels of its convolutions. None takes (64,), or (16, 32)
    image_shape        : None for dense layers, see `minivae.mlp`; (height, width) or (height, width, colours) for
                         convolutions, see `minivae.convnet`, where a row of X is an image, flattened
    likelihood         : p(x given z), "gaussian", whose one variance is learned, or "bernoulli", for X in [0, 1].
                         A Gaussian wants features of about unit scale: put StandardScaler() before it in a Pipeline
    beta               : the weight of the KL in training
    batch_size         : rows in a step of training, at most
    learning_rate      : of Adam
    max_iter           : epochs
    contamination      : the share of outliers in the training data, in (0, 0.5], from which `offset_` follows
    backend            : "numpy", "numba", "cupy" or "auto", see `get_backend`
    random_state       : keys initial weights, shuffling and noise; an integer makes the result reproducible
    verbose            : whether to print a line for each epoch

    The model computes in X's dtype: float32 takes half the time, and what is neither float32 nor float64 becomes
    float64. After `fit` it has `vae_`, the minivae.VAE; `history_`, the losses of each epoch; `n_iter_`; `offset_`;
    and scikit-learn's `n_features_in_` and `feature_names_in_`.
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        hidden_layer_sizes: Sequence[int] | None = None,
        image_shape: Sequence[int] | None = None,
        likelihood: str = "gaussian",
        beta: float = 1.0,
        batch_size: int = 32,
        learning_rate: float = 3e-3,
        max_iter: int = 100,
        contamination: float = 0.1,
        backend: str | NumpyBackend = "numpy",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.image_shape = image_shape
        self.likelihood = likelihood
        self.beta = beta
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.contamination = contamination
        self.backend = backend
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    # ------------------------------------------------------------------------------------------ training

    def fit(self, X: ArrayLike, y: Any = None) -> "VAEEstimator":
        """Train a new model on X (N, n_features) for `max_iter` epochs; y is ignored."""
        self._check_arguments()
        with self._as_it_was_after_errors():
            X = self._checked(X, reset=True, ensure_min_samples=2)
            return self._train(self._new_model(X), History(), X, self.max_iter)

    def partial_fit(self, X: ArrayLike, y: Any = None) -> "VAEEstimator":
        """Train on X (N, n_features) for one more epoch; the first call makes the model.

        For tables that don't fit into memory, in parts of thousands of rows: Adam starts afresh on each, and `offset_`
        is that of the last. Order and noise are others in each call.
        """
        first = not hasattr(self, "vae_")
        self._check_arguments()
        with self._as_it_was_after_errors():
            X = self._checked(X, reset=first, ensure_min_samples=2)
            vae, history = (self._new_model(X), History()) if first else (self.vae_, self.history_)
            return self._train(vae, history, X, 1)

    @contextmanager
    def _as_it_was_after_errors(self):
        """A training that fails leaves no model that passes for trained, and keeps one that was trained before."""
        before = vars(self).copy()
        try:
            yield
        except Exception:
            self.__dict__ = before
            raise

    def _check_arguments(self):
        """Those that the model does not check, or that `fit` and Adam call otherwise."""
        one_of("likelihood", self.likelihood, tuple(LIKELIHOODS))
        if not 0 < number(self.contamination) <= 0.5:
            raise MiniVAEError(f"contamination should lie in (0, 0.5], got {shown(self.contamination)}")
        for name in ("n_components", "batch_size", "max_iter"):
            integer(name, getattr(self, name))
        positive("learning_rate", self.learning_rate)
        if not isinstance(self.verbose, (bool, int, np.bool_, np.integer)):
            raise MiniVAEError(f"verbose should be True, False or a number, got {shown(self.verbose)}")

    def _new_model(self, X):
        image_shape = None if self.image_shape is None else integers("image_shape", self.image_shape)
        n_values = X.shape[1] if image_shape is None else math.prod(image_shape)
        if n_values != X.shape[1]:
            raise MiniVAEError(f"image_shape {self.image_shape} has {n_values} values, but X has {X.shape[1]} features")
        if self.likelihood == "gaussian":
            warn_of_scale(X, getattr(self, "feature_names_in_", None))
        make, size, hidden = mlp, n_values, self.hidden_layer_sizes
        if image_shape is not None:
            make, size = convnet, image_shape
        if hidden is None:
            hidden = (64,) if image_shape is None else (16, 32)
        return make(
            size,
            self.n_components,
            integers("hidden_layer_sizes", [hidden] if is_integer(hidden) else hidden),
            likelihood=LIKELIHOODS[self.likelihood](),
            beta=self.beta,
            backend=self.backend,
            dtype=X.dtype,
            seed=check_random_state(self.random_state).randint(np.iinfo(np.int32).max),
        )

    def _train(self, vae, history, X, epochs):
        last = vae.history
        try:
            fit(
                vae,
                X,
                epochs=epochs,
                batch_size=self.batch_size,
                optimizer=Adam(self.learning_rate),
                verbose=bool(self.verbose),
                progress=None if self.verbose else False,
            )
        except KeyboardInterrupt:  # the model has the weights of that step: what goes with them is to fit it
            self._take(vae, history, X, last)
            raise
        self._take(vae, history, X, last)
        return self

    def _take(self, vae, history, X, last):
        """A trained model, whose training before had the History `last`: add its epochs to all, and find the offset."""
        if vae.history is not last:
            before = len(history)
            history += [row | {"epoch": before + row["epoch"]} for row in vae.history]
        self.vae_, self.history_ = vae, history
        self.offset_ = np.quantile(self._log_p(X), self.contamination)

    @property
    def n_iter_(self) -> int:
        """Epochs of training so far."""
        return len(self.history_)

    # ---------------------------------------------------------------------------------------- as a transformer

    def transform(self, X: ArrayLike) -> np.ndarray:
        """The means of q(z given x), (N, n_components)."""
        check_is_fitted(self)
        return self.vae_.encode(self._checked(X))[0]

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """The means of p(x given z), (N, n_features), for z (N, n_components)."""
        check_is_fitted(self)
        return self.vae_.decode(check_array(X, dtype=self.vae_.dtype))

    @property
    def _n_features_out(self):
        return self.vae_.latent_dim

    # ------------------------------------------------------------------------------------------- as a density

    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """An importance-sampling estimate of log p(x) for each row of X, (N,), in nats; below it on average.

            log p(x) ~ log(1/L sum_l p(x given z_l) p(z_l) / q(z_l given x)),   z_l = mu + std eps_l,   L = 50

        The noise eps_l is fixed and the same for all rows: the score of a row depends on the row alone, and what rows
        differ by is not noise. With likelihood="bernoulli" it is a log-probability only where X holds nothing but 0
        and 1. Source: Burda, Grosse & Salakhutdinov 2016, section 5.
        """
        check_is_fitted(self)
        return self._log_p(self._checked(X))

    @unwarned
    def _log_p(self, X):
        vae, parts = self.vae_, []
        rows = max(1, vae.inference_rows // DRAWS)
        eps = generator(0, LIKELIHOOD_NOISE).standard_normal((DRAWS, 1, vae.latent_dim))
        eps = vae.backend.asarray(np.repeat(eps, rows, axis=1), vae.dtype)
        log_weights = vae._repeated(vae._log_weights, joined({"of_prior": vae._of_prior()}))
        for start in range(0, len(X), rows):
            x = vae.backend.asarray(X[start : start + rows], vae.dtype)
            log_w = log_weights(x=x, eps=eps[:, : len(x)]).astype(np.float64)
            parts.append(np.logaddexp.reduce(log_w, axis=0) - math.log(DRAWS))
        return finite("log p(x)", np.concatenate(parts))

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """The mean of `score_samples`: what GridSearchCV looks for the largest of; y is ignored."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None) -> np.ndarray:
        """Draws from p(x), (n_samples, n_features): z from the prior, then x from p(x given z).

        For their means, without the noise of p(x given z), as one wants of images, hand `inverse_transform` numbers
        drawn from N(0, 1).
        """
        check_is_fitted(self)
        vae = self.vae_
        rng = generator(check_random_state(random_state).randint(np.iinfo(np.int32).max), SAMPLING)
        n_samples = integer("sample: n_samples", n_samples)
        z = vae.backend.asarray(rng.standard_normal((n_samples, vae.latent_dim)), vae.dtype)
        params = {name: vae.backend.to_host(value) for name, value in within(vae._params, "likelihood").items()}
        return vae.likelihood.sample(params, vae.backend.to_host(vae._decode(vae._params, z, None)), rng)

    # ------------------------------------------------------------------------------- as a detector of outliers

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """score_samples(X) - offset_, (N,): negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> np.ndarray:
        """-1 for outliers, of which the training data have the share `contamination`, and 1 for the others, (N,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    # ----------------------------------------------------------------------------------------------- its pieces

    def _checked(self, X, reset=False, **options):
        """X as scikit-learn checks it, in float32 or float64; sets n_features_in_ and feature_names_in_ or looks."""
        X = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], order="C", **options)
        if self.likelihood == "bernoulli":
            cure = 'divide pixels by 255, put MinMaxScaler(clip=True) first in a Pipeline, or use likelihood="gaussian"'
            check_unit('likelihood="bernoulli" expects X', X, cure)
        return X


def warn_of_scale(X, names):
    """Warn where no Gaussian VAE will learn much, since features are far from unit scale; names : None, or (X,)."""
    scale = np.sqrt(np.mean(X**2, axis=0))
    worst = int(np.argmax(scale))
    if not 0.01 <= scale[worst] <= 10:
        name = f"feature {worst}" if names is None else f"feature {names[worst]!r}"
        warnings.warn(
            f"{name} has a root mean square of {scale[worst]:.3g}, but a Gaussian VAE learns from features of about "
            "unit scale: put StandardScaler() before it, make_pipeline(StandardScaler(), VAEEstimator())",
            stacklevel=4,
        )
