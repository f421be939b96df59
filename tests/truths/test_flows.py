"""Flows: their log-determinants are those of the dense Jacobian, their densities integrate to one."""

import numpy as np
import pytest
import scipy.stats
from parts import params_of

import minivae as mv
from minivae.model.flows import autoregressive_masks, gated_step, planar, planar_direction
from minivae.storage import checkpoint

FLOWS = {
    "planar": lambda: mv.Planar(4),
    "IAF": lambda: mv.InverseAutoregressive(4, 9),
    "IAF, reversed": lambda: mv.InverseAutoregressive(4, 9, reverse=True),
    "IAF, context": lambda: mv.InverseAutoregressive(4, 9, context=3),
    "IAF, one dimension": lambda: mv.InverseAutoregressive(1, 3),
    "IAF, one dimension, context": lambda: mv.InverseAutoregressive(1, 3, context=2),
    "IAF, few units": lambda: mv.InverseAutoregressive(5, 2, context=1),
    "IAF of version 0.1": lambda: mv.InverseAutoregressive(4, 2, context=3, masks="0.1"),
}


def jacobian(function, z, step=1e-6):
    """d function / d z at one point (D,), by central differences."""
    columns = [(function(z + step * e) - function(z - step * e)) / (2 * step) for e in np.eye(len(z))]
    return np.stack(columns, axis=1)


