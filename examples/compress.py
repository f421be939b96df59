"""The bound as a code length: binarized digits compressed without loss by a VAE, restored, and measured.

    pip install ".[examples]"                                   the entropy coder, the package constriction
    python examples/compress.py --data-dir DIR                  trains a VAE and compresses the test images
    python examples/compress.py --model model.safetensors       with one that is trained: Bernoulli, prior N(0, I)

An entropy coder turns symbols of known probabilities P into -log2 P bits each, and back. A VAE's decoder gives the
probabilities of the pixels of x only once z is known, and to write z down costs more than it saves. Bits back: z is
*drawn* from q(z given x), and what decides the draw are bits that had to be sent anyway, those of the images before.
So, with a coder that is a stack:

    to compress     pop z as symbols of q(z given x),  push x as symbols of p(x given z),  push z as symbols of p(z)
    to restore      pop z as symbols of p(z),  pop x as symbols of p(x given z),  push z as symbols of q(z given x)

Who restores an image thus knows z and x, and puts back the bits that decided the draw. The net cost of x,

    log2 q(z given x) - log2 p(x given z) - log2 p(z),

is on average -ELBO, in bits: a nat is 1 / log 2 = 1.443 of them. z lies on a grid of steps of 1/64, which p and q
share; its width drops out of their ratio. The first images have none before them: some random words take their place,
and are counted. Images are restored by means and probabilities that must be the same to the last bit as when they were
compressed: so both ways go through the networks in the same batches, on the same machine.

Source: Townsend, Bird & Barber 2019, "Practical lossless compression with latent variables using bits back coding";
the idea: Hinton & van Camp 1993; Frey & Hinton 1996.
"""

import bz2
import gzip
import io
import math
import sys
from importlib.util import find_spec

import numpy as np
from common import at_least_1, command, data_name, model_parser, save_results, start, write_json

import minivae as mv

STEP, REACH = 1 / 64, 8  # z is a multiple of STEP within +-REACH
SMALLEST = 1e-6  # no pixel is held for more certain than that


class Codec:
    """Compresses batches of binary images with a VAE of Bernoulli pixels, a Gaussian posterior and the prior N(0, I).

    words : what is on the stack to begin with, uint32
    """

    def __init__(self, vae, words):
        from constriction import stream

        largest = round(REACH / STEP)
        self.vae, self.coder = vae, stream.stack.AnsCoder(words)
        self.gaussian = stream.model.QuantizedGaussian(-largest, largest)
        self.bernoulli = stream.model.Bernoulli(perfect=False)

    def _posterior(self, x):
        """Mean and standard deviation of q(z given x), in steps of the grid, flat."""
        mu, log_var = (values.astype(np.float64) for values in self.vae.encode(255 * x))  # uint8 is read as x / 255
        return np.clip(mu, -REACH, REACH).reshape(-1) / STEP, np.exp(0.5 * log_var).reshape(-1) / STEP

    def _prior(self, n):
        return np.zeros(n), np.full(n, 1 / STEP)

    def _pixels(self, symbols):
        """The probabilities of white pixels, flat, for z in steps of the grid."""
        mean = self.vae.decode((symbols * STEP).reshape(-1, self.vae.latent_dim))
        return np.clip(mean.astype(np.float64), SMALLEST, 1 - SMALLEST).reshape(-1)

    def push(self, x):
        """Put images x (B, X) of 0 and 1, uint8, on the stack."""
        symbols = self.coder.decode(self.gaussian, *self._posterior(x))
        self.coder.encode_reverse(x.astype(np.int32).reshape(-1), self.bernoulli, self._pixels(symbols))
        self.coder.encode_reverse(symbols, self.gaussian, *self._prior(len(symbols)))

    def pop(self, rows):
        """Take the images (rows, X) that were pushed last from the stack, which then is as it was before them."""
        symbols = self.coder.decode(self.gaussian, *self._prior(rows * self.vae.latent_dim))
        x = self.coder.decode(self.bernoulli, self._pixels(symbols)).reshape(rows, -1).astype(np.uint8)
        self.coder.encode_reverse(symbols, self.gaussian, *self._posterior(x))
        return x

    def words(self):
        """All that is on the stack."""
        return self.coder.get_compressed()


