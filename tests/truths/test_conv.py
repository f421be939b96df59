"""Convolutions against SciPy, against each other, and against themselves in smaller pieces."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import params_of
from scipy.signal import correlate2d

import minivae as mv
from minivae.engine import convolution
from minivae.gradcheck import check_layer


def draw(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape)


def passes(backend, layer, params, x, dy=None):
    """y, dx and the gradients of a layer as a backend computes them, as NumPy arrays; dy is y itself by default."""
    host = {"x": x, **params}
    shape = len(x), *layer.output_shape(x.shape[1:])
    results = {"y": np.zeros(shape), "dx": x * 0} | {f"d{name}": params[name] * 0 for name in layer.shapes()}
    if dy is not None:
        host["dy"] = dy
    held = {key: backend.empty(array.shape, x.dtype) for key, array in (host | results).items()}
    for key, array in host.items():
        backend.upload(array, to=held[key])

    def step(a):
        y, backward = layer.forward(a, a["x"])
        dx, grads = backward(a["dy"] if dy is not None else y)
        return {"y": y, "dx": dx} | {f"d{name}": grad for name, grad in grads.items()}

    backend.compile(step, held, x.dtype)()
    return {key: np.array(backend.to_host(held[key])) for key in results}


def scipy_conv2d(x, W, stride, before, after):
    """By definition: pad, correlate each pair of channels, sum over the channels that come in, keep every s-th."""
    x = np.pad(x, [(0, 0), before, after, (0, 0)])
    sums = [
        [sum(correlate2d(image[..., c], W[..., c, o], "valid") for c in range(W.shape[2])) for o in range(W.shape[3])]
        for image in x
    ]
    return np.array(sums).transpose(0, 2, 3, 1)[:, ::stride, ::stride]


# (height, width), kernel, stride, padding, and the zeros in front of and behind each axis that it stands for.
GEOMETRIES = [
    ((5, 6), 3, 1, 0, (0, 0), (0, 0)),
    ((5, 6), 3, 1, "same", (1, 1), (1, 1)),
    ((5, 6), 2, 1, "same", (0, 1), (0, 1)),
    ((5, 6), 2, 2, "same", (0, 1), (0, 0)),
    ((5, 6), 3, 2, "same", (1, 1), (0, 1)),
    ((7, 6), 4, 3, 2, (2, 2), (2, 2)),
    ((2, 1), 3, 1, 1, (1, 1), (1, 1)),
    ((4, 4), 1, 1, 3, (3, 3), (3, 3)),
]


@pytest.mark.parametrize("size, kernel, stride, padding, rows, columns", GEOMETRIES)
def test_conv2d_is_scipys_correlation(backend, size, kernel, stride, padding, rows, columns):
    layer, x = mv.Conv2d(2, 3, kernel, stride, padding), draw(4, *size, 2)
    params = params_of(layer, scale=1)
    y = passes(backend, layer, params, x)["y"]
    expected = scipy_conv2d(x, params["W"], stride, rows, columns) + params["b"]
    assert y.shape[1:] == layer.output_shape((*size, 2))
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)


def test_conv_transpose2d_is_scipys_correlation_of_the_stretched_image(backend):
    """Stride 2 puts a zero between pixels; padding 1 cuts off one row, output padding adds one."""
    layer, x = mv.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), draw(4, 3, 5, 2)
    params = params_of(layer, scale=1)
    stretched = np.zeros((4, 5, 9, 2))
    stretched[:, ::2, ::2] = x
    flipped = params["W"][::-1, ::-1].transpose(0, 1, 3, 2)
    expected = scipy_conv2d(stretched, flipped, 1, (1, 2), (1, 2)) + params["b"]
    y = passes(backend, layer, params, x)["y"]
    assert y.shape[1:] == layer.output_shape((3, 5, 2)) == (6, 10, 3)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 4),
    padding=st.one_of(st.just("same"), st.integers(0, 5)),
    rows=st.integers(1, 3),
)
def test_each_is_the_others_adjoint(size, kernel, stride, padding, rows):
    """<A x, y> = <x, A' y> with the same weights, where A' gives images of the size of x."""
    stride = min(stride, kernel)
    down = mv.Conv2d(2, 3, kernel, stride, padding)
    try:
        height, width, _ = down.output_shape((*size, 2))
    except mv.MiniVAEError:
        return
    if padding == "same":
        back = mv.ConvTranspose2d(3, 2, kernel, stride, padding)
        size = height * stride, width * stride
    else:
        # A row that no window reaches is one more output padding; here both axes must agree about it.
        extra = [(n + 2 * padding - kernel) % stride for n in size]
        size = size[0] - extra[0] + min(extra), size[1] - extra[1] + min(extra)
        back = mv.ConvTranspose2d(3, 2, kernel, stride, padding, output_padding=min(extra))
    if min(size) < 1:
        return
    W = draw(kernel, kernel, 2, 3, seed=3)
    x, y = draw(rows, *size, 2), draw(rows, height, width, 3, seed=2)
    there, _ = down.forward({"W": W, "b": np.zeros(3)}, x)
    and_back, _ = back.forward({"W": W, "b": np.zeros(2)}, y)
    assert and_back.shape == x.shape
    np.testing.assert_allclose((there * y).sum(), (x * and_back).sum(), rtol=1e-9, atol=1e-9)


LAYERS = [
    mv.Conv2d(3, 4, 3, stride=2),
    mv.ConvTranspose2d(3, 4, 3, stride=2),
    mv.Conv2d(3, 4, 3, padding="same"),
    mv.ConvTranspose2d(3, 4, 3, padding="same"),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_compiled_passes_are_those_of_the_layer(layer, backend):
    x, params = draw(7, 6, 5, 3), params_of(layer, scale=1)
    y, backward = layer.forward(params, x)
    dy = draw(*y.shape, seed=3)
    dx, grads = backward(dy)
    compiled = passes(backend, layer, params, x, dy)
    for name, array in ({"y": y, "dx": dx} | {f"d{key}": grad for key, grad in grads.items()}).items():
        np.testing.assert_allclose(compiled[name], array, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_images_do_not_see_each_other(layer):
    x, params = draw(5, 6, 5, 3), params_of(layer, scale=1)
    y, backward = layer.forward(params, x)
    for i in range(5):
        alone, alone_backward = layer.forward(params, x[i : i + 1])
        np.testing.assert_allclose(alone[0], y[i], rtol=1e-12)
        np.testing.assert_allclose(alone_backward(y[i : i + 1])[0][0], backward(y)[0][i], rtol=1e-12)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_the_number_of_images_in_a_chunk_changes_nothing(layer, backend, monkeypatch):
    """One image at a time, and in uneven pieces; by the definition and compiled."""
    x, params, results, chunks = draw(7, 6, 5, 3), params_of(layer, scale=1), [], convolution.Windows.chunks
    for patch_bytes in (1, 15_000, 1 << 20):
        in_chunks = lambda *given, patch_bytes=patch_bytes: chunks(*given[:3], patch_bytes)  # noqa: E731
        monkeypatch.setattr(convolution.Windows, "chunks", in_chunks)
        y, backward = layer.forward(params, x)
        dx, grads = backward(y)
        results.append({"y": y, "dx": dx} | {f"d{key}": grad for key, grad in grads.items()})
        results.append(passes(backend, layer, params, x))
    for other in results[1:]:
        for name, array in results[0].items():
            np.testing.assert_allclose(other[name], array, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer, size", [(mv.Conv2d(2, 3, 3, 3, 1), (1, 4)), (mv.Conv2d(2, 3, 3, 3, 1), (4, 1))])
def test_parts_of_the_kernel_that_meet_no_pixel_have_no_gradient(layer, size, backend):
    """In an image of one row, two thirds of the kernel see zeros only."""
    assert check_layer(backend, layer, (*size, 2)).passed
    seen = passes(backend, layer, params_of(layer, scale=1), draw(5, *size, 2))["dW"].any(axis=(2, 3))
    assert seen.any(axis=size.index(4)).tolist() == [False, True, False]


def test_the_patches_take_bounded_memory():
    """Those of all images would take nine times what the images do."""
    layer, backend = mv.Conv2d(8, 8, 3, padding="same"), mv.get_backend("numpy")
    x, params = draw(400, 20, 20, 8).astype(np.float32), params_of(layer, scale=1)
    params = {name: value.astype(np.float32) for name, value in params.items()}
    tracemalloc.start()
    y, backward = layer.forward(params, x)
    backward(y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert y.nbytes > convolution.PATCH_BYTES and peak < 3 * y.nbytes + 4 * convolution.PATCH_BYTES

    made, allocate = [], backend.empty
    backend.empty = lambda shape, dtype: made.append(allocate(shape, dtype)) or made[-1]
    passes(backend, layer, params, x)
    assert sum(array.nbytes for array in made) < 4 * y.nbytes + 4 * convolution.PATCH_BYTES


def test_wide_layers_are_used_for_fewer_rows_at_a_time():
    """For z of one value and 5 x 5 x 40,000 values a layer: the memory stays that of a few rows."""
    layers = [mv.Dense(1, 25), mv.Reshape((5, 5, 1)), mv.Conv2d(1, 40_000, 1), mv.Conv2d(40_000, 1, 1), mv.Flatten()]
    vae = mv.VAE([mv.Dense(25, 2)], layers)
    assert vae.inference_rows == (1 << 23) // (25 * 40_000)
    assert mv.VAE([mv.Dense(25, 2)], [mv.Dense(1, 25)]).inference_rows == 1000
    tracemalloc.start()
    vae.decode(np.zeros((vae.inference_rows * 3, 1)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 4 * (1 << 23)


@pytest.mark.parametrize("layer", [mv.Conv2d, mv.ConvTranspose2d])
def test_initial_weights_are_glorots(layer):
    """A pixel is made from K x K windows of n_in channels, and has a part in K x K windows of n_out channels."""
    for init in ("glorot_uniform", "glorot_normal"):
        W = layer(40, 60, 3, init=init).initial(np.random.default_rng(0))["W"]
        assert W.std() == pytest.approx(np.sqrt(2 / (9 * 40 + 9 * 60)), rel=0.02)
        assert layer(60, 40, 3, init=init).initial(np.random.default_rng(0))["W"].std() == pytest.approx(W.std())


def test_output_sizes_are_those_of_keras_and_pytorch():
    assert mv.Conv2d(1, 64, 2, 2, "same").output_shape((28, 28, 1)) == (14, 14, 64)
    assert mv.Conv2d(64, 1, 2).output_shape((29, 29, 64)) == (28, 28, 1)
    assert mv.Conv2d(3, 8, 5, 2, 1).output_shape((32, 31, 3)) == (15, 15, 8)
    assert mv.ConvTranspose2d(64, 64, 3, 2).output_shape((14, 14, 64)) == (29, 29, 64)
    assert mv.ConvTranspose2d(64, 64, 3, 2, "same").output_shape((14, 14, 64)) == (28, 28, 64)
    assert mv.ConvTranspose2d(8, 4, 3, 2, 1, 1).output_shape((7, 7, 8)) == (14, 14, 4)


@pytest.mark.parametrize(
    "make, problem",
    [
        (lambda: mv.Conv2d(0, 2, 3), "n_in should be an integer of at least 1"),
        (lambda: mv.Conv2d(1, 2, (3, 3)), "kernel should be an integer"),
        (lambda: mv.Conv2d(1, 2, 3, padding="valid"), 'padding should be an integer of at least 0 or "same"'),
        (lambda: mv.Conv2d(1, 2, 3, padding=np.ones(2)), r"padding should be an integer of at least 0 .* got array"),
        (lambda: mv.Conv2d(1, 2, 2, stride=3), "use a kernel of at least 3"),
        (lambda: mv.Conv2d(1, 2, 2, init="zeros"), 'init should be "glorot_uniform", "glorot_normal" or "he_normal"'),
        (lambda: mv.ConvTranspose2d(1, 2, 3, 2, 1, 2), "less than the stride, 2"),
        (lambda: mv.ConvTranspose2d(1, 2, 3, 2, 1, -1), "output_padding should be an integer of at least 0, got -1"),
        (lambda: mv.Conv2d(1, 2, 3).output_shape((784,)), "is a Reshape.* missing before it"),
        (lambda: mv.Conv2d(1, 2, 3).output_shape((28, 28, 3)), "expects .B, height, width, 1."),
        (lambda: mv.Conv2d(1, 2, 3).forward({}, np.ones((2, 28, 28, 3))), "expects .B, height, width, 1."),
        (lambda: mv.Conv2d(1, 2, 5).output_shape((4, 9, 1)), "4 x 9 are too small"),
        (lambda: mv.Reshape(28), "a tuple of integers of at least 1"),
        (lambda: mv.Reshape((4, 4)).output_shape((15,)), "cannot make .B, 4, 4. of .B, 15."),
        (lambda: mv.Reshape((4, 4)).forward({}, np.ones((2, 15))), "cannot make .B, 4, 4. of .B, 15."),
        (lambda: mv.VAE([mv.Reshape((4, 4, 1))], [mv.Dense(2, 16)]), "end it with Flatten.. and a Dense"),
    ],
)
def test_bad_input_gives_one_clear_error(make, problem):
    with pytest.raises(mv.MiniVAEError, match=problem):
        make()
