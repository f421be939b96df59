"""minivae: variational autoencoders with every gradient written by hand in plain NumPy, compiled for cores and GPUs.

Read `model` first: layers, gaussian, posteriors, likelihoods, bounds, vae, optimizers; then `training`; `engine` last.
`minivae.data` and `minivae.views` stand apart and are imported by those who use them.
"""

from .engine import get_backend, rows
from .errors import Interrupted, MiniVAEError, MiniVAEWarning
from .gradcheck import gradcheck
from .model.binarization import binarize
from .model.bounds import ELBO, Bound, ImportanceWeighted
from .model.builders import convnet, mlp
from .model.conv import Conv2d, ConvTranspose2d, Flatten, Reshape
from .model.flows import Flow, FlowPosterior, InverseAutoregressive, Planar
from .model.inference import Losses
from .model.layers import Dense, Layer, ReLU, Sequential, Sigmoid, Tanh
from .model.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    Likelihood,
    PredictedVarianceGaussian,
    SharedVarianceGaussian,
)
from .model.more_layers import ELU, GELU, Dropout, LayerNorm, LeakyReLU, Softplus
from .model.optimizers import SGD, Adam, ClipNorm, Optimizer, RMSprop
from .model.posteriors import DiagonalGaussian, Posterior
from .model.priors import Prior, StandardNormal
from .model.regularisers import Regulariser
from .model.vae import VAE
from .storage import from_torch_state_dict, load, save, to_torch_state_dict
from .training import Checkpoint, CSVWriter, EarlyStopping, EpochPrinter, History, Run, fit, linear_warmup
from .views.diagnose import diagnose
from .zoo.aggregate import AggregateSampler
from .zoo.avb import ImplicitPosterior, avb
from .zoo.branches import SideBySide, WithInput
from .zoo.counts import Poisson
from .zoo.flow_prior import FlowPrior
from .zoo.gated import GatedDense
from .zoo.gumbel import GumbelSoftmax, UniformCodes
from .zoo.imputation import impute, miwae
from .zoo.mig import Disentanglement, mutual_information_gap
from .zoo.missing import Observed, ZeroFilled
from .zoo.mixture import MixturePrior
from .zoo.mmd import MMD
from .zoo.quality import frechet_distance, nearest_rows, precision_and_recall
from .zoo.residual import Residual
from .zoo.total_correlation import BetaTC, KLParts, kl_parts
from .zoo.two_layers import TwoLayerPosterior, TwoLayerPrior, two_layers
from .zoo.vamp import VampPrior
from .zoo.vector_quantized import CodebookPrior, CodebookUse, VectorQuantized, codebook_use

__version__ = "0.1.0"

__all__ = [
    "ELBO", "ELU", "GELU", "MMD", "SGD", "VAE", "Adam", "AggregateSampler", "Bernoulli", "BetaTC", "Bound",
    "CSVWriter", "Categorical", "Checkpoint", "ClipNorm", "CodebookPrior", "CodebookUse", "Conv2d",
    "ConvTranspose2d", "Dense", "DiagonalGaussian", "Disentanglement", "Dropout", "EarlyStopping", "EpochPrinter",
    "Flatten", "Flow", "FlowPosterior", "FlowPrior", "GatedDense", "Gaussian", "GumbelSoftmax", "History",
    "ImplicitPosterior", "ImportanceWeighted", "Interrupted", "InverseAutoregressive", "KLParts", "Layer",
    "LayerNorm", "LeakyReLU", "Likelihood", "Losses", "MiniVAEError", "MiniVAEWarning", "MixturePrior", "Observed",
    "Optimizer", "Planar", "Poisson", "Posterior", "PredictedVarianceGaussian", "Prior", "RMSprop", "ReLU",
    "Regulariser", "Reshape", "Residual", "Run", "Sequential", "SharedVarianceGaussian", "SideBySide", "Sigmoid",
    "Softplus", "StandardNormal", "Tanh", "TwoLayerPosterior", "TwoLayerPrior", "UniformCodes", "VampPrior",
    "VectorQuantized", "WithInput", "ZeroFilled", "avb", "binarize", "codebook_use", "convnet", "diagnose", "fit",
    "frechet_distance", "from_torch_state_dict", "get_backend", "gradcheck", "impute", "kl_parts", "linear_warmup",
    "load", "miwae", "mlp", "mutual_information_gap", "nearest_rows", "precision_and_recall", "rows", "save",
    "to_torch_state_dict", "two_layers",
]  # fmt: skip