def compress(vae, x, batch_size, seed=0):
    """The words that images x (N, X) of 0 and 1, uint8, become, and how many were there to begin with."""
    n_start = 2 + math.ceil(batch_size * vae.latent_dim * 10 / 32)  # a draw from N(0, 1) takes 8 bits, others less
    codec = Codec(vae, np.random.default_rng(seed).integers(1, 1 << 32, n_start, np.uint32))
    for first in range(0, len(x), batch_size):
        codec.push(x[first : first + batch_size])
    return codec.words(), n_start


def restore(vae, words, n_images, batch_size):
    """The images (N, X) that `compress` made words of, and the words that were there to begin with."""
    codec, batches = Codec(vae, words), []
    for first in reversed(range(0, n_images, batch_size)):
        batches.append(codec.pop(min(batch_size, n_images - first)))
    return np.concatenate(batches[::-1]), codec.words()


def png_bytes(pixels):
    """The size of a PNG with one bit a pixel, of pixels (height, width) of 0 and 1."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.astype(bool)).save(file, "PNG", optimize=True)
    return file.tell()


def others(x, shape):
    """Bits per image of general methods, on images x (N, X) of 0 and 1 that are of `shape`."""
    packed, tall = np.packbits(x).tobytes(), x.reshape(-1, shape[1])
    sizes = {
        "PNG, all in one": png_bytes(tall),
        "PNG, one each": sum(png_bytes(image.reshape(shape)) for image in x),
        "gzip": len(gzip.compress(packed, 9)),
        "bz2": len(bz2.compress(packed, 9)),
    }
    return {"as they are": float(x.shape[1])} | {name: 8 * size / len(x) for name, size in sizes.items()}


def model(arguments, backend, dataset):
    """The VAE that was asked for, or a new one that is trained."""
    if arguments.model:
        vae = mv.load(arguments.model, backend)
        parts = type(vae.likelihood), type(vae.posterior), type(vae.prior), vae.n_classes
        if parts != (mv.Bernoulli, mv.DiagonalGaussian, mv.StandardNormal, None):
            raise mv.MiniVAEError("--model should be a VAE of Bernoulli pixels, with Gaussian q and prior N(0, I)")
        return vae
    n_in = int(np.prod(dataset.x_train.shape[1:]))
    where = {"backend": backend, "dtype": arguments.dtype, "seed": arguments.seed}
    vae, epochs = mv.mlp(n_in, arguments.latent_dim, hidden=(300, 300), **where), arguments.epochs
    mv.fit(
        vae,
        dataset.x_train,
        epochs=epochs,
        optimizer=mv.Adam(1e-3),
        binarize="dynamic",
        schedules={"lr": lambda epoch: 1e-3 if epoch <= 0.75 * epochs else 2e-4},
        callbacks=[mv.EpochPrinter()],
    )
    save_results(arguments, vae, dataset)
    return vae


def main():
    parser = model_parser(__doc__.splitlines()[0], "runs/compress", ("mnist", "fashion-mnist", "sample"), plots=False)
    parser.add_argument("--model", help="a trained VAE to compress with, as mv.save wrote it")
    parser.add_argument("--epochs", type=at_least_1, default=20)
    parser.add_argument("--latent-dim", type=at_least_1, default=20)
    parser.add_argument("--batch-size", type=at_least_1, default=100, help="images that are compressed together")
    arguments = parser.parse_args()
    if find_spec("constriction") is None:
        raise mv.MiniVAEError('this example needs the entropy coder constriction: pip install ".[examples]"')
    backend, dataset = start(arguments)
    vae = model(arguments, backend, dataset)
    x = mv.binarize(dataset.x_test).reshape(len(dataset.x_test), -1) // 255
    words, n_start = compress(vae, x, arguments.batch_size)
    restored, _ = restore(vae, words, len(x), arguments.batch_size)
    if not np.array_equal(restored, x):
        sys.exit("error: the images that were restored are not those that were compressed")
    bits = {
        "-ELBO": vae.evaluate(255 * x, samples=10).negative_elbo / math.log(2),
        "bits back": 32 * (len(words) - n_start) / len(x),
        "bits back, with the words to begin with": 32 * len(words) / len(x),
    } | others(x, dataset.x_test.shape[1:3])
    write_json(arguments.out / "result.json", bits | {"images": len(x), "words to begin with": n_start})
    print(f"{len(x)} binarized test images of {data_name(arguments, dataset)} restored exactly; bits for each of them:")
    for name, value in bits.items():
        print(f"{name:<42} {value:>8.2f}")


if __name__ == "__main__":
    command(main)
