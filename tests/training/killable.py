"""A training that uses all that a checkpoint must keep; killed and started again, it must end the same.

    python tests/training/killable.py checkpoint.safetensors

Prints a hash of the final weights and of the history without its seconds.
"""

import hashlib
import json
import sys

import numpy as np

import minivae as mv


def train(checkpoint, epochs=30, n=600, resume=True, patience=None, **options):
    rng = np.random.default_rng(0)
    x = rng.random((n, 20), np.float32) * rng.random(20, np.float32)
    encoder = [mv.Dense(20 + 2, 16), mv.ReLU(), mv.Dense(16, 6)]
    decoder = [mv.Dense(3 + 2, 16), mv.Tanh(), mv.Dense(16, 20)]
    vae = mv.VAE(encoder, decoder, posterior=mv.FlowPosterior([mv.Planar(3)]), n_classes=2, seed=1)
    history = mv.fit(
        vae,
        (x, np.arange(n) % 2),
        validation=0.2,
        epochs=epochs,
        batch_size=7,
        samples=3,
        binarize=True,
        optimizer=mv.ClipNorm(mv.Adam(1e-2), 1.0),
        patience=patience or epochs // 3,
        schedules={"beta": mv.linear_warmup(4), "lr": lambda epoch: 1e-2 * 0.9**epoch},
        checkpoint=checkpoint and mv.Checkpoint(checkpoint, resume),
        **options,
    )
    return vae, history


def digest(vae, history):
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in history]
    text = json.dumps([rows, history.best_epoch])
    return hashlib.sha256(vae.parameters.flat.tobytes() + text.encode()).hexdigest()


if __name__ == "__main__":
    print(digest(*train(sys.argv[1])))
