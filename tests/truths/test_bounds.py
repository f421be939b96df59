"""Bounds on log p(x): where they lie, against a model whose log p(x) is known in closed form."""

import functools
import tracemalloc

import numpy as np
import pytest
import scipy.stats
import tqdm

import minivae as mv

STD = 0.6


def linear_gaussian(bound=None, exact=False):
    """A VAE without hidden layers: p(x) = N(b, W'W + STD^2 I). `exact` makes its encoder the true posterior."""
    vae = mv.VAE([mv.Dense(5, 4)], [mv.Dense(2, 5)], likelihood=mv.Gaussian(STD), bound=bound, dtype="float64")
    rng = np.random.default_rng(3)
    W, b = np.linalg.qr(rng.standard_normal((5, 2)))[0].T * [[1.5], [0.7]], rng.standard_normal(5)
    # With orthogonal rows of W the posterior is diagonal: precision 1 + |w|^2 / STD^2, mean w.(x - b) / STD^2 over it.
    precision = 1 + (W**2).sum(axis=1) / STD**2
    to_mean, log_var = (W / STD**2 / precision[:, None]).T, -np.log(precision)
    error = 0.0 if exact else 0.4
    vae.parameters.load(
        {
            "encoder.0.W": np.concatenate([to_mean, np.zeros((5, 2))], axis=1),
            "encoder.0.b": np.concatenate([-b @ to_mean + error, log_var + error]),
            "decoder.0.W": W,
            "decoder.0.b": b,
        }
    )
    x = rng.standard_normal((400, 2)) @ W + b + STD * rng.standard_normal((400, 5))
    log_p = scipy.stats.multivariate_normal(b, W.T @ W + STD**2 * np.eye(5)).logpdf(x)
    return vae, x, log_p.mean()


def test_with_the_true_posterior_every_bound_is_log_p():
    """Each importance weight is then p(x), whatever z is."""
    vae, x, log_p = linear_gaussian(mv.ImportanceWeighted(), exact=True)
    for samples in (1, 7):
        assert -vae.evaluate(x, samples).loss == pytest.approx(log_p, abs=1e-9)
        assert vae.log_likelihood(x, samples) == pytest.approx(log_p, abs=1e-9)
    vae, x, log_p = linear_gaussian(mv.ELBO(), exact=True)
    assert -vae.evaluate(x, samples=500).loss == pytest.approx(log_p, abs=0.02)  # its analytic KL is a mean over z


def test_the_elbo_is_log_p_minus_the_divergence_from_the_true_posterior():
    vae, x, log_p = linear_gaussian()
    true, _, _ = linear_gaussian(exact=True)
    (mu, log_var), (true_mu, true_log_var) = vae.encode(x), true.encode(x)
    ratio = np.exp(log_var - true_log_var)
    kl = 0.5 * (ratio + (mu - true_mu) ** 2 / np.exp(true_log_var) - 1 - np.log(ratio)).sum(axis=1).mean()
    assert kl > 0.3
    assert -vae.evaluate(x, samples=2000).loss == pytest.approx(log_p - kl, abs=0.01)


def test_the_bound_rises_with_its_samples_to_log_p_and_stays_below():
    vae, x, log_p = linear_gaussian(mv.ImportanceWeighted())
    ks, repeats = [1, 2, 5, 20, 100], 8
    bounds = np.array([[-vae.evaluate(x, k, seed=seed).loss for seed in range(repeats)] for k in ks])
    mean, error = bounds.mean(axis=1), bounds.std(axis=1) / np.sqrt(repeats - 1)
    assert (np.diff(mean) > -4 * (error[1:] + error[:-1])).all()
    assert (np.diff(mean)[:3] > 0.01).all()  # at first the rise is plain
    assert (mean < log_p + 4 * error).all()
    assert log_p - mean[-1] < 0.02 < log_p - mean[0]


def test_log_likelihood_tends_to_log_p():
    vae, x, log_p = linear_gaussian()
    assert vae.log_likelihood(x, samples=2500) == pytest.approx(log_p, abs=0.003)
    assert vae.log_likelihood(x, samples=1) == pytest.approx(-linear_gaussian()[0].evaluate(x).loss, abs=0.3)


