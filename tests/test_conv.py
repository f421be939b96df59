"""Convolutions against SciPy, against each other, and against themselves in smaller pieces."""

import copy

import fakegpu
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d

import minivae as mv
from minivae.parameters import allocate


def attached(layer, backend=None, dtype="float64", seed=0):
    """The layer with random parameters."""
    backend = backend or mv.get_backend("numpy")
    parameters, _ = allocate({"layer": layer}, backend, dtype, seed)
    rng = np.random.default_rng(seed)
    parameters.load({name: rng.standard_normal(view.shape) for name, view in parameters.items()})
    return layer


def draw(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape)


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
    layer = attached(mv.Conv2d(2, 3, kernel, stride, padding), backend)
    x = draw(4, *size, 2)
    y = backend.to_host(layer.forward(backend.asarray(x)))
    expected = scipy_conv2d(x, backend.to_host(layer.W), stride, rows, columns) + backend.to_host(layer.b)
    assert y.shape[1:] == layer.output_shape((*size, 2))
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)


def test_conv_transpose2d_is_scipys_correlation_of_the_stretched_image(backend):
    """Stride 2 puts a zero between pixels; padding 1 cuts off one row, output padding adds one."""
    layer = attached(mv.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), backend)
    x = draw(4, 3, 5, 2)
    stretched = np.zeros((4, 5, 9, 2))
    stretched[:, ::2, ::2] = x
    flipped = backend.to_host(layer.W)[::-1, ::-1].transpose(0, 1, 3, 2)
    expected = scipy_conv2d(stretched, flipped, 1, (1, 2), (1, 2)) + backend.to_host(layer.b)
    y = backend.to_host(layer.forward(backend.asarray(x)))
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
    attached(down), attached(back)
    back.W[:] = down.W
    down.b.fill(0), back.b.fill(0)
    x, y = draw(rows, *size, 2), draw(rows, height, width, 3, seed=2)
    there, and_back = down.forward(x), back.forward(y)
    assert and_back.shape == x.shape
    np.testing.assert_allclose((there * y).sum(), (x * and_back).sum(), rtol=1e-9, atol=1e-9)


def both(**options):
    return [
        (mv.Conv2d(3, 4, 3, **options), (6, 5, 3)),
        (mv.ConvTranspose2d(3, 4, 3, **options), (6, 5, 3)),
    ]


@pytest.mark.parametrize("unused, shape", both(stride=2) + both(padding="same"), ids=lambda x: type(x).__name__)
def test_the_number_of_images_in_the_workspace_changes_nothing(unused, shape):
    """One image at a time, and in uneven pieces."""
    results = []
    for workspace in (1, 9000, 1 << 20):
        backend = mv.get_backend("numpy")
        backend.workspace = workspace
        layer = attached(copy.deepcopy(unused), backend)
        x = draw(7, *shape)
        y = layer.forward(x).copy()
        dx = layer.backward(draw(*y.shape, seed=3))
        results.append((y, dx.copy(), layer.dW.copy(), layer.db.copy()))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_the_workspace_is_bounded():
    backend = mv.get_backend("numpy")
    layer = attached(mv.Conv2d(8, 8, 3, padding="same"), backend, "float32")
    y = layer.forward(draw(400, 20, 20, 8).astype(np.float32))
    layer.backward(y)
    held = layer.buffers._arrays
    assert y.nbytes > backend.workspace  # and the patches of all images would take nine times that
    assert sum(array.nbytes for name, array in held.items() if name not in ("y", "dx")) <= 2 * backend.workspace


@pytest.mark.parametrize("unused, shape", both(stride=2), ids=lambda x: type(x).__name__)
def test_a_short_batch_after_a_full_one(unused, shape, backend):
    layer = attached(copy.deepcopy(unused), backend)
    x = backend.asarray(draw(5, *shape))
    full = np.array(backend.to_host(layer.forward(x)))
    short = backend.to_host(layer.forward(backend.asarray(draw(5, *shape)[:2])))
    np.testing.assert_allclose(short, full[:2], rtol=1e-12)


def test_a_replayed_graph_does_what_the_step_does():
    """On the imaginary GPU: a captured pass, forward and backward, for another input in the same array."""
    backend = fakegpu.backend()
    layer = attached(mv.Conv2d(2, 3, 3, stride=2, padding="same"), backend)
    x = backend.asarray(draw(4, 5, 6, 2))
    dy = backend.asarray(draw(4, 3, 3, 3, seed=4))

    def step():
        layer.forward(x)
        layer.backward(dy)

    launch = backend.graph(step)
    for _ in range(3):
        launch()
    backend.upload(draw(4, 5, 6, 2, seed=5), out=x)
    launch()
    replayed = np.array(backend.to_host(layer.dW))
    step()
    np.testing.assert_array_equal(replayed, backend.to_host(layer.dW))


def test_wide_layers_are_used_for_fewer_rows_at_a_time():
    """For z of one value and 5 x 5 x 400,000 values a layer: the memory stays that of one row."""
    layers = [mv.Dense(1, 25), mv.Reshape((5, 5, 1)), mv.Conv2d(1, 400_000, 1), mv.Conv2d(400_000, 1, 1), mv.Flatten()]
    vae = mv.VAE([mv.Dense(25, 2)], layers)
    vae.decode(np.zeros((3, 1)))
    assert vae.decoder.layers[2].buffers("y", 1, 5, 5, 400_000).base.nbytes <= 4 * 25 * 400_000 + 64
    assert mv.VAE([mv.Dense(25, 2)], [mv.Dense(1, 25)]).inference_rows == 1000


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
        (lambda: mv.Conv2d(0, 2, 3), "n_in must be an integer of at least 1"),
        (lambda: mv.Conv2d(1, 2, (3, 3)), "kernel must be an integer"),
        (lambda: mv.Conv2d(1, 2, 3, padding="valid"), 'padding must be an integer of at least 0 or "same"'),
        (lambda: mv.Conv2d(1, 2, 2, stride=3), "use a kernel of at least 3"),
        (lambda: mv.Conv2d(1, 2, 2, init="zeros"), "init must be one of"),
        (lambda: mv.ConvTranspose2d(1, 2, 3, 2, 1, 2), "less than the stride, 2"),
        (lambda: mv.ConvTranspose2d(1, 2, 3, 2, 1, -1), "output_padding must be an integer of at least 0, got -1"),
        (lambda: mv.Conv2d(1, 2, 3).output_shape((784,)), "is a Reshape.* missing before it"),
        (lambda: mv.Conv2d(1, 2, 3).output_shape((28, 28, 3)), "expects .B, height, width, 1."),
        (lambda: mv.Conv2d(1, 2, 5).output_shape((4, 9, 1)), "4 x 9 are too small"),
        (lambda: mv.Reshape(28), "a tuple of positive integers"),
        (lambda: mv.Reshape((4, 4)).output_shape((15,)), "cannot make .B, 4, 4. of .B, 15."),
        (lambda: mv.Reshape((4, 4)).forward(np.ones((2, 15))), "cannot make .B, 4, 4. of .B, 15."),
        (lambda: mv.VAE([mv.Reshape((4, 4, 1))], [mv.Dense(2, 16)]), "end it with Flatten.. and a Dense"),
    ],
)
def test_bad_input_gives_one_clear_error(make, problem):
    with pytest.raises(mv.MiniVAEError, match=problem):
        make()
