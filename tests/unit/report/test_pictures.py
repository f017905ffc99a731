import io

import pytest
from PIL import Image

from dncbm.errors import InvalidInput
from dncbm.report.pictures import data_address, preview, thumbnail
from tests.unit.report.report_sample import picture, png_bytes


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_thumbnail_is_a_small_square() -> None:
    wide = Image.new("RGBA", (400, 100), "red")
    assert opened(thumbnail(wide)).size == (112, 112)
    assert len(thumbnail(picture(1))) < 6000


def test_preview_keeps_the_shape() -> None:
    assert opened(preview(Image.new("L", (1000, 500)))).size == (360, 180)
    assert opened(preview(Image.new("RGB", (20, 10)))).size == (20, 10)


def test_data_address() -> None:
    assert data_address(png_bytes()).startswith("data:image/png;base64,iVBOR")
    assert data_address(thumbnail(picture(0))).startswith("data:image/jpeg;base64,/9j/")


def test_other_bytes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="bytes of a JPEG or PNG file"):
        data_address(b"<svg onload=alert(1)>")
