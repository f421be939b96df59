"""Checkpoints: what is saved comes back, and no damaged, foreign or unwritable file goes unnoticed or does harm."""

import copy
import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

import minivae as mv
from minivae.model.parameters import Part
from minivae.storage import checkpoint

# Of each part that minivae exports, one whose arguments are not the defaults; and what users make their own parts of.
PARTS = {
    "Adam": mv.Adam(1e-4, beta1=0.5, beta2=0.9, eps=1e-5),
    "Bernoulli": mv.Bernoulli(),
    "ClipNorm": mv.ClipNorm(mv.SGD(0.5), 2.0),
    "Conv2d": mv.Conv2d(2, 3, 3, stride=2, padding="same", init="glorot_normal"),
    "ConvTranspose2d": mv.ConvTranspose2d(2, 3, 3, 2, 1, output_padding=1, init="glorot_normal"),
    "Categorical": mv.Categorical(5),
    "Dense": mv.Dense(3, 4, init="glorot_normal"),
    "DiagonalGaussian": mv.DiagonalGaussian(),
    "Dropout": mv.Dropout(0.2),
    "ELU": mv.ELU(0.3),
    "GELU": mv.GELU(),
    "LayerNorm": mv.LayerNorm(4, eps=1e-3),
    "LeakyReLU": mv.LeakyReLU(0.2),
    "Softplus": mv.Softplus(),
    "Flatten": mv.Flatten(),
    "ELBO": mv.ELBO(),
    "FlowPosterior": mv.FlowPosterior([mv.Planar(2)], base=mv.DiagonalGaussian()),
    "FlowPrior": mv.FlowPrior([mv.InverseAutoregressive(2, 3), mv.InverseAutoregressive(2, 3, reverse=True)]),
    "GatedDense": mv.GatedDense(3, 4, init="he_normal"),
    "BetaTC": mv.BetaTC(50, tc=3.0, mi=0.5, dimension_wise=2.0),
    "CodebookPrior": mv.CodebookPrior(6, 4, 2),
    "Gaussian": mv.Gaussian(0.3, constants=False),
    "GumbelSoftmax": mv.GumbelSoftmax(3, temperature=0.5),
    "ImplicitPosterior": mv.ImplicitPosterior(
        [mv.Dense(2, 3)], [mv.Dense(4, 3), mv.ReLU()], [mv.Dense(5, 1)], adaptive=False, draws=7, pace=2.0
    ),
    "ImportanceWeighted": mv.ImportanceWeighted(),
    "InverseAutoregressive": mv.InverseAutoregressive(3, 5, context=2, reverse=True),
    "MMD": mv.MMD(20.0, widths=[0.5, 2.0]),
    "MixturePrior": mv.MixturePrior(3, components=4),
    "Observed": mv.Observed([(mv.Gaussian(0.3), 2), (mv.Categorical(3), 1)]),
    "Planar": mv.Planar(3),
    "Poisson": mv.Poisson(),
    "PredictedVarianceGaussian": mv.PredictedVarianceGaussian(min_std=0.01),
    "RMSprop": mv.RMSprop(1e-4, rho=0.5, eps=1e-5),
    "ReLU": mv.ReLU(),
    "Residual": mv.Residual([mv.Dense(3, 4), mv.Tanh(), mv.Dense(4, 3)]),
    "SGD": mv.SGD(1e-4, momentum=0.5),
    "Reshape": mv.Reshape((2, 2, 1)),
    "Sequential": mv.Sequential([mv.Dense(3, 4), mv.Tanh()]),
    "SharedVarianceGaussian": mv.SharedVarianceGaussian(0.5, min_std=0.01),
    "SideBySide": mv.SideBySide([[mv.Dense(1, 2), mv.Tanh()], [mv.Dense(2, 3)]]),
    "Sigmoid": mv.Sigmoid(),
    "StandardNormal": mv.StandardNormal(3),
    "Tanh": mv.Tanh(),
    "TwoLayerPosterior": mv.TwoLayerPosterior([mv.Dense(5, 3)], [mv.Dense(2, 4), mv.Tanh()], [mv.Dense(7, 6)]),
    "TwoLayerPrior": mv.TwoLayerPrior(mv.VampPrior(2, 5, 4), [mv.Dense(2, 3), mv.Tanh(), mv.Dense(3, 6)]),
    "UniformCodes": mv.UniformCodes(6, 3),
    "VampPrior": mv.VampPrior(3, 7, components=4),
    "VectorQuantized": mv.VectorQuantized(4, 2, commitment=0.5),
    "WithInput": mv.WithInput([mv.Dense(3, 4), mv.Tanh()]),
    "ZeroFilled": mv.ZeroFilled([(mv.Poisson(), 2), (mv.Categorical(3), 1)]),
}
BASES = {"Bound", "Flow", "Layer", "Likelihood", "Optimizer", "Posterior", "Prior", "Regulariser"}

