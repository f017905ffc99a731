"""Bytes to RGB images, with a defined answer for every hostile or unusual file.

EXIF rotation     applied                    CMYK, LAB, YCbCr   converted
palette           converted                  alpha              composited on white
16 bits           the upper 8 are kept       float              0..1 or clipped to 0..255
animated          first frame                truncated, bomb, not an image: InvalidInput

While decoding, memory holds the picture as stored and as RGB, 4 bytes per pixel each; what lies
between the two is made in blocks.
"""

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, TiffImagePlugin

from dncbm.errors import InvalidInput

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".avif"}
)
# Only raster formats that Pillow decodes by itself: EPS would start Ghostscript, for example.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_PIXEL_BYTES = 4  # of RGB in Pillow's memory
_BLOCK_PIXELS = 1 << 18
_BITS, _SAMPLES, _TILE_WIDTH, _TILE_LENGTH = 258, 277, 322, 323  # tags of TIFF 6.0
_SHORT, _LONG = 3, 4  # its whole numbers
_ORIENTATION = 0x0112  # tag of EXIF, and what a viewer does for each value
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


_FIRST_LYING = 5
"""From this orientation on, width and height change places."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLimits:
    """What is refused before anything is decoded."""

    max_bytes: int = 20 * 1024 * 1024
    """Largest encoded file."""
    max_pixels: int = 50_000_000
    """Largest width times height."""
    is_hostile: bool = False
    """Refuse AVIF: its decoder allocates what the stream says, whatever the header stated."""

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.max_pixels < 1:
            raise InvalidInput(
                f"Image limits must be positive; got max_bytes={self.max_bytes}, "
                f"max_pixels={self.max_pixels}."
            )


def decode_image(data: bytes, *, limits: ImageLimits | None = None) -> Image.Image:
    """The picture in `data` as an upright RGB image.

    Raises:
        InvalidInput: empty, too large, not an image, truncated or damaged.
    """
    image = _open_checked(data, limits or ImageLimits())
    try:
        image.load()
    # Pillow's decoders raise many kinds of error on damaged data; all mean the same here.
    except Exception as error:
        raise InvalidInput(f"The image is truncated or damaged: {error}.") from error
    image = _upright(image)  # one name for both, so that the stored one is freed
    return _to_rgb(image)


def image_size(data: bytes, *, limits: ImageLimits | None = None) -> tuple[int, int]:
    """Width and height of the picture in `data` as stored, read without decoding it.

    Raises:
        InvalidInput: empty, too large or not an image.
    """
    return _open_checked(data, limits or ImageLimits()).size


def upright_size(data: bytes, *, limits: ImageLimits | None = None) -> tuple[int, int]:
    """Width and height of the picture in `data` as `decode_image` would show it, read as cheaply.

    Raises:
        InvalidInput: empty, too large or not an image.
    """
    image = _open_checked(data, limits or ImageLimits())
    return image.size[::-1] if _orientation(image) >= _FIRST_LYING else image.size


def _open_checked(data: bytes, limits: ImageLimits) -> Image.Image:
    if not data:
        raise InvalidInput("The image is empty (0 bytes).")
    if len(data) > limits.max_bytes:
        raise InvalidInput(
            f"The image file has more than {limits.max_bytes:,} bytes, which is the limit. "
            "Save it smaller."
        )
    image = _open(data, limits)
    if image.width * image.height > limits.max_pixels:
        raise _too_many_pixels(f"{image.width} x {image.height}", limits)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiles(image, data, limits)
    return image


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_available_formats(limits))
    except _BOMBS as error:
        raise _too_many_pixels("far too many", limits) from error
    except Exception as error:
        raise InvalidInput(
            f"Not an image that can be read ({len(data):,} bytes beginning with {data[:8]!r}). "
            "Use JPEG, PNG, WebP, GIF, BMP or TIFF."
        ) from error


def _available_formats(limits: ImageLimits) -> tuple[str, ...]:
    Image.init()
    refused = ("AVIF",) if limits.is_hostile else ()
    return tuple(name for name in _FORMATS if name in Image.OPEN and name not in refused)


def _too_many_pixels(found: str, limits: ImageLimits) -> InvalidInput:
    return InvalidInput(
        f"The image has {found} pixels; at most {limits.max_pixels:,} are decoded. Make it smaller."
    )


def _check_tiles(image: TiffImagePlugin.TiffImageFile, data: bytes, limits: ImageLimits) -> None:
    """A tile is decoded whole, however small its image is, so it must keep to the limit too."""
    entries = _tiff_entries(data, image.tag_v2.offset)
    layout = [entry for entry in entries if entry[0] in (_SAMPLES, _TILE_WIDTH, _TILE_LENGTH)]
    tags = [tag for tag, _, _ in layout]
    # Libtiff, which decodes, and Pillow, which is asked here, understand anything else differently.
    if len(tags) > len(set(tags)) or any(
        kind not in (_SHORT, _LONG) or count != 1 for _, kind, count in layout
    ):
        raise InvalidInput(
            "The TIFF is damaged: it states its tiles or samples twice or not as one whole "
            "number. Save it again with another program."
        )
    if _TILE_WIDTH not in tags and _TILE_LENGTH not in tags:
        return  # strips, which are never larger than the image
    width, length = (image.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH))
    bits = image.tag_v2.get(_SAMPLES, 3) * max(image.tag_v2.get(_BITS, (1,)))
    if width * length * bits > limits.max_pixels * _PIXEL_BYTES * 8:
        raise InvalidInput(
            f"The TIFF has tiles of {width} x {length} pixels; at most {limits.max_pixels:,} "
            f"pixels of {_PIXEL_BYTES} bytes are decoded. Save it with smaller tiles."
        )


def _tiff_entries(data: bytes, start: int) -> list[tuple[int, int, int]]:
    """Tag, type and count of each entry of a TIFF directory, also those that Pillow skips."""
    order = "<" if data[:2] == b"II" else ">"
    number, entry = ("Q", "HHQ8x") if data[2] == 43 else ("H", "HHL4x")  # 43: BigTIFF
    (length,) = struct.unpack_from(order + number, data, start)
    first = start + struct.calcsize(order + number)
    size = struct.calcsize(order + entry)
    whole = min(length, (len(data) - first) // size)
    table = data[first : first + whole * size]
    return [(tag, kind, count) for tag, kind, count in struct.iter_unpack(order + entry, table)]


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """From 1 (upright) to 8; what is damaged or unknown counts as upright."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block does not spoil the pixels
        return 1
    return found if found in _TURNS else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """A new RGB image, which keeps nothing of the file alive."""
    if image.mode == "RGB":
        return image.copy()
    if image.mode.startswith("I;16"):
        return _in_blocks(image, _upper_eight_bits)
    if image.mode == "I":
        largest = max(np.asarray(image.crop(box)).max() for box in _blocks(image))
        return _in_blocks(image, _upper_eight_bits if largest > 255 else _clipped)
    if image.mode == "F":
        largest = max(_levels(image.crop(box)).max() for box in _blocks(image))
        return _in_blocks(image, _shares_of_white if largest <= 1.0 else _clipped)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _in_blocks(image, _on_white)
    return image.convert("RGB")


