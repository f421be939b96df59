"""A variational autoencoder on one page, in plain NumPy: data, forward pass, backward pass, update, and a picture.

    python examples/by_hand.py

An image x of 784 pixels becomes a Gaussian q(z given x) over two numbers z, with mean mu and variance exp(log_var); a
draw of z becomes a logit for each pixel, whose sigmoid is the probability that the pixel is white. Training lowers

    loss = E_q[-log p(x given z)] + KL(q(z given x) || N(0, I)),   the mean over the images, in nats:

how badly z tells the image, and how much z tells. `dname` is d loss / d name. The backward pass is the forward pass
from its last line to its first, and each of its lines follows from the chain rule and one line of the forward pass.

The package does the same with parts that can be exchanged; start reading it at minivae/model/layers.py.
Source: Kingma & Welling 2014, section 3 and appendices B, C.
"""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from minivae import data

HIDDEN, LATENT, BATCH, EPOCHS, LR = 256, 2, 100, 30, 1e-3


def initial(rng, n_pixels):
    """W1, b1, W2, b2 of the encoder, W3, b3, W4, b4 of the decoder; W neither blows up values nor gradients."""
    p = []
    for n_in, n_out in ((n_pixels, HIDDEN), (HIDDEN, 2 * LATENT), (LATENT, HIDDEN), (HIDDEN, n_pixels)):
        limit = np.sqrt(6 / (n_in + n_out))
        p += [rng.uniform(-limit, limit, (n_in, n_out)), np.zeros(n_out)]
    return p


def encode(p, x):
    """Images (B, 784) to a hidden layer, and to mu and log_var of q(z given x), (B, 2) each."""
    W1, b1, W2, b2 = p[:4]
    h = np.maximum(x @ W1 + b1, 0)
    mu, log_var = np.split(h @ W2 + b2, 2, axis=1)
    return h, mu, log_var


def decode(p, z):
    """z (B, 2) to a hidden layer, and to the logits of the pixels (B, 784)."""
    W3, b3, W4, b4 = p[4:]
    g = np.maximum(z @ W3 + b3, 0)
    return g, g @ W4 + b4


def sigmoid(logits):
    return 0.5 + 0.5 * np.tanh(0.5 * logits)  # 1 / (1 + exp(-logits)), which would overflow


def losses_and_gradients(p, x, eps):
    """Reconstruction and KL, averaged over the images x (B, 784), for noise eps (B, 2); and dloss/dp."""
    B = len(x)
    _, _, W2, _, W3, _, W4, _ = p

    h, mu, log_var = encode(p, x)
    std = np.exp(log_var / 2)
    z = mu + std * eps  # a draw from q, with a derivative by mu and log_var
    g, logits = decode(p, z)
    reconstruction = np.sum(np.logaddexp(0, logits) - x * logits) / B
    kl = np.sum(mu**2 + std**2 - log_var - 1) / 2 / B

    dlogits = (sigmoid(logits) - x) / B
    dg = dlogits @ W4.T
    dg_in = dg * (g > 0)  # through the ReLU: g = max(g_in, 0)
    dz = dg_in @ W3.T
    dmu = dz + mu / B  # z and the KL both depend on mu, and on log_var
    dlog_var = dz * eps * std / 2 + (std**2 - 1) / 2 / B
    dstats = np.hstack([dmu, dlog_var])
    dh = dstats @ W2.T
    dh_in = dh * (h > 0)

    dp = []
    for inputs, doutputs in ((x, dh_in), (h, dstats), (z, dg_in), (g, dlogits)):  # outputs = inputs W + b
        dp += [inputs.T @ doutputs, doutputs.sum(axis=0)]
    return (reconstruction, kl), dp


def update(p, dp, mean_squares):
    """RMSprop: each step divided by the root of a running mean of the squared gradients."""
    for w, dw, v in zip(p, dp, mean_squares, strict=True):
        v += 0.1 * (dw**2 - v)
        w -= LR * dw / np.sqrt(v + 1e-7)


def train(p, x, rng, epochs=EPOCHS):
    mean_squares = [np.zeros_like(w) for w in p]
    for epoch in range(1, epochs + 1):
        steps = []
        for rows in np.array_split(rng.permutation(len(x)), len(x) // BATCH):
            losses, dp = losses_and_gradients(p, x[rows], rng.standard_normal((len(rows), LATENT)))
            update(p, dp, mean_squares)
            steps.append(losses)
        reconstruction, kl = np.mean(steps, axis=0)
        print(f"epoch {epoch:2}: {reconstruction + kl:6.2f} nats = reconstruction {reconstruction:.2f} + KL {kl:.2f}")


def picture(p, x, y, n=20):
    """Where the images lie in the latent plane, each written as its digit, and what is decoded there."""
    left, right = Figure(figsize=(13, 6.6), layout="constrained").subplots(1, 2)
    _, mu, _ = encode(p, x)
    for at, digit in zip(mu, y, strict=True):
        left.text(*at, digit, color=colormaps["tab10"](digit), fontsize=8, ha="center", va="center")
    reach = np.abs(mu).max() + 0.1
    z = reach * (2 * np.arange(n) + 1 - n) / n  # the middles of n cells
    grid = np.stack(np.meshgrid(z, z[::-1]), axis=-1).reshape(-1, 2)
    images = sigmoid(decode(p, grid)[1]).reshape(n, n, 28, 28)
    right.imshow(images.swapaxes(1, 2).reshape(28 * n, 28 * n), cmap="gray", extent=(-reach, reach) * 2)
    left.set(title="Means of q(z given x)", xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    right.set(title="What the decoder draws at z")
    for ax in (left, right):
        ax.set(xlabel="z1", ylabel="z2")
    return left.figure


if __name__ == "__main__":
    digits, rng = data.load("sample"), np.random.default_rng(0)
    x_train, x_test = (images.reshape(-1, 784) / 255 for images in (digits.x_train, digits.x_test))
    p = initial(rng, 784)
    train(p, x_train, rng)
    Path("runs").mkdir(exist_ok=True)
    picture(p, x_test, digits.y_test).savefig("runs/by_hand.png", dpi=120, bbox_inches="tight")
    print("picture in runs/by_hand.png")