def at(flow, params, context):
    return lambda z: flow.forward(params, z[None], context)[0][0][0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("make", FLOWS.values(), ids=FLOWS)
def test_log_det_is_that_of_the_dense_jacobian(make, seed):
    flow, rng = make(), np.random.default_rng(seed)
    params = params_of(flow, seed, scale=0.5)
    z, context = rng.standard_normal((6, flow.dim)), rng.standard_normal((6, flow.context))
    (_, log_det), _ = flow.forward(params, z, context)
    for i in range(6):
        sign, expected = np.linalg.slogdet(jacobian(at(flow, params, context[i : i + 1]), z[i]))
        assert sign == 1
        assert log_det[i, 0] == pytest.approx(expected, abs=1e-7)


def test_the_functions_log_determinants_are_those_of_their_jacobians():
    rng = np.random.default_rng(0)
    z, m, s, u, w, b = *rng.standard_normal((3, 1, 3)), *rng.standard_normal((2, 1, 3)), np.full((1, 1), 0.3)
    (v, c), _ = planar_direction(u, w)
    (_, log_det), _ = planar(z, w, b, v, c)
    sign, expected = np.linalg.slogdet(jacobian(lambda z: planar(z[None], w, b, v, c)[0][0][0], z[0]))
    assert sign == 1 and log_det[0, 0] == pytest.approx(expected, abs=1e-7)
    (z_out, log_det), _ = gated_step(z, m, s)
    gate = 1 / (1 + np.exp(-s))
    np.testing.assert_allclose(z_out, gate * z + (1 - gate) * m)
    assert log_det[0, 0] == pytest.approx(np.log(gate).sum())


def test_the_planar_direction_is_moved_along_w_until_its_product_is_above_minus_one():
    for scale in (0.1, 1, 30):
        u, w = scale * np.random.default_rng(int(scale)).standard_normal((2, 1, 3))
        (v, c), _ = planar_direction(u, w)
        np.testing.assert_allclose(c, (v * w).sum(keepdims=True), atol=1e-9 * scale**2)
        np.testing.assert_allclose(c, np.logaddexp(0, (u * w).sum(keepdims=True)) - 1)
        moved = v - u
        np.testing.assert_allclose(moved, (moved * w).sum() / (w**2).sum() * w, atol=1e-12 * scale)


@pytest.mark.parametrize("reverse", [False, True])
def test_an_autoregressive_step_sees_only_what_comes_before_and_all_of_it(reverse):
    flow = mv.InverseAutoregressive(6, 40, reverse=reverse)
    params, points = params_of(flow, scale=0.5), np.random.default_rng(0).standard_normal((20, 6))
    seen = np.any([jacobian(at(flow, params, None), z) != 0 for z in points], axis=0)
    expected = np.tril(np.ones((6, 6), bool))
    np.testing.assert_array_equal(seen, expected.T if reverse else expected)


def test_masks_of_a_network_with_three_inputs():
    first, second = autoregressive_masks(3, 4, context=1)
    np.testing.assert_array_equal(first, [[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(second[:, :3], [[1, 1, 1], [0, 1, 1], [0, 0, 1], [1, 1, 1]])
    np.testing.assert_array_equal(second[:, :3], second[:, 3:])
    np.testing.assert_array_equal(autoregressive_masks(5, 2)[0].T, [[1, 0, 0, 0, 0], [1, 1, 1, 1, 0]])


def test_masks_of_version_0_1():
    first, second = autoregressive_masks(3, 4, context=1, kind="0.1")
    np.testing.assert_array_equal(first, [[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(second[:, :3], [[0, 1, 1], [0, 0, 1], [0, 1, 1], [0, 0, 1]])
    np.testing.assert_array_equal(autoregressive_masks(5, 2, kind="0.1")[0].T, [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "dim, hidden, context", [(1, 1, 1), (1, 4, 2), (2, 2, 1), (3, 2, 3), (6, 2, 1), (6, 5, 2), (6, 40, 2)]
)
def test_each_dimension_sees_the_context_and_no_input_is_left_out(dim, hidden, context, reverse):
    """In version 0.1 the first dimension saw none, so that with one dimension the context was of no use."""
    first, second = autoregressive_masks(dim, hidden, context, reverse)
    seen = first.astype(int) @ second[:, :dim] > 0
    assert seen[dim:].all()
    order = slice(None, None, -1 if reverse else 1)
    assert seen[:dim][order, order][:-1, -1].all() and (np.tril(seen[:dim][order, order]) == 0).all()


def test_at_first_a_planar_step_bends_space_by_about_one():
    """u and w start with a length of about 1, in any dimension, and the plane through the origin."""
    initial = mv.Planar(2000).initial(np.random.default_rng(0))
    assert np.linalg.norm(initial["u"]) == pytest.approx(1, abs=0.1)
    assert np.linalg.norm(initial["w"]) == pytest.approx(1, abs=0.1)
    assert initial["b"] == 0


def test_a_planar_step_is_invertible_whatever_its_parameters():
    z = np.random.default_rng(0).standard_normal((500, 3))
    for seed in range(20):
        (_, log_det), _ = mv.Planar(3).forward(params_of(mv.Planar(3), seed, scale=5.0), z)
        assert np.isfinite(log_det).all()


def test_at_first_an_autoregressive_step_lets_most_of_z_through():
    initial = mv.InverseAutoregressive(3, 5).initial(np.random.default_rng(0))
    np.testing.assert_array_equal(initial["2.b"], [0, 0, 0, 2, 2, 2])
    assert (initial["0.b"] == 0).all() and initial["0.W"].std() > 0 and initial["2.W"].std() > 0


def test_autoregressive_gates_do_not_overflow():
    flow = mv.InverseAutoregressive(3, 5)
    params = params_of(flow, scale=0.5, **{"2.b": [0, 0, 0, -1e4, 1e4, 0]})
    (z, log_det), backward = flow.forward(params, np.ones((2, 3)))
    assert np.isfinite(z).all() and log_det[0, 0] == pytest.approx(-1e4, rel=1e-2)
    dz, _, grads = backward(np.ones((2, 3)), np.ones((2, 1)))
    assert all(np.isfinite(each).all() for each in (dz, *grads.values()))


@pytest.mark.parametrize(
    "flows",
    [[mv.Planar(2), mv.Planar(2)], [mv.InverseAutoregressive(2, 8), mv.InverseAutoregressive(2, 8, reverse=True)]],
    ids=["planar", "IAF"],
)
def test_log_q_is_the_density_of_the_samples(flows):
    """Counted in a square: the share of samples there against the mean of uniform weights exp(log q)."""
    q = mv.FlowPosterior(flows)
    eps = np.random.default_rng(0).standard_normal((400_000, 1, 2))
    (z, log_q), _ = q.with_log_q(params_of(q, seed=3, scale=0.4), np.array([[0.3, -0.2, 0.2, -0.4]]), eps)
    z, log_q = z[:, 0], log_q[:, 0]
    low, high = np.quantile(z, 0.3, axis=0), np.quantile(z, 0.7, axis=0)
    inside = ((z > low) & (z < high)).all(axis=1)
    area = np.mean(inside / np.exp(log_q))  # E_q[1(inside) / q] is the area of the square
    error = np.std(inside / np.exp(log_q)) / np.sqrt(len(z))
    assert inside.sum() > 10_000
    assert area == pytest.approx(np.prod(high - low), abs=5 * error)


STATS, EPS = np.array([[1.0, -2.0, 0.5, -0.5]]), np.random.default_rng(0).standard_normal((5, 1, 2))


def test_the_base_alone_is_a_diagonal_gaussian():
    """A gate that is all open changes nothing."""
    q = mv.FlowPosterior([mv.InverseAutoregressive(2, 4)])
    params = params_of(q, scale=0.5)
    params["0.2.b"][2:] = 100
    (z, log_q), _ = q.with_log_q(params, STATS, EPS)
    mean, std = [1, -2], np.exp([0.25, -0.25])
    np.testing.assert_allclose(z[:, 0], mean + std * EPS[:, 0])
    np.testing.assert_allclose(log_q[:, 0], scipy.stats.norm.logpdf(z[:, 0], mean, std).sum(axis=1))
    for moments in (q.split(STATS), q.moments(params, STATS)):
        np.testing.assert_array_equal(moments, [[[1, -2]], [[0.5, -0.5]]])


def steps(dim):
    """Two steps with a context of 3 and of 2 numbers, and one with none between them."""
    return [
        mv.InverseAutoregressive(dim, 6, context=3),
        mv.Planar(dim),
        mv.InverseAutoregressive(dim, 6, context=2, reverse=True),
    ]


POSTERIORS = {
    "planar": (lambda: mv.FlowPosterior([mv.Planar(4), mv.Planar(4)]), 8),
    "a context for some": (lambda: mv.FlowPosterior(steps(4)), 13),
    "a chain on a chain": (lambda: mv.FlowPosterior([mv.Planar(4)], base=mv.FlowPosterior(steps(4))), 13),
}


@pytest.mark.parametrize("name", POSTERIORS)
def test_mu_is_the_draw_without_noise(name):
    """So that it is decoded where the decoder has learnt to: `reconstruct` without noise, and with noise of 0."""
    posterior, width = POSTERIORS[name]
    vae = mv.VAE([mv.Dense(12, width)], [mv.Dense(4, 12)], posterior=posterior(), dtype="float64", seed=1)
    for parameter, values in vae.parameters.items():
        values += np.random.default_rng(len(parameter)).normal(0, 0.5, values.shape)
    x = np.random.default_rng(0).random((9, 12))
    np.testing.assert_allclose(vae.reconstruct(x), vae.reconstruct(x, eps=np.zeros((9, 4)))[0], rtol=1e-12)
    (mu, log_var), stats = vae.encode(x), vae._encode(vae._params, x, None)
    assert np.abs(mu - vae.posterior.split(stats)[0]).min() > 1e-3  # that is before the steps
    np.testing.assert_array_equal(log_var, vae.posterior.split(stats)[1])


def test_a_chain_on_a_chain_is_a_longer_chain():
    flows = [mv.Planar(2), mv.Planar(2)]
    chain, nested = mv.FlowPosterior(flows), mv.FlowPosterior(flows[1:], base=mv.FlowPosterior(flows[:1]))
    params = params_of(chain, scale=0.5)
    renamed = {{"0": "base.0.", "1": "0."}[name[0]] + name[2:]: value for name, value in params.items()}
    results = []
    for q, given in ((chain, params), (nested, renamed)):
        (z, log_q), backward = q.with_log_q(given, STATS, EPS)
        results.append((z, log_q, backward(np.ones((5, 1, 2)), np.ones((5, 1)))[0]))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other)


def test_each_flow_gets_its_own_context_behind_the_statistics_of_the_base():
    """Two steps with contexts of 1 and 2 numbers: by hand, one after the other, for two samples of three examples."""
    flows = [mv.InverseAutoregressive(2, 4, context=1), mv.InverseAutoregressive(2, 4, context=2, reverse=True)]
    q, rng = mv.FlowPosterior(flows), np.random.default_rng(0)
    params, stats, eps = params_of(q, scale=0.5), rng.standard_normal((3, 7)), rng.standard_normal((2, 3, 2))
    (z, log_q), _ = q.with_log_q(params, stats, eps)
    for l, b in np.ndindex(2, 3):  # noqa: E741
        mean, std = stats[b, :2], np.exp(stats[b, 2:4] / 2)
        point = (mean + std * eps[l, b])[None]
        density = scipy.stats.norm.logpdf(point[0], mean, std).sum()
        for i, context in enumerate((stats[b : b + 1, 4:5], stats[b : b + 1, 5:7])):
            of_flow = {name[2:]: value for name, value in params.items() if name[0] == str(i)}
            (point, log_det), _ = flows[i].forward(of_flow, point, context)
            density -= log_det[0, 0]
        np.testing.assert_allclose(z[l, b], point[0])
        assert log_q[l, b] == pytest.approx(density)


def flow_vae(**options):
    flows = [mv.InverseAutoregressive(4, 6, context=3), mv.Planar(4), mv.InverseAutoregressive(4, 6, reverse=True)]
    encoder = [mv.Dense(12, 10), mv.Tanh(), mv.Dense(10, 2 * 4 + 3)]
    return mv.VAE(encoder, [mv.Dense(4, 12)], posterior=mv.FlowPosterior(flows), **options)


def test_parameters_are_named_after_their_place_in_the_chain():
    names = set(flow_vae().parameters)
    assert {"posterior.0.0.W", "posterior.0.2.b", "posterior.1.u", "posterior.1.w", "posterior.2.0.W"} <= names


def test_masked_weights_have_no_part_in_training():
    vae = flow_vae()
    before = vae.parameters["posterior.0.0.W"].copy()
    mv.fit(vae, np.random.default_rng(0).random((40, 12)), epochs=2, batch_size=10, optimizer=mv.Adam(0.1))
    first, _ = autoregressive_masks(4, 6, 3)
    gradient, moved = vae.gradients["posterior.0.0.W"], vae.parameters["posterior.0.0.W"] != before
    assert (gradient[~first] == 0).all() and moved[first].mean() > 0.9 and not moved[~first].any()


def test_the_model_can_be_used_and_saved(tmp_path):
    x = np.random.default_rng(0).random((9, 12))
    vae = flow_vae()
    vae.save(tmp_path / "flow.safetensors")
    again = mv.load(tmp_path / "flow.safetensors")
    assert again.evaluate(x, samples=3) == vae.evaluate(x, samples=3)
    assert vae.log_likelihood(x, samples=50) > -vae.evaluate(x, samples=50).loss
    assert vae.encode(x)[0].shape == (9, 4) and vae.reconstruct(x).shape == (9, 12)


def test_a_file_that_names_no_masks_has_those_of_version_0_1(tmp_path):
    """Which wrote none; its model keeps its numbers and its training goes on."""
    path, x = tmp_path / "flow.safetensors", np.random.default_rng(0).random((20, 12))

    def make(masks):
        flow = mv.InverseAutoregressive(4, 2, context=3, masks=masks)
        return mv.VAE([mv.Dense(12, 11)], [mv.Dense(4, 12)], posterior=mv.FlowPosterior([flow]))

    vae = make("0.1")
    mv.fit(vae, x, epochs=1, batch_size=10, checkpoint=path)
    assert vae.evaluate(x) == mv.load(path).evaluate(x) != make("full").evaluate(x)
    arrays, record = checkpoint.read(path)
    assert record["model"]["posterior"]["flows"][0].pop("masks") == "0.1"
    checkpoint.write(path, arrays, record)
    assert mv.load(path).evaluate(x) == vae.evaluate(x)
    resume = mv.Checkpoint(path, resume=True)
    assert len(mv.fit(make("0.1"), x, epochs=2, batch_size=10, checkpoint=resume)) == 2
    with pytest.raises(mv.MiniVAEError, match="posterior is .*'masks': '0.1'.* there and .*'masks': 'full'"):
        mv.fit(make("full"), x, epochs=2, batch_size=10, checkpoint=resume)


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
        (lambda: mv.InverseAutoregressive(3, 1), "hidden should be at least 2, since one unit cannot see all"),
        (lambda: mv.InverseAutoregressive(2, 1, context=1), "hidden should be at least 2"),
        (lambda: mv.InverseAutoregressive(3, 2, masks="all"), 'masks should be "full" or "0.1", got \'all\''),
        (lambda: mv.FlowPosterior([]), "flows should be a list of flows"),
        (
            lambda: mv.FlowPosterior([mv.Planar(2)], mv.avb(4, 2, 8).posterior),
            "ImplicitPosterior trains in a way of its",
        ),
        (lambda: mv.FlowPosterior([mv.Planar(6)], mv.GumbelSoftmax(3)), "GumbelSoftmax trains in a way of its own"),
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