def _blocks(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of at most `_BLOCK_PIXELS` pixels that cover the image."""
    width = min(image.width, _BLOCK_PIXELS)
    height = max(1, _BLOCK_PIXELS // width)
    for top in range(0, image.height, height):
        for left in range(0, image.width, width):
            right, bottom = min(left + width, image.width), min(top + height, image.height)
            yield left, top, right, bottom


def _in_blocks(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    out = Image.new("RGB", image.size)
    for box in _blocks(image):
        out.paste(convert(image.crop(box)), box)
    return out


def _on_white(block: Image.Image) -> Image.Image:
    layer = block.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")


def _upper_eight_bits(block: Image.Image) -> Image.Image:
    """Grey levels of integers that are 16-bit values."""
    return _grey(np.asarray(block) >> 8)


def _clipped(block: Image.Image) -> Image.Image:
    return _grey(np.rint(_levels(block)))


def _shares_of_white(block: Image.Image) -> Image.Image:
    """Grey levels of floats from 0 to 1."""
    return _grey(np.rint(_levels(block) * 255.0))


def _levels(block: Image.Image) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN like any other
        levels = np.asarray(block, dtype=np.float64)
    return np.nan_to_num(levels, posinf=255.0, neginf=0.0)


def _grey(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).convert("RGB")
