"""The rules that every layer keeps: no allocation in a step, outputs overwritten, views where views are promised."""

import copy
import tracemalloc

import fakegpu
import numpy as np
import pytest

import minivae as mv
from minivae.parameters import Buffers, Module
from minivae.training import Trainer

MODELS = {
    "analytic KL": {},
    "Monte-Carlo KL": {"kl": "monte-carlo"},
    "importance-weighted": {"bound": mv.ImportanceWeighted()},
    "Gaussian": {"likelihood": mv.Gaussian(0.5)},
    "convolutional": {
        "encoder": [
            mv.Reshape((8, 8, 1)),
            mv.Conv2d(1, 3, 2, stride=2, padding="same"),
            mv.Tanh(),
            mv.Conv2d(3, 2, 3, padding="same"),
            mv.Flatten(),
            mv.Dense(32, 8),
        ],
        "decoder": [
            mv.Dense(4, 32),
            mv.Reshape((4, 4, 2)),
            mv.ConvTranspose2d(2, 3, 3, stride=2),
            mv.ReLU(),
            mv.Conv2d(3, 1, 2),
            mv.Flatten(),
        ],
    },
}


def small_vae(backend="numpy", **parts):
    encoder = [mv.Dense(64, 48), mv.ReLU(), mv.Dense(48, 32), mv.Tanh(), mv.Dense(32, 8)]
    decoder = [mv.Dense(4, 32), mv.Sigmoid(), mv.Dense(32, 64)]
    return mv.VAE(**{"encoder": encoder, "decoder": decoder} | copy.deepcopy(parts), backend=backend)


def images(n, rng=0):
    return np.random.default_rng(rng).integers(0, 256, (n, 64), np.uint8)


def trainer(vae, optimizer, x, batch_size, samples=2):
    optimizer.attach(vae.parameters, vae.gradients)
    return Trainer(vae, optimizer, x, batch_size, samples, seed=0)


