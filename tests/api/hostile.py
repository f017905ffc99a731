"""Uploads that nobody sends in good faith, drawn from a seed: pictures, forms and JSON."""

import base64
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, features

from tests.api.fakes import save

BOUNDARY = "frontier"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
JSON = "application/json"


@dataclass(frozen=True)
class Hostile:
    """The body of a request, its content type, and how it came to be."""

    what: str
    kind: str
    body: bytes


def hostile_uploads(seed: int) -> Iterator[Hostile]:
    """Without end; a tenth are pictures as they are."""
    draw = random.Random(seed)
    while True:
        name, data = draw.choice(sorted(valid_pictures().items()))
        mutate = draw.choice(_MUTATIONS)
        what, data = f"{name}, {mutate.__name__}", mutate(data, draw)
        yield draw.choices(_WRAPPINGS, weights=_WEIGHTS)[0](what, data, draw)


@cache
def valid_pictures() -> dict[str, bytes]:
    """Every format and mode that is decoded, small."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (33, 47, 4), dtype=np.uint8)
    rgb, rgba = Image.fromarray(pixels[:, :, :3].copy()), Image.fromarray(pixels, "RGBA")
    deep = Image.fromarray(draw.integers(0, 65536, (33, 47), dtype=np.uint16))
    frames = {"save_all": True, "append_images": [rgb.rotate(turn) for turn in (90, 180)]}
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
        "jpeg": save(rgb, "JPEG", exif=exif),
        "progressive jpeg": save(rgb, "JPEG", progressive=True),
        "cmyk jpeg": save(rgb.convert("CMYK"), "JPEG"),
        "mpo": save(rgb, "MPO", **frames),
        "png": save(rgb, "PNG"),
        "png with alpha": save(rgba, "PNG"),
        "16-bit png": save(deep, "PNG"),
        "palette png": save(rgb.convert("P"), "PNG", transparency=0),
        "1-bit png": save(rgb.convert("1"), "PNG"),
        "animated png": save(rgb, "PNG", **frames),
        "animated gif": save(rgb, "GIF", **frames),
        "bmp": save(rgb, "BMP"),
        "ppm": save(rgb, "PPM"),
        "tiff": save(rgb, "TIFF"),
        "deflated tiff": save(rgb, "TIFF", compression="tiff_deflate"),
        "lzw tiff": save(rgba, "TIFF", compression="tiff_lzw"),
        "jpeg tiff": save(rgb, "TIFF", compression="jpeg"),
        "16-bit tiff": save(deep, "TIFF"),
        "float tiff": save(deep.convert("F"), "TIFF"),
        "webp": save(rgb, "WEBP"),
        "lossless webp": save(rgba, "WEBP", lossless=True),
        "animated webp": save(rgb, "WEBP", **frames),
    }
    if features.check("avif"):
        made["avif"] = save(rgb, "AVIF")
    return made


def untouched(data: bytes, draw: random.Random) -> bytes:
    return data


def truncated(data: bytes, draw: random.Random) -> bytes:
    """Anywhere, and as often within the headers as at the very end."""
    end = draw.choice(
        [draw.randrange(len(data)), draw.randrange(64), len(data) - draw.randrange(9)]
    )
    return data[: max(0, min(end, len(data)))]


def flipped(data: bytes, draw: random.Random) -> bytes:
    found = bytearray(data)
    reach = draw.choice([len(data), min(64, len(data))])
    for _ in range(draw.choice([1, 3, 30])):
        found[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    return bytes(found)


def overwritten(data: bytes, draw: random.Random) -> bytes:
    """Numbers at the limits of their types, where sizes and offsets may be."""
    found = bytearray(data)
    for _ in range(draw.choice([1, 2, 5])):
        value = draw.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff"])
        at = draw.randrange(min(len(data), draw.choice([40, 400, len(data)])))
        found[at : at + len(value)] = value
    return bytes(found)


def cut_out(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randrange(1, 200) :]


def repeated(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    part = data[start : start + draw.randrange(1, 300)]
    return data[:start] + part * draw.randrange(2, 40) + data[start:]


def spliced(data: bytes, draw: random.Random) -> bytes:
    other = draw.choice(list(valid_pictures().values()))
    return data[: draw.randrange(len(data))] + other[draw.randrange(len(other)) :]


def with_zip(data: bytes, draw: random.Random) -> bytes:
    """A picture that is an archive, too."""
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../etc/passwd", b"\0" * draw.randrange(50_000))
    return file.getvalue()


def with_page(data: bytes, draw: random.Random) -> bytes:
    """A picture that is a web page, too."""
    page = b"<!doctype html><script>alert(1)</script>"
    return draw.choice([data + page, page + data, data[:6] + page + data[6:]])


def zeros(data: bytes, draw: random.Random) -> bytes:
    return draw.choice([b"", bytes(draw.randrange(1, 60_000)), data[:8] + bytes(5000)])


def noise(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.choice([0, 4, 12])] + draw.randbytes(draw.randrange(1, 5000))


def bomb(data: bytes, draw: random.Random) -> bytes:
    """Small files that state, or hold, very many pixels."""
    side = draw.choice([400, 5_000, 30_000, 2**31 - 1])
    return draw.choice([_png_bomb, _gif_bomb, _webp_bomb, _tiff_bomb, _bmp_bomb, _text_bomb])(side)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(side: int, *chunks: bytes) -> bytes:
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _png_chunk(b"IEND", b"")


def _png_bomb(side: int) -> bytes:
    return _png(side, _png_chunk(b"IDAT", zlib.compress(bytes(20_000_000), 9)))


def _text_bomb(side: int) -> bytes:
    text = b"comment\0\0" + zlib.compress(bytes(30_000_000), 9)
    return _png(20, _png_chunk(b"zTXt", text), _png_chunk(b"IDAT", zlib.compress(bytes(1220))))


def _gif_bomb(side: int) -> bytes:
    side = min(side, 65_535)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\0"
    head = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + bytes(6)
    return head + frame * 500 + b";"


def _webp_bomb(side: int) -> bytes:
    size = struct.pack("<I", min(side, 1 << 24) - 1)[:3]
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size + size
    return b"RIFF" + struct.pack("<I", 4 + len(canvas)) + b"WEBP" + canvas


def _tiff_bomb(side: int) -> bytes:
    data = bytearray(save(Image.new("RGB", (16, 16)), "TIFF", compression="tiff_deflate"))
    start = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, start)[0]):
        at = start + 2 + 12 * entry
        if struct.unpack_from("<H", data, at)[0] in (256, 257, 278):  # width, height, strip
            struct.pack_into("<HII", data, at + 2, 4, 1, side)
    return bytes(data)


def _bmp_bomb(side: int) -> bytes:
    data = bytearray(save(Image.new("RGB", (4, 4)), "BMP"))
    struct.pack_into("<ii", data, 18, side, -side)
    return bytes(data)


def drawing(data: bytes, draw: random.Random) -> bytes:
    entity = b'<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    return entity + b'<svg xmlns="http://www.w3.org/2000/svg"><text>&a;</text></svg>'


_MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    untouched, truncated, flipped, overwritten, cut_out, repeated, spliced, with_zip, with_page,
    zeros, noise, bomb, drawing,
]  # fmt: skip


def _part(data: bytes, header: bytes = b'name="image"; filename="p.jpg"') -> bytes:
    head = b"--" + BOUNDARY.encode() + b"\r\nContent-Disposition: form-data; " + header
    return head + b"\r\nContent-Type: image/jpeg\r\n\r\n" + data + b"\r\n"


_END = b"--" + BOUNDARY.encode() + b"--\r\n"


def as_form(what: str, data: bytes, draw: random.Random) -> Hostile:
    return Hostile(what, FORM, _part(data) + _END)


def as_json(what: str, data: bytes, draw: random.Random) -> Hostile:
    text = draw.choice(["", "data:image/png;base64,"]) + base64.b64encode(data).decode()
    return Hostile(f"{what}, as JSON", JSON, json.dumps({"images": [text]}).encode())


def as_bad_form(what: str, data: bytes, draw: random.Random) -> Hostile:
    """Forms that break the rules of forms."""
    long_name = b'name="image"; filename="' + b"a" * 90_000 + b'"'
    nested = b"--inner\r\nContent-Disposition: file\r\n\r\n" + data + b"\r\n--inner--"
    bodies = {
        "no end": (FORM, _part(data)),
        "no boundary": ("multipart/form-data", _part(data) + _END),
        "another boundary": ("multipart/form-data; boundary=other", _part(data) + _END),
        "odd boundary": (f"multipart/form-data; boundary={'x' * 5000}", _part(data) + _END),
        "charset": (f"{FORM}; charset={draw.choice(['utf-16', 'rot13', 'x'])}", _part(data) + _END),
        "nested": (FORM, _part(nested) + _END),
        "huge header": (FORM, _part(data, long_name) + _END),
        "many headers": (FORM, _part(data, b'name="image"\r\n' + b"X-A: b\r\n" * 3000) + _END),
        "many parts": (FORM, _part(b"") * 1500 + _END),
        "no name": (FORM, _part(data, b'filename="p.jpg"') + _END),
        "no file name": (FORM, _part(data, b'name="image"') + _END),
        "odd name": (FORM, _part(data, b'name="image"; filename="\xff\xfe\\"../\'"') + _END),
        "text field": (FORM, _part(b"hello", b'name="image"') + _END),
        "bare newlines": (FORM, _part(data).replace(b"\r\n", b"\n") + _END),
        "cut": (FORM, (_part(data) + _END)[: draw.randrange(200)]),
        "flipped": (FORM, flipped(_part(data)[:150], draw) + data + b"\r\n" + _END),
        "twice as a name": (FORM, _part(data, b'name="image"; name="x"; filename=""') + _END),
        "empty": (FORM, b""),
    }
    key = draw.choice(sorted(bodies))
    return Hostile(f"{what}, form: {key}", *bodies[key])


def as_bad_json(what: str, data: bytes, draw: random.Random) -> Hostile:
    """JSON that is none, or another one."""
    text = base64.b64encode(data).decode()
    whole = json.dumps({"images": [text]}).encode()
    odd = draw.choice([None, 1, 1e308, True, {}, [], "é", "\ud800", "\0"])
    bodies = [
        whole[: draw.randrange(len(whole))],
        flipped(whole, draw),
        json.dumps({"images": text}).encode(),
        json.dumps({"images": [text[:-1]]}).encode(),
        json.dumps({"images": [text + "=" * 7]}).encode(),
        json.dumps({"images": [text], "url": "http://169.254.169.254/"}).encode(),
        json.dumps({"images": [odd]}).encode(),
        json.dumps({"images": [text[:200]] * 40}).encode(),
        b"[" * draw.choice([10, 50_000]),
        b'{"images":' * 3000,
        b'{"images": [1' + b"0" * 50_000 + b"]}",
        b'{"images": ["' + b"\xff\xfe" * 100 + b'"]}',
        b"null",
        b"",
        data,
    ]
    number = draw.randrange(len(bodies))
    return Hostile(f"{what}, bad JSON {number}", JSON, bodies[number])


def as_other(what: str, data: bytes, draw: random.Random) -> Hostile:
    """Under a content type that is not read, or not what it says."""
    kinds = ["image/png", "text/html", "", "a" * 300, FORM, JSON, "multipart/mixed; boundary=x"]
    kind = draw.choice(kinds)
    return Hostile(f"{what}, sent as {kind[:20]!r}", kind, data)


_WRAPPINGS = (as_form, as_json, as_bad_form, as_bad_json, as_other)
_WEIGHTS = (60, 15, 12, 8, 5)
