"""Flows: their log-determinants are those of the dense Jacobian, their densities integrate to one."""

import fakegpu
import numpy as np
import pytest
import scipy.stats

import minivae as mv
from minivae.flows import autoregressive_masks
from minivae.parameters import allocate
from minivae.training import Trainer

FLOWS = {
    "planar": lambda: mv.Planar(4),
    "IAF": lambda: mv.InverseAutoregressive(4, 9),
    "IAF, reversed": lambda: mv.InverseAutoregressive(4, 9, reverse=True),
    "IAF, context": lambda: mv.InverseAutoregressive(4, 9, context=3),
    "IAF, one dimension": lambda: mv.InverseAutoregressive(1, 3),
}


def attached(module, seed=0, scale=0.5):
    """The module in float64 with random parameters."""
    parameters, _ = allocate({"module": module}, mv.get_backend("numpy"), "float64", seed)
    rng = np.random.default_rng(seed)
    parameters.load({key: scale * rng.standard_normal(view.shape) for key, view in parameters.items()})
    return module


def jacobian(function, z, step=1e-6):
    """d function / d z at one point (D,), by central differences."""
    columns = [(function(z + step * e) - function(z - step * e)) / (2 * step) for e in np.eye(len(z))]
    return np.stack(columns, axis=1)


def at(flow, context):
    return lambda z: flow.forward(z[None], context)[0][0].copy()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS)
def test_log_det_is_that_of_the_dense_jacobian(make, seed):
    flow = attached(make(), seed)
    rng = np.random.default_rng(seed)
    z, context = rng.standard_normal((6, flow.dim)), rng.standard_normal((6, flow.context))
    log_det = flow.forward(z, context)[1][:, 0].copy()
    for i in range(6):
        sign, expected = np.linalg.slogdet(jacobian(at(flow, context[i : i + 1]), z[i]))
        assert sign == 1
        assert log_det[i] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("reverse", [False, True])
def test_an_autoregressive_step_sees_only_what_comes_before_and_all_of_it(reverse):
    flow = attached(mv.InverseAutoregressive(6, 40, reverse=reverse))
    seen = np.any([jacobian(at(flow, None), z) != 0 for z in np.random.default_rng(0).standard_normal((20, 6))], axis=0)
    expected = np.tril(np.ones((6, 6), bool))
    np.testing.assert_array_equal(seen, expected.T if reverse else expected)


