"""The maximum mean discrepancy: how far the codes of a batch, all together, lie from draws of N(0, I).

The KL of the ELBO presses each q(z given x) towards the prior, and so costs what z says about x. What `sample` needs is
less: that all codes together, q(z) = mean over x of q(z given x), look like the prior. The discrepancy compares the two
by a kernel k(z, z'), which is large where z and z' are near each other:

    MMD = E k(z, z~) - 2 E k(z, z') + E k(z', z'~),    z, z~ ~ q(z),   z', z'~ ~ N(0, I), all drawn by themselves

It is the squared distance of the means of the two in the kernel's feature space: at least 0, and for a Gaussian kernel
0 only where q(z) = p(z). The first term is averaged over the pairs of a batch. With a Gaussian kernel of variance s2
the others need no draws, as the density of a sum of Gaussians is known: z' seen through the kernel has variance s2 + 1,
and z' - z'~ has s2 + 2, so

    E k(z, z')   = (s2 / (s2 + 1))^(D/2) exp(-|z|^2 / (2 (s2 + 1)))
    E k(z', z'~) = (s2 / (s2 + 2))^(D/2)

Where beta = 0, MMD alone holds the codes: the Wasserstein autoencoder. With a beta between, it is the InfoVAE, whose
alpha is 1 - beta and whose lambda is weight + beta. Sources: Zhao, Song & Ermon 2019, "InfoVAE: balancing learning and
inference in variational autoencoders", section 3; Tolstikhin, Bousquet, Gelly & Schoelkopf 2018, "Wasserstein
auto-encoders", algorithm 2; Gretton et al. 2012, "A kernel two-sample test", lemma 6.
"""

import math
from collections.abc import Sequence

import numpy as np

from ..arguments import at_least, number
from ..errors import MiniVAEError, shown
from ..model.regularisers import Regulariser


def maximum_mean_discrepancy(z, widths):
    """The share of each code of a batch in the discrepancy from N(0, I), whose mean over the batch is its estimate.

        mmd_b = 1/(B - 1) sum_{j not b} k(z_b, z_j) - 2 E k(z_b, z') + E k(z', z'~)
        k(z, z') = mean over w of exp(-|z - z'|^2 / (2 s2_w)),   s2_w = w D

    z (L, B, D), where each of the L samples is a batch of its own;  widths, numbers w -> mmd (L, B);  0 for B = 1

    A pair shows in two shares, so
        dz_b = 2 dmmd_b prior_slope_b z_b - sum_j (dmmd_b + dmmd_j) / (B - 1) slope_bj (z_b - z_j)
    with slope = mean of exp(...) / s2_w, and prior_slope the like of E k(z_b, z'), whose variance is s2_w + 1.
    """
    _, B, D = z.shape
    if B == 1:  # one code says nothing of how codes lie
        return np.zeros_like(z[..., 0]), lambda dmmd: np.zeros_like(z)
    apart = z[:, :, None, :] - z[:, None, :, :]
    squares, own = np.sum(apart**2, axis=-1), np.sum(z**2, axis=-1)
    kernel = slope = to_prior = prior_slope = within_prior = 0
    for s2 in (width * D for width in widths):
        near = np.exp(squares * (-0.5 / s2)) / len(widths)
        near_prior = np.exp(own * (-0.5 / (s2 + 1))) * ((s2 / (s2 + 1)) ** (D / 2) / len(widths))
        kernel, slope = kernel + near, slope + near / s2
        to_prior, prior_slope = to_prior + near_prior, prior_slope + near_prior / (s2 + 1)
        within_prior += (s2 / (s2 + 2)) ** (D / 2) / len(widths)
    mmd = (np.sum(kernel, axis=-1) - 1) / (B - 1) - 2 * to_prior + within_prior  # k(z_b, z_b) = 1 is left out

    def backward(dmmd):
        both = (dmmd[:, :, None] + dmmd[:, None, :]) * slope / (B - 1)
        return 2 * (dmmd * prior_slope)[..., None] * z - np.sum(both[..., None] * apart, axis=2)

    return mmd, backward


class MMD(Regulariser):
    """weight times the discrepancy of the codes from N(0, I); see `maximum_mean_discrepancy`.

    weight : nats; a discrepancy is at most 2, and after training some thousandths, so that hundreds weigh something
    widths : of the Gaussian kernels: k is their mean, and the variance of each is so many times D. Wide ones have a
             slope where codes are far out, narrow ones see the small
    """

    def __init__(self, weight: float = 500.0, widths: Sequence[float] = (0.25, 1.0, 4.0)) -> None:
        self.weight = at_least("MMD: weight", weight)
        if not isinstance(widths, (list, tuple)) or not widths or not all(0 < number(w) < math.inf for w in widths):
            raise MiniVAEError(f"MMD: widths should be a list of positive numbers, got {shown(widths)}")
        self.widths = [float(width) for width in widths]

    def penalty(self, z, stats):
        mmd, mmd_backward = maximum_mean_discrepancy(z, self.widths)
        share = self.weight / len(z)

        def backward(dpenalty):
            return mmd_backward(np.broadcast_to(share * dpenalty, mmd.shape)), np.zeros_like(stats)

        return share * np.sum(mmd, axis=0), backward
