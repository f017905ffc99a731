"""Every unusual picture has one defined answer; every hostile one a clear refusal."""

import gc
import io
import struct
import subprocess
import sys
import weakref
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, features

from dncbm.data.images import ImageLimits, decode_image, image_size
from dncbm.errors import InvalidInput
from tests.unit.data.pictures import encode, noise, tiled_tiff


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_pictures_come_back_pixel_by_pixel(kind: str) -> None:
    image = noise(1)
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode_image(encode(image, kind, **options))
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_pixel_by_pixel(orientation: int) -> None:
    upright = noise(2, width=6, height=4)
    # The inverse of what a viewer must do, written out by hand for each of the 8 cases.
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(turn[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encode(stored, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(upright))


def test_alpha_is_composited_on_white() -> None:
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 51]]], dtype=np.uint8)
    decoded = np.asarray(decode_image(encode(Image.fromarray(pixels))))
    np.testing.assert_allclose(decoded[0], [[200, 0, 0], [255, 255, 255], [244, 204, 204]], atol=1)


@pytest.mark.parametrize("mode", ["LA", "P", "L", "1"])
def test_grey_and_palette_become_rgb(mode: str) -> None:
    image = noise(3).convert("L").convert(mode)
    options = {"transparency": 0} if mode == "P" else {}
    assert decode_image(encode(image, "PNG", **options)).mode == "RGB"


def test_transparent_palette_colour_turns_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 1), 1)
    decoded = decode_image(encode(image, "GIF", transparency=0))
    assert decoded.getpixel((0, 0)) == (255, 255, 255)
    assert decoded.getpixel((1, 1)) == (200, 100, 50)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_the_upper_eight(kind: str) -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    decoded = np.asarray(decode_image(encode(Image.fromarray(values), kind)))
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 0, 1, 128, 255])


def test_float_grey_is_a_share_of_white() -> None:
    values = np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32)
    decoded = np.asarray(decode_image(encode(Image.fromarray(values), "TIFF")))
    np.testing.assert_allclose(decoded[0, :, 1], [0, 128, 255, 0], atol=1)


def test_cmyk_jpeg_keeps_its_colour() -> None:
    image = Image.new("RGB", (16, 16), (210, 40, 60)).convert("CMYK")
    decoded = np.asarray(decode_image(encode(image, "JPEG", quality=95)), dtype=int)
    assert np.abs(decoded - [210, 40, 60]).max() <= 6


def test_animated_gif_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_truncated_pictures_are_refused(kind: str) -> None:
    data = encode(noise(4, 64, 64), kind)
    with pytest.raises(InvalidInput, match="truncated or damaged|Not an image"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"hello, world", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="Not an image that can be read"):
        decode_image(data)


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"empty \(0 bytes\)"):
        decode_image(b"")


def _png_claiming(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 10_000, 60_000])
def test_bombs_are_refused_before_they_are_decoded(side: int) -> None:
    with pytest.raises(InvalidInput, match="pixels; at most 50,000,000 are decoded"):
        decode_image(_png_claiming(side, side))


def test_limits_are_the_callers() -> None:
    data = encode(noise(5))
    with pytest.raises(InvalidInput, match="more than 10 bytes"):
        decode_image(data, limits=ImageLimits(max_bytes=10))
    with pytest.raises(InvalidInput, match="24 x 20 pixels; at most 100"):
        decode_image(data, limits=ImageLimits(max_pixels=100))
    with pytest.raises(InvalidInput, match="must be positive"):
        ImageLimits(max_bytes=0)


def test_damaged_exif_does_not_spoil_the_pixels() -> None:
    data = encode(noise(6), "JPEG", exif=b"Exif\x00\x00garbage")
    assert decode_image(data).size == (24, 20)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "WEBP"])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_decoded_picture_keeps_nothing_of_its_file(
    monkeypatch: pytest.MonkeyPatch, kind: str, frames: int
) -> None:
    files: list[weakref.ref[io.BytesIO]] = []

    class Watched(io.BytesIO):
        def __init__(self, data: bytes) -> None:
            super().__init__(data)
            files.append(weakref.ref(self))

    more = {"save_all": True, "append_images": [noise(8)]} if frames > 1 else {}
    data = encode(noise(7), kind, **more)
    monkeypatch.setattr("dncbm.data.images.io", SimpleNamespace(BytesIO=Watched))
    decoded = decode_image(data)
    gc.collect()
    assert decoded.size == (24, 20)
    assert [file() for file in files] == [None]


def _slow_rgb(data: bytes) -> np.ndarray:
    """What `decode_image` must give, the whole picture at once and in float64."""
    image = Image.open(io.BytesIO(data))
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=255.0, neginf=0.0)
        if image.mode == "F":
            values = values * 255.0 if values.max() <= 1.0 else values
        elif image.mode.startswith("I;16") or values.max() > 255:
            values = np.floor(values / 256.0)
        grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, layer).convert("RGB"))


