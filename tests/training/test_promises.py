"""What a model and a training promise whatever they are made of: order, repeatability, forms of data, results."""

import numpy as np
import pytest

import minivae as mv
from minivae.engine.backend import NumpyBackend

CONVOLUTIONAL = {
    "encoder": [
        *(mv.Reshape((8, 8, 1)), mv.Conv2d(1, 3, 2, stride=2, padding="same"), mv.Tanh()),
        *(mv.Conv2d(3, 2, 3, padding="same"), mv.Flatten(), mv.Dense(32, 8)),
    ],
    "decoder": [
        *(mv.Dense(4, 32), mv.Reshape((4, 4, 2)), mv.ConvTranspose2d(2, 3, 3, stride=2), mv.ReLU()),
        *(mv.Conv2d(3, 1, 2), mv.Flatten()),
    ],
}
MODELS = {
    "analytic KL": {},
    "Monte-Carlo KL": {"kl": "monte-carlo"},
    "importance-weighted": {"bound": mv.ImportanceWeighted()},
    "Gaussian": {"likelihood": mv.Gaussian(0.5)},
    "convolutional": CONVOLUTIONAL,
}


def small_vae(backend="numpy", **parts):
    encoder = [mv.Dense(64, 48), mv.ReLU(), mv.Dense(48, 32), mv.Tanh(), mv.Dense(32, 8)]
    decoder = [mv.Dense(4, 32), mv.Sigmoid(), mv.Dense(32, 64)]
    return mv.VAE(**{"encoder": encoder, "decoder": decoder} | parts, backend=backend)


def images(n, rng=0):
    return np.random.default_rng(rng).integers(0, 256, (n, 64), np.uint8)