def test_masks_of_a_network_with_three_inputs():
    first, second = autoregressive_masks(3, 4, context=1)
    np.testing.assert_array_equal(first, [[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(second[:, :3], [[0, 1, 1], [0, 0, 1], [0, 1, 1], [0, 0, 1]])
    np.testing.assert_array_equal(second[:, :3], second[:, 3:])


def test_at_first_a_planar_step_bends_space_by_about_one():
    """u and w start with a length of about 1, in any dimension, and the plane through the origin."""
    initial = mv.Planar(2000).initial(np.random.default_rng(0))
    assert np.linalg.norm(initial["u"]) == pytest.approx(1, abs=0.1)
    assert np.linalg.norm(initial["w"]) == pytest.approx(1, abs=0.1)
    assert initial["b"] == 0


def test_a_planar_step_is_invertible_whatever_its_parameters():
    z = np.random.default_rng(0).standard_normal((500, 3))
    for seed in range(20):
        _, log_det = attached(mv.Planar(3), seed, scale=5.0).forward(z)
        assert np.isfinite(log_det).all()


def test_autoregressive_gates_do_not_overflow():
    flow = attached(mv.InverseAutoregressive(3, 5))
    flow.network.layers[2].b[:] = [0, 0, 0, -1e4, 1e4, 0]
    z, log_det = flow.forward(np.ones((2, 3)))
    assert np.isfinite(z).all() and log_det[0, 0] == pytest.approx(-1e4, rel=1e-2)
    assert all(np.isfinite(each).all() for each in flow.backward(np.ones((2, 3)), np.ones((2, 1)))[:1])


@pytest.mark.parametrize(
    "flows",
    [[mv.Planar(2), mv.Planar(2)], [mv.InverseAutoregressive(2, 8), mv.InverseAutoregressive(2, 8, reverse=True)]],
    ids=["planar", "IAF"],
)
def test_log_q_is_the_density_of_the_samples(flows):
    """Counted in a square: the share of samples there against the mean of uniform weights exp(log q)."""
    q = attached(mv.FlowPosterior(flows), seed=3, scale=0.4)
    eps = np.random.default_rng(0).standard_normal((400_000, 1, 2))
    z = q.sample(np.array([[0.3, -0.2, 0.2, -0.4]]), eps)[:, 0]
    log_q = q.log_prob()[:, 0]
    low, high = np.quantile(z, 0.3, axis=0), np.quantile(z, 0.7, axis=0)
    inside = ((z > low) & (z < high)).all(axis=1)
    area = np.mean(inside / np.exp(log_q))  # E_q[1(inside) / q] is the area of the square
    error = np.std(inside / np.exp(log_q)) / np.sqrt(len(z))
    assert inside.sum() > 10_000
    assert area == pytest.approx(np.prod(high - low), abs=5 * error)


def test_the_base_alone_is_a_diagonal_gaussian():
    """A gate that is all open changes nothing."""
    flow = mv.InverseAutoregressive(2, 4)
    q = attached(mv.FlowPosterior([flow]))
    flow.network.layers[2].b[2:] = 100
    stats, eps = np.array([[1.0, -2.0, 0.5, -0.5]]), np.random.default_rng(0).standard_normal((5, 1, 2))
    z = q.sample(stats, eps)[:, 0]
    np.testing.assert_allclose(z, [1, -2] + np.exp([0.25, -0.25]) * eps[:, 0])
    np.testing.assert_allclose(q.log_prob()[:, 0], scipy.stats.norm.logpdf(z, [1, -2], np.exp([0.25, -0.25])).sum(1))


def test_a_chain_on_a_chain_is_a_longer_chain():
    stats, eps = np.array([[1.0, -2.0, 0.5, -0.5]]), np.random.default_rng(0).standard_normal((5, 1, 2))
    results = []
    for longer in (False, True):
        flows = [mv.Planar(2), mv.Planar(2)]
        q = mv.FlowPosterior(flows) if longer else mv.FlowPosterior(flows[1:], base=mv.FlowPosterior(flows[:1]))
        attached(q)
        results.append((q.sample(stats, eps), q.log_prob(), q.backward(np.ones((5, 1, 2)), dlog_q=np.ones((5, 1)))))
    for nested, chain in zip(*results, strict=True):
        np.testing.assert_allclose(nested, chain)


def test_the_gradient_of_the_samples_alone_is_not_that_of_the_last_density():
    q, dz = attached(mv.FlowPosterior([mv.Planar(2)])), np.ones((5, 1, 2))
    q.sample(np.array([[1.0, -2.0, 0.5, -0.5]]), np.random.default_rng(0).standard_normal((5, 1, 2)))
    q.log_prob()
    both = q.backward(dz, dlog_q=np.ones((5, 1))).copy()
    alone, density = q.backward(dz).copy(), q.backward(0 * dz, dlog_q=np.ones((5, 1)))
    np.testing.assert_allclose(both, alone + density)


def flow_vae(**options):
    flows = [mv.InverseAutoregressive(4, 6, context=3), mv.Planar(4), mv.InverseAutoregressive(4, 6, reverse=True)]
    encoder = [mv.Dense(12, 10), mv.Tanh(), mv.Dense(10, 2 * 4 + 3)]
    return mv.VAE(encoder, [mv.Dense(4, 12)], posterior=mv.FlowPosterior(flows), **options)


def test_parameters_are_named_after_their_place_in_the_chain():
    names = set(flow_vae().parameters)
    assert {"posterior.0.0.W", "posterior.0.2.b", "posterior.1.u", "posterior.1.w", "posterior.2.0.W"} <= names


def test_a_step_allocates_and_transfers_nothing():
    backend = fakegpu.backend()
    vae, optimizer = flow_vae(backend=backend), mv.RMSprop()
    optimizer.attach(vae.parameters, vae.gradients)
    x = np.random.default_rng(0).random((20, 12), np.float32)
    step = Trainer(vae, optimizer, x, 10, 3, 0).parts[0][0]
    step.refill(np.random.default_rng(0), 2)
    step.run()
    with backend.xp.count() as n:
        step.run()
    assert (n.allocations, n.transfers, n.synchronisations, n.copies) == (0, 0, 0, 0)


def test_masked_weights_stay_zero_in_training():
    vae = flow_vae()
    mv.fit(vae, np.random.default_rng(0).random((40, 12)), epochs=2, batch_size=10, optimizer=mv.Adam(0.1))
    first, _ = autoregressive_masks(4, 6, 3)
    W = vae.parameters["posterior.0.0.W"]
    assert (W[first] != 0).all() and (vae.gradients["posterior.0.0.W"][~first] == 0).all()


def test_the_model_can_be_used_and_saved(tmp_path):
    x = np.random.default_rng(0).random((9, 12))
    vae = flow_vae()
    vae.save(tmp_path / "flow.safetensors")
    again = mv.load(tmp_path / "flow.safetensors")
    assert again.evaluate(x, samples=3) == vae.evaluate(x, samples=3)
    assert vae.log_likelihood(x, samples=50) > -vae.evaluate(x, samples=50).loss
    assert vae.encode(x)[0].shape == (9, 4) and vae.reconstruct(x).shape == (9, 12)


def test_training_with_a_flow_improves_the_bound():
    x = (np.random.default_rng(0).random((200, 12)) < 0.3).astype(np.float32)
    vae = flow_vae()
    history = mv.fit(vae, x, epochs=8, batch_size=20, optimizer=mv.RMSprop(1e-2))
    assert history["train_loss"][-1] < history["train_loss"][0] - 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: mv.Planar(0), "Planar: dim should be an integer of at least 1, got 0"),
        (lambda: mv.InverseAutoregressive(3, 2.5), "hidden should be an integer of at least 1, got 2.5"),
        (lambda: mv.InverseAutoregressive(3, 2, context=-1), "context should be an integer of at least 0, got -1"),
        (lambda: mv.FlowPosterior([]), "flows should be a list of flows"),
        (lambda: mv.FlowPosterior([mv.Tanh()]), "flows should be a list of flows"),
        (lambda: mv.FlowPosterior([mv.Planar(2), mv.Planar(3)]), r"the same dim, got \[2, 3\]"),
        (
            lambda: mv.VAE([mv.Dense(6, 8)], [mv.Dense(4, 6)], posterior=mv.FlowPosterior([mv.Planar(3)])),
            r"need \(B, 6\) from the encoder, got \(B, 8\)",
        ),
    ],
)
def test_bad_flows_are_refused(make, message):
    with pytest.raises(mv.MiniVAEError, match=message):
        make()
