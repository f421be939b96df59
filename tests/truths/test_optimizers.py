"""Optimizers as pure functions of arrays: against their textbook form, and against PyTorch's where it is installed."""

import numpy as np
import pytest

import minivae as mv
from minivae.model.optimizers import clip_by_norm

TEXTBOOK = {}


def textbook(function):
    TEXTBOOK[function.__name__] = function
    return function


@textbook
def sgd(p, grads, lr=0.05):
    for g in grads:
        p = p - lr * g
    return p


@textbook
def momentum(p, grads, lr=0.05, momentum=0.8):
    velocity = 0.0
    for g in grads:
        velocity = momentum * velocity + g
        p = p - lr * velocity
    return p


@textbook
def rmsprop(p, grads, lr=0.01, rho=0.9, eps=1e-3):
    v = 0.0
    for g in grads:
        v = rho * v + (1 - rho) * g**2
        p = p - lr * g / np.sqrt(v + eps)
    return p


@textbook
def adam(p, grads, lr=0.01, beta1=0.8, beta2=0.99, eps=1e-3):
    m = v = 0.0
    for t, g in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        p = p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return p


OPTIMIZERS = {
    "sgd": mv.SGD(0.05),
    "momentum": mv.SGD(0.05, momentum=0.8),
    "rmsprop": mv.RMSprop(0.01, rho=0.9, eps=1e-3),
    "adam": mv.Adam(0.01, beta1=0.8, beta2=0.99, eps=1e-3),
}
P, GRADS = np.random.default_rng(0).standard_normal(7), np.random.default_rng(1).standard_normal((6, 7))


def fresh(optimizer, p):
    return {"lr": np.full(1, optimizer.lr, p.dtype)} | optimizer.fresh_state(p)


def run(optimizer, p, grads):
    state = fresh(optimizer, p)
    for g in grads:
        p, state = optimizer.update(g, p, state)
    return p


@pytest.mark.parametrize("name", TEXTBOOK)
def test_optimizers_follow_their_textbook_form(name):
    np.testing.assert_allclose(run(OPTIMIZERS[name], P, GRADS), TEXTBOOK[name](P, GRADS), rtol=1e-10)


@pytest.mark.parametrize("name", TEXTBOOK)
def test_compiled_optimizers_do_too(name, backend):
    """Their state, Adam's step among it, lies in arrays, so that a compiled step goes on with it."""
    optimizer = OPTIMIZERS[name]
    arrays = {"g": P * 0, "p": P} | {f"state.{key}": value for key, value in fresh(optimizer, P).items()}
    held = {key: backend.empty(array.shape, array.dtype) for key, array in arrays.items()}
    for key, array in arrays.items():
        backend.upload(array, to=held[key])

    def step(a):
        p, state = optimizer.update(a["g"], a["p"], {key[6:]: a[key] for key in a if key.startswith("state.")})
        return {"p": p} | {f"state.{key}": value for key, value in state.items()}

    launch = backend.compile(step, held, np.float64)
    for g in GRADS:
        backend.upload(g, to=held["g"])
        launch()
    np.testing.assert_allclose(backend.to_host(held["p"]), TEXTBOOK[name](P, GRADS), rtol=1e-10)


@pytest.mark.parametrize("name", TEXTBOOK)
def test_an_update_changes_none_of_its_arguments(name):
    optimizer = OPTIMIZERS[name]
    g, p, state = GRADS[0].copy(), P.copy(), fresh(optimizer, P)
    before = {key: array.copy() for key, array in state.items()}
    optimizer.update(g, p, state)
    np.testing.assert_array_equal(g, GRADS[0])
    np.testing.assert_array_equal(p, P)
    for key, array in state.items():
        np.testing.assert_array_equal(array, before[key])


