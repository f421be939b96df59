"""What training may add to the loss beside the KL: how the codes of a whole batch lie. Some are in `minivae.zoo`."""

from .parameters import Part


class Regulariser(Part):
    """A penalty on how the codes of a batch lie, beside N(0, I) or beside each other. It has no parameters.

    penalty(z, stats) -> penalty, backward       z (L, B, D), draws; stats (B, S), the encoder's statistics; the share
        backward(dpenalty) -> dz, dstats         of each example in the penalty (B,), nats; its mean is what training
                                                 adds to the loss. dstats is what does not go by z

    It depends on which examples share a batch, so only the loss in training shows it: what comes after training, such
    as `evaluate`, is the ELBO as without it.
    """

    of_gaussians = False  # whether it needs a DiagonalGaussian, whose statistics say what q(z given x) is at any z

    def penalty(self, z, stats):
        raise NotImplementedError