UNREADABLE = "no checkpoint of minivae|damaged|does not make a model"


def make(hidden=5, **options):
    options = {"likelihood": mv.Gaussian(0.5), "beta": 0.7, "seed": 3} | options
    return mv.VAE(
        [mv.Dense(7, hidden), mv.ReLU(), mv.Dense(hidden, 4)],
        [mv.Dense(2, hidden), mv.Tanh(), mv.Dense(hidden, 7)],
        **options,
    )


@pytest.fixture(params=["model.safetensors", "model.npz"])
def path(request, tmp_path):
    return tmp_path / request.param


@pytest.fixture
def x():
    return np.random.default_rng(0).random((6, 7), np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "float64", "likelihood": mv.Bernoulli()},
        {"bound": mv.ImportanceWeighted(), "kl": "monte-carlo"},
        {"kl": "monte-carlo", "beta": np.float32(0.1)},
        {"prior": mv.MixturePrior(2, 3)},
        {"prior": mv.VampPrior(2, 7, 4), "bound": mv.ImportanceWeighted()},
        {"prior": mv.FlowPrior([mv.InverseAutoregressive(2, 3)])},
        {"regulariser": mv.MMD(20.0)},
    ],
)
def test_a_model_comes_back_the_same(path, x, options):
    vae = make(**copy.deepcopy(options))
    vae.save(path)
    content = path.read_bytes()
    vae.save(path)
    assert path.read_bytes() == content
    again = mv.load(path)
    assert {name: view.tolist() for name, view in again.parameters.items()} == {
        name: view.tolist() for name, view in vae.parameters.items()
    }
    assert again.dtype == vae.dtype and again.seed == vae.seed
    assert checkpoint.describe(again.regulariser) == checkpoint.describe(vae.regulariser)
    assert again.evaluate(x, samples=3) == vae.evaluate(x, samples=3)
    np.testing.assert_array_equal(again.sample(4), vae.sample(4))


def test_the_prior_and_the_regulariser_are_named_where_they_are_not_the_default_only(path):
    """As in files from before there were others."""
    make().save(path)
    assert not {"prior", "regulariser"} & checkpoint.read(path)[1]["model"].keys()


def test_a_model_may_change_backend(x, path, backend):
    vae = make()
    vae.save(path)
    again = mv.load(path, backend)
    assert again.backend is backend
    np.testing.assert_allclose(again.reconstruct(x), vae.reconstruct(x), rtol=1e-5)
    again.save(path)
    np.testing.assert_array_equal(mv.load(path).parameters.flat, vae.parameters.flat)


def test_every_exported_part_can_be_described_and_built_again():
    exported = {name for name in mv.__all__ if isinstance(getattr(mv, name), type)}
    assert PARTS.keys() | BASES == {name for name in exported if issubclass(getattr(mv, name), (Part, mv.Optimizer))}
    for name, part in PARTS.items():
        described = json.loads(json.dumps(checkpoint.describe(part)))
        again = checkpoint.build(described, vars(mv))
        assert type(again) is type(part)
        assert checkpoint.describe(again) == described, name