def losses(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


# ---------------------------------------------------------------------------------------------- the batches


def batches(x, epochs, batch_size, **options):
    """What each step of each epoch sees: pairs of its pixels and its noise."""
    vae, seen = small_vae(NumpyBackend(compiled=False)), []
    compute = vae.forward_and_backward
    vae.forward_and_backward = lambda params, x, eps, *rest: seen.append((x, eps)) or compute(params, x, eps, *rest)
    mv.fit(vae, x, epochs=epochs, batch_size=batch_size, **options)
    steps = len(seen) // epochs
    return [seen[i * steps : (i + 1) * steps] for i in range(epochs)]


def test_a_batch_that_is_larger_than_the_data_is_all_of_them():
    x = images(30)
    ((pixels, _),) = batches(x, epochs=1, batch_size=1000)[0]
    np.testing.assert_allclose(np.unique(pixels, axis=0), np.unique(x / 255, axis=0), rtol=1e-6)
    runs = [losses(mv.fit(small_vae(), x, epochs=2, batch_size=size)) for size in (30, 1000)]
    assert runs[0] == runs[1]


def test_every_example_is_seen_once_an_epoch_in_another_order():
    x, orders = images(30), []
    for epoch in batches(x, epochs=2, batch_size=8):
        assert [len(pixels) for pixels, _ in epoch] == [8, 8, 8, 6]
        orders.append(np.concatenate([pixels for pixels, _ in epoch]))
        np.testing.assert_allclose(np.unique(orders[-1], axis=0), np.unique(x / 255, axis=0), rtol=1e-6)
    assert not np.array_equal(*orders)


def test_no_two_steps_share_their_noise():
    eps = [eps for epoch in batches(images(30), epochs=2, batch_size=8, samples=3) for _, eps in epoch]
    assert [each.shape for each in eps] == [(3, 8, 4)] * 3 + [(3, 6, 4)] + [(3, 8, 4)] * 3 + [(3, 6, 4)]
    values = np.concatenate([each.ravel() for each in eps])
    assert len(np.unique(values)) > 0.99 * values.size  # float32 numbers coincide now and then
    assert abs(values.mean()) < 0.15 and values.std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("samples", [1, 3])
def test_the_losses_of_an_epoch_are_the_mean_over_its_examples(samples, backend):
    """Also where the last batch is short; at a learning rate that hardly moves the weights."""
    vae, x = small_vae(backend, dtype="float64"), images(30)
    history = mv.fit(vae, x, epochs=1, batch_size=8, samples=samples, optimizer=mv.SGD(1e-12))
    each = [
        vae.loss_and_gradients(pixels, eps)
        for pixels, eps in batches(x, epochs=1, batch_size=8, samples=samples, optimizer=mv.SGD(1e-12))[0]
    ]
    for name in "loss", "reconstruction", "kl":
        mean = np.average([getattr(one, name) for one in each], weights=[8, 8, 8, 6])
        assert history[0][f"train_{name}"] == pytest.approx(mean, rel=1e-6)


def test_the_gradients_are_those_of_the_last_step(backend):
    """30 examples in batches of 8: those of 6 examples."""
    vae, same = small_vae(backend, dtype="float64"), small_vae(dtype="float64")
    mv.fit(vae, images(30), epochs=1, batch_size=8, optimizer=mv.SGD(1e-12))
    same.loss_and_gradients(*batches(images(30), epochs=1, batch_size=8, optimizer=mv.SGD(1e-12))[0][-1])
    np.testing.assert_allclose(backend.to_host(vae.gradients.flat), same.gradients.flat, rtol=1e-4, atol=1e-6)


# -------------------------------------------------------------------------------------------- repeatability


def test_training_leaves_numpys_global_random_state_alone():
    before = np.random.get_state()[1].tolist()
    mv.fit(small_vae(), images(20), epochs=1, batch_size=5)
    assert np.random.get_state()[1].tolist() == before


def test_initial_weights_are_not_the_numbers_that_data_are_drawn_from():
    """NumPy's default_rng(seed) and the key (seed, 0) give the same; the first weights would be the data, scaled."""
    for seed in 0, 3, 2**40:
        weights = mv.VAE([mv.Dense(50, 4)], [mv.Dense(2, 50)], seed=seed).parameters["encoder.0.W"].ravel()
        for user in np.random.default_rng(seed), np.random.default_rng([seed, 0]), np.random.default_rng([seed]):
            assert abs(np.corrcoef(weights, user.random(200))[0, 1]) < 0.3


def test_same_seed_same_numbers(backend):
    def run(seed):
        return losses(mv.fit(small_vae(backend, seed=seed), images(40), images(10, 1), epochs=3, batch_size=16))

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_the_seed_of_fit_is_the_models_by_default():
    def run(**options):
        return losses(mv.fit(small_vae(seed=3), images(40), epochs=2, batch_size=16, **options))

    assert run() == run(seed=3) != run(seed=4)


@pytest.mark.parametrize("parts", MODELS.values(), ids=MODELS)
def test_nothing_of_an_earlier_call_or_training_is_left(parts):
    """Whatever a step left in memory, the next one must not read."""
    vae, x = small_vae(**parts), images(8)
    eps = np.random.default_rng(1).standard_normal((2, 8, 4))
    first = vae.loss_and_gradients(x, eps)
    expected, weights = vae.gradients.flat.copy(), vae.parameters.flat.copy()
    trained = [losses(mv.fit(vae, images(40), epochs=2, batch_size=16, samples=2)), vae.parameters.flat.copy()]
    vae.gradients.flat.fill(np.nan)
    vae.parameters.flat[...] = weights
    vae.epochs = 0
    assert vae.loss_and_gradients(x, eps) == first
    np.testing.assert_array_equal(vae.gradients.flat, expected)
    assert losses(mv.fit(vae, images(40), epochs=2, batch_size=16, samples=2)) == trained[0]
    np.testing.assert_array_equal(vae.parameters.flat, trained[1])


def test_an_optimizer_may_serve_many_trainings():
    """Its state starts fresh in each: moments of the first training would show in the second."""
    optimizer = mv.Adam(1e-2)
    runs = [losses(mv.fit(small_vae(), images(40), epochs=2, batch_size=16, optimizer=optimizer)) for _ in range(2)]
    assert runs[0] == runs[1]


# -------------------------------------------------------------------------------------------- data and results


def test_input_forms_are_the_same_images():
    x = images(6)
    forms = [x, x.reshape(6, 8, 8), x / 255, (x / 255).astype(np.float32), np.asfortranarray(x), x[::-1][::-1]]
    losses = [small_vae().evaluate(form).loss for form in forms]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


def test_input_forms_train_as_the_same_images(backend):
    x = images(40)
    forms = [x, x.reshape(40, 8, 8), x / 255, (x / 255).astype(np.float32), np.asfortranarray(x), x[::-1][::-1]]
    losses = [mv.fit(small_vae(backend), form, epochs=2, batch_size=16)["train_loss"] for form in forms]
    np.testing.assert_allclose(losses, losses[:1] * len(forms), rtol=1e-5)


def test_training_leaves_the_data_alone(backend):
    x, before = images(40), images(40)
    mv.fit(small_vae(backend), x, 0.2, epochs=2, batch_size=16, binarize=True)
    np.testing.assert_array_equal(x, before)


def test_results_are_numpy_arrays_on_every_backend(backend):
    vae = small_vae(backend)
    x = images(11)
    mu, log_var = vae.encode(x)
    for array, shape in (
        (mu, (11, 4)),
        (log_var, (11, 4)),
        (vae.decode(mu), (11, 64)),
        (vae.reconstruct(x), (11, 64)),
        (vae.sample(5), (5, 64)),
    ):
        assert type(array) is np.ndarray and array.shape == shape and array.dtype == np.float32
    np.testing.assert_array_equal(vae.sample(5, seed=1), vae.sample(5, seed=1))
    assert type(vae.log_likelihood(x, samples=3)) is float


def test_samples_are_drawn_anew_at_each_call_unless_a_seed_is_given():
    """And as a whole they repeat: the same calls of the same model give the same."""
    vae, same = small_vae(seed=3), small_vae(seed=3)
    first, second = vae.sample(5), vae.sample(5)
    assert not np.isin(first[:, 0], second[:, 0]).any()
    seeded = vae.sample(5, seed=3)
    np.testing.assert_array_equal(seeded, vae.sample(5, seed=3))
    assert (seeded != vae.sample(5, seed=4)).any()
    np.testing.assert_allclose(np.concatenate([first, second]), same.sample(10), rtol=1e-6)  # by other products


def test_results_do_not_change_when_the_model_is_used_again():
    vae = small_vae()
    first = vae.reconstruct(images(5))
    kept = first.copy()
    vae.reconstruct(images(5, 1))
    np.testing.assert_array_equal(first, kept)


def test_views_lie_in_the_flat_array_in_order(backend):
    vae = small_vae(backend)
    vae.parameters.flat.fill(0)
    vae.parameters["decoder.2.b"].fill(7)
    flat = backend.to_host(vae.parameters.flat)
    assert (flat == 7).sum() == 64 and (flat[-64:] == 7).all()
    sizes = [view.size for view in vae.parameters.values()]
    assert sum(sizes) == flat.size == 64 * 48 + 48 + 48 * 32 + 32 + 32 * 8 + 8 + 4 * 32 + 32 + 32 * 64 + 64
    assert list(vae.parameters)[:2] == ["encoder.0.W", "encoder.0.b"]


def test_new_values_for_the_flat_array_are_those_of_the_views(backend):
    vae = small_vae(backend)
    view = vae.parameters["decoder.2.b"]
    vae.parameters.flat = vae.parameters.flat * 0 + 7
    assert (backend.to_host(view) == 7).all()
    vae.parameters.flat -= 2
    assert (backend.to_host(vae.parameters["decoder.2.b"]) == 5).all()


def test_views_stay_what_they_are_in_training(backend):
    """Training writes into the parameters' own array, so a view that somebody holds sees the new weights."""
    vae = small_vae(backend)
    flat, view = vae.parameters.flat, vae.parameters["decoder.2.b"]
    before = np.array(backend.to_host(view))
    mv.fit(vae, images(40), epochs=1, batch_size=16)
    assert vae.parameters.flat is flat and (backend.to_host(view) != before).all()
    np.testing.assert_array_equal(backend.to_host(flat)[-64:], backend.to_host(view))
