"""minivae: variational autoencoders with every gradient written by hand, on NumPy and on CuPy.

Read it in this order: backend, parameters, layers, conv, divergences, likelihoods, posteriors, flows, bounds, vae,
optimizers, binarization, training. `minivae.data` and `minivae.plots` stand apart and are imported by those who use
them.
"""



from .backend import get_backend
from .binarization import binarize
from .bounds import ELBO, ImportanceWeighted
from .checkpoint import load
from .conv import Conv2d, ConvTranspose2d, Flatten, Reshape
from .errors import Interrupted, MiniVAEError
from .flows import FlowPosterior, InverseAutoregressive, Planar
from .gradcheck import gradcheck
from .layers import Dense, ReLU, Sequential, Sigmoid, Tanh
from .likelihoods import Bernoulli, Categorical, Gaussian, PredictedVarianceGaussian, SharedVarianceGaussian
from .optimizers import SGD, Adam, RMSprop
from .posteriors import DiagonalGaussian
from .stopping import linear_warmup
from .torch_weights import from_torch_state_dict, to_torch_state_dict
from .training import History, fit
from .vae import VAE, Losses

__version__ = "0.1.0"

__all__ = [
    "ELBO",
    "SGD",
    "VAE",
    "Adam",
    "Bernoulli",
    "Categorical",
    "Conv2d",
    "ConvTranspose2d",
    "Dense",
    "DiagonalGaussian",
    "Flatten",
    "FlowPosterior",
    "Gaussian",
    "History",
    "ImportanceWeighted",
    "Interrupted",
    "InverseAutoregressive",
    "Losses",
    "MiniVAEError",
    "Planar",
    "PredictedVarianceGaussian",
    "RMSprop",
    "ReLU",
    "Reshape",
    "Sequential",
    "SharedVarianceGaussian",
    "Sigmoid",
    "Tanh",
    "binarize",
    "fit",
    "from_torch_state_dict",
    "get_backend",
    "gradcheck",
    "linear_warmup",
    "load",
    "to_torch_state_dict",
]
