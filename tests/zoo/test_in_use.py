"""Models of the zoo in all that users do with a model: train, resume, save, copy, evaluate, diagnose, look at."""

import copy
import json

import numpy as np
import pytest
from conftest import MAKE_BACKEND

import minivae as mv
from minivae.storage import checkpoint
from minivae.views.diagnose import _told_apart
from minivae.views.explore import explore
from minivae.views.one_step import one_step
from minivae.views.plots import kl_per_dimension
from minivae.views.probe import Probe
from minivae.views.summary import rows


def plain(prior=None, **options):
    encoder, decoder = [mv.GatedDense(12, 6), mv.Dense(6, 6)], [mv.Residual([mv.Dense(3, 3)]), mv.Dense(3, 12)]
    return mv.VAE(encoder, decoder, prior=prior, seed=2, **options)


def flow_prior():
    return mv.FlowPrior([mv.InverseAutoregressive(3, 4), mv.InverseAutoregressive(3, 4, reverse=True)])


def discrete(posterior, **options):
    encoder, decoder = [mv.Dense(12, 9), mv.Tanh(), mv.Dense(9, 6)], [mv.Dense(6, 9), mv.Tanh(), mv.Dense(9, 12)]
    return mv.VAE(encoder, decoder, posterior=posterior, seed=2, **options)


MODELS = {
    "mixture": lambda **options: plain(mv.MixturePrior(3, 4), **options),
    "VampPrior": lambda **options: plain(mv.VampPrior(3, 12, 5), **options),
    "flow": lambda **options: plain(flow_prior(), **options),
    "two layers": lambda **options: mv.two_layers(12, (2, 3), 5, seed=2, **options),
    "implicit": lambda **options: mv.avb(12, 3, 8, draws=8, prior=mv.MixturePrior(3, 4), seed=2, **options),
    "two layers, VampPrior": lambda **options: mv.two_layers(12, (2, 3), 5, mv.VampPrior(3, 12, 4), seed=2, **options),
    "MMD": lambda **options: plain(regulariser=mv.MMD(20.0), **options),
    "BetaTC": lambda **options: plain(regulariser=mv.BetaTC(40, 3.0), **options),
    "Gumbel-softmax": lambda **options: discrete(mv.GumbelSoftmax(3), **options),
    "codebook": lambda **options: discrete(mv.VectorQuantized(4, 2), **options),
}


def patterns(n=60):
    """Rows that show one of four patterns, with some noise."""
    rng = np.random.default_rng(0)
    of = rng.integers(0, 2, (4, 12))[rng.integers(0, 4, n)]
    return np.where(rng.random(of.shape) < 0.03, 1 - of, of).astype(np.float32)


X = patterns()
every_model = pytest.mark.parametrize("name", MODELS)


def fit(vae, epochs=3, **options):
    rate = 2e-3 if vae.posterior.has_own_loss else 1e-2  # a discriminator has to follow
    return mv.fit(vae, X[:40], X[40:], epochs=epochs, batch_size=16, optimizer=mv.Adam(rate), progress=False, **options)


@every_model
def test_training_lowers_the_loss_and_resumes_bit_for_bit(name, tmp_path):
    vae, again = MODELS[name](), MODELS[name]()
    history = fit(vae, 6)
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    fit(again, 2, checkpoint=tmp_path / "a.safetensors")
    resumed = MODELS[name]()
    fit(resumed, 6, checkpoint=mv.Checkpoint(tmp_path / "a.safetensors", resume=True))
    np.testing.assert_array_equal(resumed.parameters.flat, vae.parameters.flat)


@every_model
def test_saved_loaded_and_copied_it_is_the_same(name, tmp_path):
    vae = MODELS[name]()
    fit(vae)
    vae.save(tmp_path / "model.npz")
    for again in (mv.load(tmp_path / "model.npz"), copy.deepcopy(vae)):
        assert repr(again.prior) == repr(vae.prior) and repr(again.posterior) == repr(vae.posterior)
        assert again.evaluate(X, samples=2) == vae.evaluate(X, samples=2)
        np.testing.assert_array_equal(again.sample(5, seed=1), vae.sample(5, seed=1))
    state = mv.to_torch_state_dict(vae)
    again = MODELS[name]()
    mv.from_torch_state_dict(again, state)
    np.testing.assert_array_equal(again.parameters.flat, vae.parameters.flat)