def test_log_likelihood_is_the_importance_weighted_bound():
    """However many parts the samples are taken in."""
    vae, x, _ = linear_gaussian(mv.ImportanceWeighted())
    for samples in (1, 3, 2500):
        eps = np.random.default_rng([0, 4]).standard_normal((2, samples, 2), np.float32).transpose(1, 0, 2)
        expected = -vae.loss_and_gradients(x[:2], eps).loss
        assert vae.log_likelihood(x[:2], samples) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("bound", [mv.ELBO, mv.ImportanceWeighted])
def test_log_likelihood_knows_no_beta(bound):
    """log p(x) is what the model gives x, whatever the loss that trained it weighs."""
    vae, x, log_p = linear_gaussian(bound())
    before = vae.log_likelihood(x, samples=100)
    vae.beta = 4.0
    assert vae.log_likelihood(x, samples=100) == before == pytest.approx(log_p, abs=0.05)


def test_log_likelihood_works_in_bounded_memory():
    vae = mv.VAE([mv.Dense(200, 8)], [mv.Dense(4, 200)])
    x = np.zeros((3, 200), np.uint8)

    def peak(samples):
        tracemalloc.start()
        vae.log_likelihood(x, samples)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    peak(2000)
    assert peak(80_000) < 1.1 * peak(20_000)  # both compile what their batches go through


def test_log_likelihood_shows_its_progress(capsys, monkeypatch):
    vae, x, _ = linear_gaussian()
    monkeypatch.setattr(tqdm, "tqdm", functools.partial(tqdm.tqdm, mininterval=0))
    vae.log_likelihood(x[:20], samples=600, progress=True)
    assert "| 7/20 [" in capsys.readouterr().err
    vae.log_likelihood(x[:20], samples=600, progress=False)
    assert capsys.readouterr().err == ""


def test_active_units_are_those_whose_mean_depends_on_x():
    vae, x, _ = linear_gaussian()
    assert vae.active_units(x).tolist() == [True, True]
    vae.parameters["encoder.0.W"][:, 1] = 0
    vae.parameters["encoder.0.W"][:, 0] *= 0.09 / vae.encode(x)[0][:, 0].std()
    assert vae.active_units(x).tolist() == [False, False]
    assert vae.active_units(x, threshold=0.008).tolist() == [True, False]


# -------------------------------------------------------------------------------------------------- free bits


def per_dimension_kl(vae, x):
    mu, log_var = vae.encode(x)
    return (0.5 * (mu**2 + np.exp(log_var) - log_var - 1)).mean(axis=0)


def test_free_bits_count_each_dimension_as_at_least_so_many_nats():
    plain, x, _ = linear_gaussian()
    kl = per_dimension_kl(plain, x)
    least = kl.mean()
    assert kl.min() < least < kl.max()
    free = mv.VAE([mv.Dense(5, 4)], [mv.Dense(2, 5)], mv.Gaussian(STD), 0.5, free_bits=least, dtype="float64")
    free.parameters.load(linear_gaussian()[0].parameters.to_host())
    eps = np.random.default_rng(0).standard_normal((400, 2))
    losses = free.loss_and_gradients(x, eps)
    assert losses.kl == pytest.approx(kl.sum())
    assert losses.loss == pytest.approx(losses.reconstruction + 0.5 * np.maximum(kl, least).sum())
    evaluated = free.evaluate(x)
    assert evaluated.loss == pytest.approx(evaluated.reconstruction + 0.5 * evaluated.kl)


def test_free_bits_keep_dimensions_alive():
    rng = np.random.default_rng(0)
    x = (rng.random((200, 12)) < 0.5).astype(np.float32)  # nothing to learn: the KL of a plain VAE goes to 0
    layers = lambda: ([mv.Dense(12, 8)], [mv.Dense(4, 12)])  # noqa: E731
    kls = []
    for free_bits in (0.0, 0.5):
        vae = mv.VAE(*layers(), free_bits=free_bits)
        mv.fit(vae, x, epochs=40, batch_size=20, optimizer=mv.Adam(2e-2))
        kls.append(per_dimension_kl(vae, x))
    assert (kls[0] < 0.25).all() and (kls[1] > 0.35).all()


def test_free_bits_need_the_analytic_kl():
    with pytest.raises(mv.MiniVAEError, match="free_bits needs the analytic KL"):
        mv.VAE([mv.Dense(5, 4)], [mv.Dense(2, 5)], bound=mv.ImportanceWeighted(), free_bits=0.1)
    with pytest.raises(mv.MiniVAEError, match="free_bits should be a finite number of at least 0, got -1"):
        mv.VAE([mv.Dense(5, 4)], [mv.Dense(2, 5)], free_bits=-1)