OPTIMIZERS = [mv.SGD(1e-3, momentum=0.9), mv.RMSprop(), mv.Adam()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("parts", MODELS.values(), ids=MODELS)
def test_a_step_on_the_gpu_allocates_and_transfers_nothing(parts, optimizer):
    backend = fakegpu.backend()
    vae = small_vae(backend=backend, **parts)
    (step, _), (short, _) = trainer(vae, optimizer, images(29), 8).parts
    for each in (step, short):
        each.run()
        with backend.xp.count() as n:
            each.run()
        assert (n.allocations, n.transfers, n.synchronisations, n.copies) == (0, 0, 0, 0)
        assert n.launches > 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("parts", MODELS.values(), ids=MODELS)
def test_a_step_on_numpy_allocates_no_array(parts, optimizer):
    """The smallest array that grows with the batch is (B,), 256 KB here; all of NumPy's casting buffers are less."""
    batch_size = 65_536
    vae = small_vae(**parts)
    ((step, _),) = trainer(vae, optimizer, images(batch_size), batch_size, samples=1).parts
    step.refill(np.random.default_rng(0), 2)
    step.run()
    tracemalloc.start()
    step.run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < batch_size * np.dtype(np.float32).itemsize


def modules(vae):
    parts = [vae.posterior, vae.likelihood, vae.bound, vae, *vae.encoder.layers, *vae.decoder.layers]
    return [part for part in parts if isinstance(part, Module) or part is vae]


@pytest.mark.parametrize("parts", MODELS.values(), ids=MODELS)
def test_outputs_are_overwritten(parts):
    """Whatever a step left in the buffers and gradients, the next one must not read."""
    vae, x = small_vae(**parts), images(8)
    eps = np.random.default_rng(1).standard_normal((2, 8, 4))
    losses = vae.loss_and_gradients(x, eps)
    expected = vae.gradients.flat.copy()
    for module in modules(vae):
        for array in module.buffers._arrays.values():
            array.fill(True if array.dtype == bool else np.nan)
    vae.gradients.flat.fill(np.nan)
    assert vae.loss_and_gradients(x, eps) == losses
    np.testing.assert_array_equal(vae.gradients.flat, expected)


def test_a_short_batch_uses_leading_views(backend):
    buffers = Buffers(backend, "float32")
    full = buffers("y", 10, 3)
    short = buffers("y", 4, 3)
    short.fill(1)
    full_on_host = backend.to_host(full)
    np.testing.assert_array_equal(full_on_host[:4], 1)
    assert buffers("y", 10, 3) is full and buffers("y", 4, 3) is short


def test_buffers_stay_valid_when_a_larger_one_is_needed():
    buffers = Buffers(mv.get_backend("numpy"), "float32")
    small = buffers("y", 4, 3)
    buffers("y", 100, 3)
    assert buffers("y", 4, 3) is small


def test_many_batch_sizes_take_no_more_than_four_times_the_largest():
    backend, allocated = mv.get_backend("numpy"), []
    allocate = backend.empty
    backend.empty = lambda shape, dtype: allocated.append(allocate(shape, dtype)) or allocated[-1]
    buffers = Buffers(backend, "float32")
    for rows in range(1, 500):
        buffers("y", rows, 100)
    assert sum(array.nbytes for array in allocated) <= 4 * 500 * 100 * 4


def test_arrays_of_a_backend_do_not_overlap_and_start_on_a_cache_line():
    backend = mv.get_backend("numpy")
    shapes = [(3,), (100, 7), (3 << 20,), (1,), (2, 2)]
    arrays = [backend.empty(shape, dtype) for shape in shapes for dtype in ("float32", "float64", "bool")]
    for i, array in enumerate(arrays):
        array.fill(i % 2)
        assert array.ctypes.data % 64 == 0
        assert not any(np.shares_memory(array, other) for other in arrays[:i])


def test_a_short_last_batch_is_trained_on():
    """30 examples in batches of 8: the gradient of the last step is that of 6 examples."""
    vae = small_vae()
    steps = trainer(vae, mv.SGD(1e-9), images(30), 8, samples=1)
    assert len(list(steps.steps(1))) == steps.n_steps == 4
    (_, n_full), (short, n_short) = steps.parts
    assert (n_full, n_short, short.x.shape) == (3, 1, (6, 64))
    last = vae.gradients.flat.copy()
    vae.loss_and_gradients(short.x, short.eps)
    np.testing.assert_allclose(last, vae.gradients.flat, rtol=1e-4, atol=1e-6)


def test_every_example_is_seen_once_an_epoch():
    vae = small_vae()
    steps = trainer(vae, mv.SGD(1e-9), images(30), 8)
    seen = []

    orders = []
    for epoch in (1, 2):
        seen.clear()
        for _ in steps.steps(epoch):
            step = steps.parts[0][0] if len(seen) < 24 else steps.parts[1][0]
            seen.extend(step.index.tolist())
        steps.finish(steps.epoch.totals)
        assert sorted(seen) == list(range(30))
        orders.append(list(seen))
    assert orders[0] != orders[1]


def test_the_first_layer_computes_no_dx():
    vae = small_vae()
    vae.loss_and_gradients(images(8))
    assert "dx" not in vae.encoder.layers[0].buffers._arrays
    assert "dx" in vae.encoder.layers[2].buffers._arrays
    reshaped = mv.Sequential([mv.ReLU(), mv.Dense(4, 4)], needs_dx=False)
    from minivae.parameters import allocate

    allocate({"net": reshaped}, mv.get_backend("numpy"), "float32", 0)
    assert reshaped.backward(reshaped.forward(np.ones((2, 4), np.float32))) is None


def test_views_lie_in_the_flat_array_in_order(backend):
    vae = small_vae(backend=backend)
    vae.parameters.flat.fill(0)
    vae.parameters["decoder.2.b"].fill(7)
    flat = backend.to_host(vae.parameters.flat)
    assert (flat == 7).sum() == 64 and (flat[-64:] == 7).all()
    sizes = [view.size for view in vae.parameters.values()]
    assert sum(sizes) == flat.size == 64 * 48 + 48 + 48 * 32 + 32 + 32 * 8 + 8 + 4 * 32 + 32 + 32 * 64 + 64
    assert list(vae.parameters)[:2] == ["encoder.0.W", "encoder.0.b"]


def test_training_leaves_numpys_global_random_state_alone():
    before = np.random.get_state()[1].tolist()
    mv.fit(small_vae(), images(20), epochs=1, batch_size=5)
    assert np.random.get_state()[1].tolist() == before


def test_same_seed_same_numbers():
    def run(seed):
        history = mv.fit(small_vae(seed=seed), images(40), images(10, 1), epochs=3, batch_size=16)
        return [{key: value for key, value in row.items() if key != "seconds"} for row in history]

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_input_forms_are_the_same_images():
    x = images(6)
    forms = [x, x.reshape(6, 8, 8), x / 255, (x / 255).astype(np.float32), np.asfortranarray(x), x[::-1][::-1]]
    losses = [small_vae().evaluate(form).loss for form in forms]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


def test_results_are_numpy_arrays_on_every_backend(backend):
    vae = small_vae(backend=backend)
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


def test_results_do_not_change_when_the_model_is_used_again():
    vae = small_vae()
    first = vae.reconstruct(images(5))
    kept = first.copy()
    vae.reconstruct(images(5, 1))
    np.testing.assert_array_equal(first, kept)