def _unusual() -> dict[str, bytes]:
    draw = np.random.default_rng(9)
    shape = (23, 17)
    rgba = Image.fromarray(draw.integers(0, 256, (*shape, 4), dtype=np.uint8))
    words = draw.integers(0, 1 << 16, shape)
    floats = draw.normal(100, 200, shape).astype(np.float32)
    floats[:2, :3] = [[np.nan, np.inf, -np.inf], [0.5, 1.5, 254.5]]
    shares = draw.uniform(-0.1, 1, shape).astype(np.float32)
    shares[-1, -1] = 1.0
    palette = rgba.convert("RGB").quantize(16)
    return {
        "RGBA": encode(rgba),
        "LA": encode(rgba.convert("LA")),
        "P with one clear colour": encode(palette, transparency=3),
        "P with shades": encode(palette, transparency=bytes(range(0, 256, 16))),
        "L with a clear level": encode(rgba.convert("L"), transparency=7),
        "I;16 PNG": encode(Image.fromarray(words.astype(np.uint16))),
        "I;16 TIFF": encode(Image.fromarray(words.astype(np.uint16)), "TIFF"),
        "I;16B": encode(Image.fromarray(words.astype(">u2")), "TIFF"),
        "I": encode(Image.fromarray((words - 9000).astype(np.int32)), "TIFF"),
        "I in 8 bits": encode(Image.fromarray((words % 256 - 3).astype(np.int32)), "TIFF"),
        "F": encode(Image.fromarray(floats), "TIFF"),
        "F of shares": encode(Image.fromarray(shares), "TIFF"),
    }


@pytest.mark.parametrize("block", [5, 40, 1 << 18])
@pytest.mark.parametrize("kind", _unusual())
def test_blocks_change_no_byte(monkeypatch: pytest.MonkeyPatch, kind: str, block: int) -> None:
    data = _unusual()[kind]
    monkeypatch.setattr("dncbm.data.images._BLOCK_PIXELS", block)
    np.testing.assert_array_equal(np.asarray(decode_image(data)), _slow_rgb(data))


_PEAK = """
import re, sys
from dncbm.data.images import decode_image

def peak():  # ru_maxrss would begin at that of the parent process
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

data = open(sys.argv[1], "rb").read()
decode_image(open(sys.argv[2], "rb").read())
before = peak()
decode_image(data)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mode", ["RGBA", "I;16", "F"])
def test_memory_holds_the_stored_and_the_rgb_picture_only(mode: str, tmp_path: Path) -> None:
    kind = "TIFF" if mode == "F" else "PNG"
    for name, side in (("large", 2048), ("small", 8)):
        (tmp_path / name).write_bytes(encode(Image.new(mode, (side, side)), kind))
    command = [sys.executable, "-c", _PEAK, str(tmp_path / "large"), str(tmp_path / "small")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    # 4 bytes each for both, a quarter of that for the blocks and the file
    assert int(result.stdout) < 2.5 * 4 * 2048 * 2048


@pytest.mark.parametrize("tile", [14144, 16384])
def test_a_tile_larger_than_the_limit_is_refused(tile: int) -> None:
    with pytest.raises(InvalidInput, match=rf"tiles of {tile} x {tile} pixels; at most 50,000,000"):
        decode_image(tiled_tiff(tile))


def test_tiles_count_with_their_bytes() -> None:
    limits = ImageLimits(max_pixels=300)  # 1,200 bytes
    assert decode_image(tiled_tiff(32), limits=limits).size == (1, 1)
    with pytest.raises(InvalidInput, match="tiles of 48 x 48"):
        decode_image(tiled_tiff(48), limits=limits)
    with pytest.raises(InvalidInput, match="tiles of 32 x 32"):
        decode_image(tiled_tiff(32, samples=3), limits=limits)


@pytest.mark.parametrize(
    "entry", [(322, 4, 1, 16384), (323, 17, 1, 8), (277, 17, 1, 8), (322, 3, 2, 16)]
)
def test_ambiguous_tiles_are_refused(entry: tuple[int, int, int, int]) -> None:
    with pytest.raises(InvalidInput, match="states its tiles or samples twice"):
        decode_image(tiled_tiff(16, extra=(entry,)))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_a_hostile_avif_is_refused() -> None:
    data = encode(noise(4), "AVIF")
    assert decode_image(data).size == (24, 20)
    claimed = data.index(b"ispe") + 8
    lying = data[:claimed] + struct.pack(">II", 1, 1) + data[claimed + 8 :]
    assert image_size(lying) == (1, 1)  # though 24 x 20 pixels are decoded
    for avif in (data, lying):
        with pytest.raises(InvalidInput, match=r"Use JPEG, PNG, WebP, GIF, BMP or TIFF"):
            decode_image(avif, limits=ImageLimits(is_hostile=True))


def test_image_size_is_read_without_decoding() -> None:
    data = encode(noise(4, 64, 48))
    assert image_size(data[: len(data) // 2]) == (64, 48)
    with pytest.raises(InvalidInput, match="at most 100"):
        image_size(data, limits=ImageLimits(max_pixels=100))