@every_model
@pytest.mark.parametrize("where", ["numba", "fake"])
def test_every_backend_answers_alike(name, where):
    ours, theirs = MODELS[name](dtype="float64"), MODELS[name](dtype="float64", backend=MAKE_BACKEND[where]())
    assert theirs.log_likelihood(X, 50) == pytest.approx(ours.log_likelihood(X, 50), rel=1e-9)
    assert theirs.evaluate(X, 3).kl == pytest.approx(ours.evaluate(X, 3).kl, rel=1e-9)
    for method in ("encode", "reconstruct"):
        np.testing.assert_allclose(getattr(theirs, method)(X), getattr(ours, method)(X), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(theirs.sample(7, seed=3), ours.sample(7, seed=3), rtol=1e-6)
    np.testing.assert_array_equal(theirs.active_units(X), ours.active_units(X))


@every_model
def test_the_batch_size_changes_no_result(name, monkeypatch):
    vae = MODELS[name](dtype="float64")
    fit(vae, 20)
    before, log_px = vae.evaluate(X, samples=3).loss, vae.log_likelihood(X, samples=300)
    vae.inference_rows = 7
    assert vae.evaluate(X, samples=3).loss == pytest.approx(before, rel=1e-12)
    assert vae.log_likelihood(X, samples=300) == pytest.approx(log_px, abs=0.1)  # of other draws
    exact = isinstance(vae.posterior, mv.VectorQuantized)  # there is one z for each x
    assert log_px == pytest.approx(-before) if exact else log_px > -before


@every_model
def test_diagnose_and_pages(name):
    vae = MODELS[name]()
    history = fit(vae, 60)
    report = str(mv.diagnose(vae, np.tile(X, (2, 1)), history=history))
    assert "codes, prior" in report and "not-finite" not in report
    standard = type(vae.prior) is mv.StandardNormal
    assert ("KL of each" in report) == standard
    assert "<html" in explore(vae, X, image_shape=(3, 4))
    assert "<html" in one_step(vae, X[0], image_shape=(3, 4))
    if standard:
        kl_per_dimension(vae, X)
        return
    with pytest.raises(mv.MiniVAEError, match="the standard normal prior, whose KL is a sum"):
        kl_per_dimension(vae, X)
    *_, row = rows(vae)
    assert (row.part, row.layer, row.output) == ("prior", type(vae.prior).__name__, (vae.latent_dim,))
    assert row.parameters == sum(view.size for key, view in vae.parameters.items() if key.startswith("prior."))
    assert f"prior {row.parameters:,}" in repr(vae) or not row.parameters


def test_codes_are_compared_with_the_models_own_prior():
    """Codes far from N(0, I), where the prior is as well: nothing is wrong with that."""
    z = 8 + np.random.default_rng(1).standard_normal((2000, 3))
    for mu, share in ((8.0, 0.5), (-8.0, 1.0)):
        vae = plain(mv.MixturePrior(3, 1), dtype="float64")
        vae.parameters["prior.mu"][...] = mu
        prior = Probe(vae, 0).prior(2000)
        assert prior.shape == z.shape and prior.mean() == pytest.approx(mu, abs=0.1)
        assert _told_apart(z, prior, False) == pytest.approx(share, abs=0.05)
    assert Probe(plain(), 0).prior(5).tolist() == Probe(plain(), 0).noise(5, 1).tolist()


def test_the_standard_normal_leaves_no_trace_in_a_file(tmp_path):
    """So that files are as they were before there were other priors, and older versions read them."""
    vae, named = plain(), plain(mv.StandardNormal(3))
    assert "prior" not in checkpoint.describe_model(vae)
    assert json.dumps(checkpoint.describe_model(vae)) == json.dumps(checkpoint.describe_model(named))
    named.save(tmp_path / "model.npz")
    assert type(mv.load(tmp_path / "model.npz").prior) is mv.StandardNormal
    assert not any(key.startswith("prior") for key in vae.parameters)
    z = np.random.default_rng([5, 3]).standard_normal((4, 3), np.float32)  # keyed as ever: (seed, SAMPLING)
    np.testing.assert_array_equal(vae.sample(4, seed=5), vae.decode(z))


def test_many_components_take_no_more_memory():
    """Outside training a batch has so few rows that its (rows, K, D) differences fit."""
    few, many = (mv.mlp(12, latent=3, prior=mv.VampPrior(3, 12, K)) for K in (5, 100_000))
    assert few.inference_rows == 1000 and many.inference_rows == (1 << 23) // 300_000
    two = mv.two_layers(12, (2, 3), 5, mv.MixturePrior(3, 100_000))
    assert two.inference_rows == (1 << 23) // 500_000


def test_builders_take_a_prior():
    vae = mv.mlp(12, latent=3, hidden=(5,), prior=mv.VampPrior(3, 12, 4))
    assert vae.parameters["prior.u"].shape == (4, 12)
