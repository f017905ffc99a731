"""Pictures for the report: small JPEGs and data addresses."""

import base64
import io

from PIL import Image, ImageOps

from dncbm.errors import InvalidInput

_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png"}


def thumbnail(image: Image.Image, *, size: int = 112, quality: int = 78) -> bytes:
    """JPEG of the image's centre square, `size` pixels wide."""
    return _jpeg(ImageOps.fit(image.convert("RGB"), (size, size)), quality)


def preview(image: Image.Image, *, size: int = 360, quality: int = 82) -> bytes:
    """JPEG of the whole image, its longer side at most `size` pixels."""
    small = image.convert("RGB")
    small.thumbnail((size, size))
    return _jpeg(small, quality)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()


def data_address(image: bytes) -> str:
    """A `data:` address of an encoded JPEG or PNG.

    Raises:
        InvalidInput: the bytes are neither.
    """
    for magic, media_type in _TYPES.items():
        if image.startswith(magic):
            return f"data:{media_type};base64,{base64.b64encode(image).decode()}"
    raise InvalidInput(
        f"A report picture begins with {image[:4]!r}; give the bytes of a JPEG or PNG file."
    )
