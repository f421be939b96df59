"""Drawing from where the codes are: a mixture of Gaussians fitted to them after training, in place of the prior.

The codes of all data have the distribution q(z) = 1/N sum_n q(z given x_n), the average posterior, from which the prior
may differ by much: beta below 1, many dimensions or an encoder without much noise see to that. A decoder has learned
from codes of q(z), not from draws of p(z); draws of something close to q(z) show what it can do. log p(x) stays that of
the model with its own prior: this is another model, with the same decoder.

Source: Ghosh, Sajjadi, Vergari, Black & Schoelkopf 2020, "From variational to deterministic autoencoders", section 4,
where it is called ex-post density estimation.
"""

import numpy as np

from ..arguments import integer
from ..arguments import seed as check_seed
from ..errors import MiniVAEError
from ..model.inference import finite, unwarned
from ..model.parameters import within
from ..model.vae import VAE, check_vae
from ..randomness import AGGREGATE, SAMPLING, generator


class AggregateSampler:
    """q(z) = 1/N sum_n q(z given x_n), as a mixture of K Gaussians with full covariances, fitted by scikit-learn.

    vae        : a trained VAE without classes
    x          : (N, X), the training examples, more than `components`
    components : K; 1 is a Gaussian with the mean and covariance of the codes
    seed       : keys the one draw of each q(z given x_n) to which the mixture is fitted, and how that starts

    `mixture` is the sklearn.mixture.GaussianMixture. Needs scikit-learn: pip install "minivae[sklearn]".
    """

    @unwarned
    def __init__(self, vae: VAE, x: np.ndarray, components: int = 10, seed: int = 0) -> None:
        try:
            from sklearn.mixture import GaussianMixture
        except ImportError as error:
            raise ImportError('AggregateSampler needs scikit-learn: pip install "minivae[sklearn]"') from error
        self.vae, self.components = check_vae("AggregateSampler: vae", vae), integer("components", components)
        if vae.n_classes:
            raise MiniVAEError(
                "AggregateSampler: the codes of a model with n_classes depend on labels: draw with sample"
            )
        rng, z = generator(check_seed("AggregateSampler: seed", seed), AGGREGATE), []
        for batch, _ in vae._batches(vae.check_input(x), None, vae.inference_rows):
            eps = vae._draw(rng, 1, len(batch))
            (drawn, _), _ = vae.posterior.with_log_q(
                within(vae._params, "posterior"), vae._encode(vae._params, batch, None), eps
            )
            z.append(vae.backend.to_host(drawn)[0])
        z = finite("z", np.concatenate(z)).astype(np.float64)
        if len(z) <= self.components:
            raise MiniVAEError(f"AggregateSampler: {self.components} components need more examples than {len(z)}")
        self.mixture = GaussianMixture(self.components, random_state=int(rng.integers(2**32))).fit(z)

    def draw(self, n: int, seed: int = 0) -> np.ndarray:
        """n draws of z, (n, D)."""
        n, rng = integer("draw: n", n), generator(check_seed("draw: seed", seed), SAMPLING)
        of, noise = self.mixture, rng.standard_normal((n, self.vae.latent_dim))
        k = rng.choice(self.components, n, p=of.weights_ / of.weights_.sum())
        scales = np.linalg.cholesky(of.covariances_)
        return of.means_[k] + np.einsum("nij,nj->ni", scales[k], noise)

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """The means of p(x given z), (n, X), at n draws of z; as `VAE.sample` with the prior."""
        return self.vae.decode(self.draw(n, seed))
