r"""Reads an image file: upright, over white, 8 bits per channel, scaled to one size. It never executes anything."""

from pathlib import Path

import numpy as np
from torch import Tensor

from ..messages import line

MODES = {1: "L", 3: "RGB"}
# The formats of Pillow that are only decoded; PostScript, for example, is a program.
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "DIB", "PPM", "TIFF", "WEBP", "GIF", "AVIF", "JPEG2000", "TGA")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm")
SUFFIXES += (".tif", ".tiff", ".webp", ".gif", ".avif", ".avifs", ".tga")
SUFFIXES += (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx")
LARGEST = 2**26  # pixels to decode at most, 4 bytes each
ORIENTATION, BITS, PHOTOMETRIC, WHITE_IS_ZERO = 0x0112, 258, 262, 0  # tags of EXIF and TIFF, and a value
SAID = "upright by EXIF, over white where transparent, first frame of several, 16 bits scaled to 8"


class Unfit(ValueError):
    r"""The reason why a file cannot be read correctly, and what to do."""


def read(path: Path, size: tuple[int, int], channels: int) -> Tensor:
    r"""Returns the image of a file as bytes (C, H, W), scaled to cover the size and cropped to the middle.

    It is rotated by its EXIF orientation, and put over white where it is transparent. Grey values of 16 bits are scaled
    to 8, 0..65535 to 0..255. Only the first frame is read. A large JPEG is decoded at a lower resolution.

    Arguments:
        path: the file.
        size: (H, W).
        channels: 1 for grey, 3 for colours.

    Raises:
        ValueError: if the file is not an image, its values have no known range, or it has more than 2**26 pixels.
    """
    from PIL import Image, ImageOps
    from torchvision.transforms.functional import pil_to_tensor

    try:
        with Image.open(path, formats=_formats()) as image:
            _reduce(image, size)
            fitted = ImageOps.fit(_plain(image, MODES[channels]), size[::-1], Image.Resampling.BICUBIC)
    except MemoryError:
        raise
    except Unfit as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} cannot be read as an image ({line(error)}): save it smaller") from None
    except Exception as error:  # decoders raise all kinds of errors
        reason = f"{path} cannot be read as an image ({line(error) or type(error).__name__})"
        raise ValueError(f"{reason}: repair it, save it as PNG, or remove it") from error
    return pil_to_tensor(fitted)


def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # some depend on how Pillow was built


def _reduce(image, size: tuple[int, int]) -> None:
    r"""Makes a decoder that supports it decode a large image at a lower resolution, at least twice the size."""
    width, height = image.size
    if width * height > LARGEST:
        image.draft(None, (2 * max(size), 2 * max(size)))
    if image.width * image.height > LARGEST:
        raise Unfit(
            f"it has {width}x{height} pixels, and at most {LARGEST:,} are decoded; save it smaller, near "
            f"{size[1]}x{size[0]}, or as JPEG, which is decoded at a lower resolution"
        )


def _plain(image, mode: str):
    r"""Returns the image in this mode: upright, with 8 bits, opaque."""
    image.load()
    turn = _turn(image)
    image = _opaque(_bytes(image))
    image = image if image.mode == mode else image.convert(mode)
    return image if turn is None else image.transpose(turn)


def _turn(image):
    r"""Returns how to transpose the image to make it upright, or `None`; the TIFF decoder does so itself if it can."""
    from PIL import Image

    T = Image.Transpose
    turns = (T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM, T.TRANSPOSE, T.ROTATE_270, T.TRANSVERSE, T.ROTATE_90)
    try:
        return dict(enumerate(turns, start=2)).get(image.getexif().get(ORIENTATION))
    except Exception:  # a damaged EXIF is ignored; the pixels are fine
        return None


def _bytes(image):
    r"""Returns the image with 8 bits per channel."""
    from PIL import Image

    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    v, tags = np.asarray(image), getattr(image, "tag_v2", {})
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        kind = "real numbers" if image.mode == "F" else "whole numbers of 32 bits, or below 0"
        raise Unfit(
            f"it holds {kind} ({v.min():g} to {v.max():g}), whose black and white are unknown; save it with 8 or 16 "
            "bits, or all images as one array for data.arrays"
        )
    top = 2 ** int(tags.get(BITS, (16,))[0]) - 1
    table = np.rint(np.arange(2**16).clip(max=top) * (255 / top)).astype(np.uint8)
    table = table[::-1] if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else table
    grey = table[v]
    if isinstance(image.info.get("transparency"), int):
        grey[v == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def _opaque(image):
    r"""Returns the image over white: colours under alpha 0 are invisible."""
    from PIL import Image

    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return image
    image = image.convert("LA") if image.mode == "La" else image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