@pytest.mark.parametrize("name", TEXTBOOK)
def test_the_learning_rate_is_that_of_the_state(name):
    """So it can change between steps, whatever it was when the optimizer was made."""
    optimizer = OPTIMIZERS[name]
    state = fresh(optimizer, P)
    moved = P - optimizer.update(GRADS[0], P, state)[0]
    twice = P - optimizer.update(GRADS[0], P, state | {"lr": state["lr"] * 2})[0]
    np.testing.assert_allclose(twice, 2 * moved)


@pytest.mark.parametrize("name", TEXTBOOK)
def test_float32_stays_float32_and_near_float64(name):
    """Adam's corrections 1 - beta^t would lose half their digits in float32 in the first steps."""
    optimizer = {"adam": mv.Adam(0.01)}.get(name, OPTIMIZERS[name])
    single = run(optimizer, P.astype(np.float32), GRADS.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, run(optimizer, P, GRADS), atol=5e-7)


@pytest.mark.parametrize("optimizer", [mv.RMSprop(1e-3), mv.Adam(1e-3)], ids=lambda x: type(x).__name__)
def test_parameters_without_a_gradient_stay(optimizer):
    np.testing.assert_array_equal(run(optimizer, P, GRADS * 0), P)


# -------------------------------------------------------------------------------------------------- clipping


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("values, limit", [([3, -4], 2.5), ([3, -4], 5), ([3, -4], 9), ([0, 0], 1)])
def test_clipping_scales_the_gradient_to_the_limit_and_never_up(values, limit, dtype):
    clipped = clip_by_norm(np.array(values, dtype), limit)
    assert clipped.dtype == dtype
    np.testing.assert_allclose(clipped, np.array(values) * min(1, limit / max(np.linalg.norm(values), 1e-9)), rtol=1e-6)


@pytest.mark.parametrize("dtype, large", [("float32", 1e30), ("float32", 3e38), ("float64", 1e300)])
def test_a_gradient_whose_square_overflows_keeps_its_direction(dtype, large):
    """Its norm was infinite, and what was handed on 0: the training stood still without a word."""
    direction = np.array([1.0, -0.5, 0.0], dtype)
    clipped = clip_by_norm(direction * np.array(large, dtype), 2.0)
    assert clipped.dtype == dtype
    np.testing.assert_allclose(clipped, 2 * direction / np.linalg.norm(direction), rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_does_not_become_so_by_clipping(value):
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(clip_by_norm(np.array([1.0, value, 0.0]), 2.0)).all()


def test_a_gradient_below_the_limit_is_handed_on_bit_for_bit():
    for scale in (1e-300, 1e-30, 1.0, 1e3):
        g = np.random.default_rng(0).standard_normal(50) * scale
        np.testing.assert_array_equal(clip_by_norm(g, 1e5), g)


def test_clip_norm_hands_the_clipped_gradients_on():
    clipping, limit = mv.ClipNorm(mv.SGD(0.1, momentum=0.5), 0.5), 0.5
    clipped = [g * min(1, limit / np.linalg.norm(g)) for g in GRADS]
    np.testing.assert_allclose(run(clipping, P, GRADS), momentum(P, clipped, lr=0.1, momentum=0.5))
    assert clipping.lr == 0.1


# --------------------------------------------------------------------------------------------------- PyTorch

TORCH = {
    "sgd": lambda torch, p: torch.optim.SGD(p, 0.05),
    "momentum": lambda torch, p: torch.optim.SGD(p, 0.05, momentum=0.8),
    "adam": lambda torch, p: torch.optim.Adam(p, 0.01, (0.8, 0.99), 1e-3),
}


@pytest.mark.parametrize("name", TORCH)
def test_optimizers_are_those_of_pytorch(name):
    """But for RMSprop, which adds eps at another place."""
    torch = pytest.importorskip("torch")
    p = torch.tensor(P, requires_grad=True)
    optimizer = TORCH[name](torch, [p])
    for g in GRADS:
        p.grad = torch.tensor(g)
        optimizer.step()
    np.testing.assert_allclose(run(OPTIMIZERS[name], P, GRADS), p.detach().numpy(), rtol=1e-10)
