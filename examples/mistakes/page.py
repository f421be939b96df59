"""A page on which the tutorial's network trains in the browser, healthy and broken.

python examples/mistakes/page.py training.html
"""

import sys
from pathlib import Path

import minivae as mv
from minivae import data
from minivae.views.training_page import training_page


class Averaged(mv.Bernoulli):
    """Averages over the pixels what it should sum."""

    def log_prob(self, params, x, logits):
        log_px, backward = super().log_prob(params, x, logits)
        scale = 1 / x.shape[1]
        return log_px * scale, lambda dlog_px: backward(dlog_px * scale)


def model(latent, **parts):
    encoder = [mv.Dense(784, 64), mv.ReLU(), mv.Dense(64, 2 * latent)]
    return mv.VAE(encoder, [mv.Dense(latent, 64), mv.ReLU(), mv.Dense(64, 784)], **parts)


def variants():
    return {
        "Healthy, 2 latent dimensions": (model(2), "784-64-2-64-784, as it should be."),
        "1 latent dimension": (model(1), "All digits must find a place on one line."),
        "8 latent dimensions": (model(8), "More room: sharper reconstructions, a larger KL."),
        "Pixels averaged, KL summed": (
            model(2, likelihood=Averaged()),
            "The same as beta = 784: the KL goes to 0 and every image becomes the same grey one.",
        ),
        "KL weighted by 0.1": (model(2, beta=0.1), "0.05 in the place of 1/2: the means spread beyond the prior."),
    }


if __name__ == "__main__":
    digits = data.load("sample")
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "training.html")
    out.write_text(training_page(variants(), digits.x_train, digits.x_test, digits.y_test))
    print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB")