def test_views_with_any_strides_are_written_in_order(path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    views = {"transposed": array.T, "reversed": array[::-1], "sliced": array[:, ::2], "scalar": array[0, 0, 0]}
    checkpoint.write(path, views, {"model": {}})
    arrays, _ = checkpoint.read(path)
    for name, view in views.items():
        np.testing.assert_array_equal(arrays[name].reshape(view.shape), view, err_msg=name)


def test_a_sequential_layer_of_version_0_1_loses_an_argument():
    described = checkpoint.describe(mv.Sequential([mv.Dense(3, 4), mv.Tanh()]))
    assert checkpoint.describe(checkpoint.build(described | {"needs_dx": True}, vars(mv))) == described


class Swish(mv.Layer):
    """A layer of somebody's own: y = x sigmoid(scale x)."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def forward(self, params, x):
        s = 1 / (1 + np.exp(-self.scale * x))
        return x * s, lambda dy: (dy * (s + self.scale * x * s * (1 - s)), {})


class Signs(mv.Optimizer):
    """An optimizer of somebody's own, around another."""

    def __init__(self, optimizer):
        super().__init__(optimizer.lr)
        self.optimizer = optimizer

    def fresh_state(self, p):
        return self.optimizer.fresh_state(p)

    def update(self, g, p, state):
        return self.optimizer.update(np.sign(g), p, state)


class Adam(mv.SGD):
    """An optimizer of somebody's own, under a name that minivae has for another."""


class Forgetful(Swish):
    """It does not keep what it was made with."""

    def __init__(self, factor):
        super().__init__(2 * factor)


def swish_vae(layer=None):
    encoder = [mv.Residual([mv.Dense(7, 7), layer or Swish(0.5)]), mv.Dense(7, 4)]
    return mv.VAE(encoder, [mv.Dense(2, 7)])


def test_a_model_with_parts_of_ones_own(path, x):
    vae = swish_vae()
    vae.save(path)
    again = mv.load(path, parts=[Swish])
    assert again.encoder.layers[0].f.layers[1].scale == 0.5
    np.testing.assert_array_equal(vae.reconstruct(x), again.reconstruct(x))
    with pytest.raises(mv.MiniVAEError, match=r"has no 'Swish': a class of your own is to be given, .*parts=\[...\]"):
        mv.load(path)


def test_a_training_with_parts_of_ones_own_goes_on_where_it_was(path, x):
    def trained(epochs, **options):
        vae = swish_vae()
        mv.fit(vae, x, epochs=epochs, batch_size=3, optimizer=Signs(mv.Adam(1e-2)), progress=False, **options)
        return vae.parameters.flat

    trained(2, checkpoint=path)
    resumed = trained(4, checkpoint=mv.Checkpoint(path, resume=True))
    np.testing.assert_array_equal(resumed, trained(4))
    with pytest.raises(mv.MiniVAEError, match="another training: optimizer is {'class': 'Signs'"):
        mv.fit(swish_vae(), x, epochs=4, batch_size=3, checkpoint=mv.Checkpoint(path, resume=True), progress=False)


def test_a_part_that_could_not_be_made_again_is_refused_before_anything_is_written(path, x):
    vae = swish_vae(Forgetful(1.0))
    before = vae.parameters.flat.copy()
    for attempt in vae.save, lambda path: mv.fit(vae, x, epochs=1, batch_size=3, checkpoint=path, progress=False):
        with pytest.raises(mv.MiniVAEError, match="Forgetful, which should keep each argument .* it has no 'factor'"):
            attempt(path)
    np.testing.assert_array_equal(vae.parameters.flat, before)
    with pytest.raises(mv.MiniVAEError, match="two parts are called Adam"):
        mv.fit(make(), x, epochs=1, batch_size=3, optimizer=Adam(), checkpoint=path, progress=False)
    namesake = type("Swish", (mv.ReLU,), {})
    with pytest.raises(mv.MiniVAEError, match="two parts are called Swish"):
        mv.VAE([mv.Dense(7, 4), Swish(), namesake(), mv.Dense(4, 4)], [mv.Dense(2, 7)]).save(path)
    assert not path.exists()


@pytest.mark.parametrize("parts", [Swish, [Swish()], ["Swish"], [int], None])
def test_parts_are_classes(parts, path):
    with pytest.raises(mv.MiniVAEError, match="parts should be a list of your own classes"):
        mv.load(path, parts=parts)


def test_save_is_a_function_and_a_method(path):
    vae = make()
    mv.save(vae, path)
    content = path.read_bytes()
    vae.save(path)
    assert path.read_bytes() == content


# ----------------------------------------------------------------------------------------- errors


def test_truncation_anywhere_is_an_error(path):
    make().save(path)
    content = path.read_bytes()
    for size in [*range(0, 40), *range(40, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(mv.MiniVAEError, match=UNREADABLE):
            mv.load(path)


@pytest.mark.parametrize("what", ["weights", "record"])
def test_a_flipped_bit_is_an_error(path, what):
    make().save(path)
    content = bytearray(path.read_bytes())
    if what == "weights":
        position = content.index(make().parameters["decoder.2.W"].tobytes()) + 5
    else:
        position = content.index("0.7".encode("utf-32-le" if path.suffix == ".npz" else "utf-8"))
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(mv.MiniVAEError, match="damaged|no checkpoint"):
        mv.load(path)


def edit(path, change):
    """Rewrite a checkpoint with its record or its arrays changed."""
    arrays, record = checkpoint.read(path)
    change(arrays, record)
    checkpoint.write(path, arrays, record)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda arrays, record: record.update(format=2), "has format 2.*up to format 1: install a newer"),
        (lambda arrays, record: record["model"]["encoder"][1].update({"class": "Mish"}), "has no 'Mish'.*newer"),
        (lambda arrays, record: record["model"]["encoder"][1].update({"class": "VAE"}), "has no 'VAE'.*newer"),
        (lambda arrays, record: record["model"]["encoder"][1].update(slope=2), "does not make a model: ReLU.*argument"),
        (lambda arrays, record: record["model"].update(depth=2), "does not make a model: VAE.*depth"),
        (lambda arrays, record: record["model"].pop("decoder"), "does not make a model: 'decoder'"),
        (lambda arrays, record: record["model"].update(beta=-1), "beta should be"),
        (lambda arrays, record: record.update(model=[]), "describes no model"),
        (lambda arrays, record: record.update(format=None), "no checkpoint.*NoneType"),
        (lambda arrays, record: arrays.pop("encoder.0.b"), r"'encoder.0.b' is none, its architecture \(5,\)"),
        (lambda arrays, record: arrays.update(more=arrays["encoder.0.b"]), r"'more' is \(5,\), its.*none"),
        (
            lambda arrays, record: record["model"]["encoder"][0].update(n_in=10**9, n_out=10**9),
            r"'encoder.0.W' is \(7, 5\), its architecture \(1000000000, 1000000000\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(path, change, message):
    make().save(path)
    edit(path, change)
    with pytest.raises(mv.MiniVAEError, match=message) as error:
        mv.load(path)
    assert str(path) in str(error.value)


def test_other_files_are_no_checkpoints(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    np.savez(tmp_path / "objects.npz", minivae=np.array([{}], dtype=object))
    save_file({"a": np.zeros(3)}, tmp_path / "arrays.safetensors")
    for name in ("arrays.npz", "arrays.safetensors"):
        with pytest.raises(mv.MiniVAEError, match="no checkpoint of minivae: it has no record of a model"):
            mv.load(tmp_path / name)
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("some words, more than sixteen bytes of them")
    for other in sorted(tmp_path.iterdir()):
        with pytest.raises(mv.MiniVAEError, match="no checkpoint of minivae"):
            mv.load(other)
    with pytest.raises(mv.MiniVAEError, match="cannot read .*: No such file"):
        mv.load(tmp_path / "missing")
    with pytest.raises(mv.MiniVAEError, match="cannot read .*: Is a directory"):
        mv.load(tmp_path)


def test_a_failed_save_leaves_the_old_file_and_no_other(path, monkeypatch):
    make().save(path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(mv.MiniVAEError, match=f"cannot write {path}: No space left"):
        make(seed=4).save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(mv.MiniVAEError, match="cannot write .*nowhere.*No such file"):
        make().save(tmp_path / "nowhere" / "model.safetensors")


# ----------------------------------------------------------------------------------------- PyTorch


def test_weights_go_to_pytorchs_layout_and_back():
    vae, other = make(), make(seed=9)
    state = mv.to_torch_state_dict(vae)
    assert state["decoder.2.weight"].shape == (7, 5) and state["decoder.2.weight"].flags.c_contiguous
    np.testing.assert_array_equal(state["decoder.2.weight"].T, vae.parameters["decoder.2.W"])
    mv.from_torch_state_dict(other, state)
    np.testing.assert_array_equal(other.parameters.flat, vae.parameters.flat)


def test_a_state_dict_that_does_not_fit_changes_nothing():
    vae, state = make(), mv.to_torch_state_dict(make(seed=9))
    kept = vae.parameters.flat.copy()
    with pytest.raises(mv.MiniVAEError, match=r"missing \['encoder.0.bias'\], unknown \['fc1.bias'\]"):
        mv.from_torch_state_dict(vae, {name.replace("encoder.0.b", "fc1.b"): a for name, a in state.items()})
    with pytest.raises(mv.MiniVAEError, match="encoder.0.W"):
        mv.from_torch_state_dict(vae, state | {"encoder.0.weight": state["encoder.0.weight"].T})
    np.testing.assert_array_equal(vae.parameters.flat, kept)


def test_pytorch_computes_the_same_from_exported_weights(x):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    vae = make()
    module = nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 4)),
            "decoder": nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 7)),
        }
    )
    state = {name: torch.from_numpy(array) for name, array in mv.to_torch_state_dict(vae).items()}
    module.load_state_dict(state)
    with torch.no_grad():
        mu, _ = module["encoder"](torch.from_numpy(x)).chunk(2, dim=1)
        mean = module["decoder"](mu)
    np.testing.assert_allclose(vae.encode(x)[0], mu, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vae.reconstruct(x), mean, rtol=1e-5, atol=1e-6)

    other = make(seed=9)
    mv.from_torch_state_dict(other, module.state_dict())
    np.testing.assert_array_equal(other.parameters.flat, vae.parameters.flat)


