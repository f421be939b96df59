"""Whoever calls minivae gets types, of arguments and of results."""

import inspect
import typing

import pytest

import minivae as mv
import minivae.sklearn
from minivae import data
from minivae.model.inference import Inference
from minivae.views import plots

# What minivae calls, of parts of one's own and of a model: arrays whose shapes the docstrings tell.
HOOKS = set(
    """forward function inverse log_prob loss mean sample update fresh_state parts split moments with_log_q
    split_with_backward with_kl lack own_prior for_training own_loss proposal pseudo_inputs penalty check check_pixels
    constant_arrays shapes initial output_shape uniform_shapes latent_dim params_dim sweeps begin end lr""".split()
)
HOOKS_OF_A_VAE = set("forward_and_backward lack params_of check_input draw_prior uniform_shapes forward beta".split())
FIGURES = """loss_curves reconstructions draws samples styles interpolation manifold latent_plane latent_space
    kl_per_dimension architecture""".split()


def methods(thing, hooks):
    for name, value in vars(thing).items():
        function = getattr(value, "fget", value)
        is_called = not name.startswith("_") or name in ("__init__", "__call__")
        if inspect.isfunction(function) and is_called and name not in hooks:
            yield name, function


def public():
    """Functions, methods and constructors by their full names."""
    found = {f"minivae.{name}": getattr(mv, name) for name in mv.__all__}
    found |= {f"minivae.data.{name}": getattr(data, name) for name in data.__all__}
    found |= {f"plots.{name}": getattr(plots, name) for name in FIGURES}
    found["VAEEstimator"] = minivae.sklearn.VAEEstimator
    found["VAE"] = Inference  # whose methods a VAE has
    functions = {name: thing for name, thing in found.items() if inspect.isfunction(thing)}
    for name, thing in found.items():
        if inspect.isclass(thing):
            hooks = {
                mv.VAE: HOOKS_OF_A_VAE,
                Inference: HOOKS_OF_A_VAE,
                minivae.sklearn.VAEEstimator: (),
                mv.Run: {"__init__"},
            }.get(thing, HOOKS)
            functions |= {f"{name}.{method}": function for method, function in methods(thing, hooks)}
    return [pytest.param(inspect.unwrap(function), id=name) for name, function in functions.items()]


@pytest.mark.parametrize("function", public())
def test_public_functions_say_their_types(function):
    if function.__module__.startswith("minivae"):
        signature = inspect.signature(function)
        bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name != "self"]
        assert not bare and signature.return_annotation is not signature.empty
        typing.get_type_hints(function)  # raises where a name in one of them is not there
