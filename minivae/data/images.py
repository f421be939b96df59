"""Your own images, of any size, from a folder of picture files or from an array."""

import os
from pathlib import Path

import numpy as np

from ..arguments import array as check_array
from ..arguments import flag, integer, is_integer
from ..arguments import path as check_path
from ..errors import MiniVAEError, shown
from ..files import MAX_BYTES, check_fits, reading, told_as

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # whatever the name says; Pillow knows many more
PIXEL_BYTES = 20  # of memory for each pixel, at most: decoded, upright, with transparency, its white ground, and both


def read_images(
    source: str | os.PathLike | np.ndarray,
    size: tuple[int, int] | None = None,
    color: bool = False,
    max_bytes: int = MAX_BYTES,
) -> np.ndarray:
    """Images as a uint8 array (N, height, width), or (N, height, width, 3) with `color`.

    source : a folder, whose picture files are taken in the order of their names, sub-folders included; or an
             array (N, height, width) or (N, height, width, 3), whole numbers from 0 to 255, numbers with a
             fraction from 0 to 1, or bool
    size   : (height, width) to scale every image to; without it, all must be of one size already
    color  : keep red, green and blue; otherwise colours turn into grey, 0.299 R + 0.587 G + 0.114 B
    max_bytes : of memory that the result, and a single picture while it is decoded, may take

    As in a picture viewer, transparent parts are white and photographs upright. Raises MiniVAEError for a
    folder without images, a file that cannot be read, images of several sizes, numbers out of range and what would not
    fit into `max_bytes`. Source of the grey: ITU-R BT.601.
    """
    check_height_and_width(size, "size")
    max_bytes, color = integer("read_images: max_bytes", max_bytes), flag("read_images: color", color)
    if isinstance(source, (str, os.PathLike)):
        files = picture_files(Path(os.path.expanduser(check_path("read_images: source", source))))
        return _stack(source, len(files), ((path, _open(path, max_bytes)) for path in files), size, color, max_bytes)
    array = _as_uint8(source)
    if (size is None or tuple(size) == array.shape[1:3]) and color == (array.ndim == 4):
        return array
    from PIL import Image

    pictures = ((f"image {i}", Image.fromarray(image)) for i, image in enumerate(array))
    return _stack("the array of images", len(array), pictures, size, color, max_bytes)


def _stack(where, n, named_pictures, size, color, max_bytes):
    """The pixels of n pictures in one array; each is scaled as it comes, so only one is ever held whole."""
    if size is not None:
        check_fits(where, n * size[0] * size[1] * (3 if color else 1), max_bytes)
    images = None
    for i, (name, picture) in enumerate(named_pictures):
        image = _pixels(picture, size, color)
        if images is None:
            check_fits(where, n * image.nbytes, max_bytes)
            images = np.empty((n, *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            sizes = " and ".join(f"{shape[0]} x {shape[1]}" for shape in (images.shape[1:], image.shape))
            raise MiniVAEError(
                f"the images are of several sizes, {sizes} ({name}): give size=(height, width) to scale them all"
            )
        images[i] = image
    return images


def _pixels(picture, size, color):
    from PIL import Image

    picture = picture.convert("RGB" if color else "L")
    if size is not None:
        picture = picture.resize((size[1], size[0]), Image.LANCZOS)
    return np.asarray(picture)


def picture_files(folder):
    """The paths of all pictures in a folder and the folders in it, by name; MiniVAEError where there are none."""
    if not os.path.isdir(folder):
        raise MiniVAEError(f"cannot read images from {folder}: no such folder can be opened")
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and not path.name.startswith(".")
    )
    if not paths:
        raise MiniVAEError(f"no images in {folder}: expected files that end in {', '.join(ENDINGS)}")
    return paths


def _open(path, max_bytes):
    """The picture in a file, upright and opaque."""
    from PIL import Image, ImageOps

    with reading(path) as stream, told_as(f"cannot read the image {path}"):  # a damaged one may raise nearly any kind
        try:
            with Image.open(stream, formats=FORMATS) as file:
                check_fits(path, file.width * file.height * PIXEL_BYTES, max_bytes)
                if file.mode.startswith(("I", "F")):
                    raise MiniVAEError(f"{path} has more than 8 bits for a pixel: save it with 8")
                picture = ImageOps.exif_transpose(file)  # which decodes it
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise MiniVAEError(f"{path}: {error} Raise PIL.Image.MAX_IMAGE_PIXELS if you trust it") from error
    if "A" in picture.getbands() or "transparency" in picture.info:
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture.convert("RGBA"))
    return picture


def _as_uint8(source):
    try:
        array = check_array("read_images: source", source)
    except MiniVAEError as error:
        raise MiniVAEError(f"the images do not make one array, are they of several sizes? {error}") from error
    is_images = array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3)
    if not is_images or array.size == 0:
        raise MiniVAEError(
            f"expected images of shape (N, height, width) or (N, height, width, 3), got shape {array.shape}"
        )
    if array.dtype == np.uint8:
        return array
    most = 255 if array.dtype.kind in "iu" else 1
    if not (array.min() >= 0 and array.max() <= most):
        found = f"{array.dtype} from {array.min()} to {array.max()}"
        raise MiniVAEError(f"expected pixels as whole numbers from 0 to 255 or as fractions from 0 to 1, got {found}")
    return np.rint(array * (255 / most)).astype(np.uint8)


def check_height_and_width(pair, name):
    """Raise MiniVAEError unless the argument called `name` is None or (height, width)."""
    if pair is None:
        return
    is_pair = isinstance(pair, tuple | list) and len(pair) == 2
    if not is_pair or not all(is_integer(side) and side > 0 for side in pair):
        raise MiniVAEError(f"expected {name} as (height, width), whole numbers of at least 1, got {shown(pair)}")