def test_pytorch_convolves_the_same_from_exported_weights():
    torch = pytest.importorskip("torch")
    vae = mv.VAE(
        [mv.Reshape((5, 6, 1)), mv.Conv2d(1, 3, 3, 2, 1), mv.Tanh(), mv.Conv2d(3, 4, 3, 3), mv.Flatten()],
        [mv.Dense(2, 18), mv.Reshape((2, 3, 3)), mv.ConvTranspose2d(3, 2, 3, 2, 1, 1), mv.Flatten(), mv.Dense(48, 30)],
    )
    state = {name: torch.from_numpy(array) for name, array in mv.to_torch_state_dict(vae).items()}
    x = np.random.default_rng(0).random((4, 30), np.float32)
    F = torch.nn.functional
    h = F.conv2d(torch.from_numpy(x).reshape(4, 1, 5, 6), state["encoder.1.weight"], state["encoder.1.bias"], 2, 1)
    h = F.conv2d(torch.tanh(h), state["encoder.3.weight"], state["encoder.3.bias"], 3).permute(0, 2, 3, 1)
    np.testing.assert_allclose(vae.encode(x)[0], h.reshape(4, 4)[:, :2], rtol=1e-5, atol=1e-6)

    h = F.linear(h.reshape(4, 4)[:, :2], state["decoder.0.weight"], state["decoder.0.bias"])
    h = h.reshape(4, 2, 3, 3).permute(0, 3, 1, 2)
    h = F.conv_transpose2d(h, state["decoder.2.weight"], state["decoder.2.bias"], 2, 1, 1).permute(0, 2, 3, 1)
    h = F.linear(h.reshape(4, -1), state["decoder.4.weight"], state["decoder.4.bias"])
    np.testing.assert_allclose(vae.reconstruct(x), torch.sigmoid(h), rtol=1e-5, atol=1e-6)
    kept = vae.parameters.flat.copy()
    vae.parameters.flat.fill(0)
    mv.from_torch_state_dict(vae, state)
    np.testing.assert_array_equal(vae.parameters.flat, kept)
