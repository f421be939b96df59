"""Make a small copy of a figure, for the pages that show results: at most 150 KB.

python examples/thumbnail.py runs/mnist/manifold.png examples/figures/keras-mnist-manifold.png
"""

import argparse
import io

from common import at_least_1, command
from PIL import Image, ImageChops

from minivae.files import atomic_write, reading

MOST_BYTES = 150_000


def shrink(picture, width):
    """The bytes of a PNG of this width, or of as much less as keeps it small; grey, or with a palette of 256."""
    while True:
        height = round(picture.height * width / picture.width)
        small = picture.resize((width, height), Image.LANCZOS)
        grey = small.convert("L")
        if ImageChops.difference(small, grey.convert("RGB")).getbbox() is None:
            small = grey
        else:  # the palette reaches every corner that colours come from, so that those of a few points survive
            small = small.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
        content = io.BytesIO()
        small.save(content, "PNG", optimize=True)
        if content.tell() <= MOST_BYTES:
            return content.getvalue()
        width = width * 9 // 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure")
    parser.add_argument("copy")
    parser.add_argument("--width", type=at_least_1, default=600, help="in pixels")
    arguments = parser.parse_args()
    with reading(arguments.figure) as source, Image.open(source) as picture:
        picture = picture.convert("RGB")
    with atomic_write(arguments.copy) as file:
        file.write(shrink(picture, arguments.width))


if __name__ == "__main__":
    command(main)
