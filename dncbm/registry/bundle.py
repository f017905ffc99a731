"""A model as one folder or one zip file, to be carried to another machine.

It holds the artifacts as they are, those of its encoder too where that is a folder of this machine
(`bcos:DIR`), `config.json`, `README.md` (the model card, which may be edited) and `SHA256SUMS` with
the checksum of every other file. The same model gives the same bytes.
"""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from dncbm.artifacts import MANIFEST, Manifest, load_manifest, slug, write_json, writing
from dncbm.encoders.carried import carried
from dncbm.errors import ArtifactError, InvalidInput
from dncbm.files import LOCK, draft_of, hidden, publish, sync
from dncbm.registry.card import model_card
from dncbm.registry.reading import KINDS, read_directory, require_model

SUMS = "SHA256SUMS"
CARD = "README.md"
CONFIG = "config.json"
RECIPE = "recipe.json"
_CHUNK = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Of every zip entry: the same model gives the same zip."""
_COMPRESSED = (".jpg", ".png", ".npy", ".safetensors", ".parquet")
_SERVING = ("sae", "dictionary", "cbm", "bcos", "guided", "encoder", "report")


def export_model(
    folder: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    training: bool = True,
    source: str | None = None,
) -> Path:
    """Write a model directory as a bundle; the result appears all at once.

    Every file is compared with its recorded checksum on the way.

    Args:
        folder: a finished model directory.
        out: a zip file where it ends in `.zip`, else a folder that does not exist or is empty.
        name: of the model; default: that of its directory.
        training: include embeddings and vocabulary, which only further stages need.
        source: what the card says `dncbm import` is given; default: the model's name.

    Raises:
        ArtifactError: not a finished model, or damaged.
        InvalidInput: something stands at `out`.
        Unavailable: `out` cannot be written.
    """
    out = Path(out)
    zipped = out.suffix == ".zip"
    if out.exists() and (zipped or not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out} exists already. Remove it, or choose another --out.")
    title = slug(name or Path(folder).resolve().name)
    said = source or (f"{title}.zip" if zipped else title)
    with writing(out):
        if zipped:
            out.parent.mkdir(parents=True, exist_ok=True)
            _write_zip(Path(folder), out, title, said, training)
        else:
            with draft_of(out) as draft:
                _fill(Path(folder), draft, title, said, training)
                publish(draft, out)
    return out


def _write_zip(folder: Path, out: Path, title: str, source: str, training: bool) -> None:
    with draft_of(out) as draft, _partial(out) as partial:
        _fill(folder, draft, title, source, training)
        with zipfile.ZipFile(partial, "w") as archive:
            for file in sorted(path for path in draft.rglob("*") if path.is_file()):
                if file.name != LOCK:
                    _add(archive, file, file.relative_to(draft).as_posix())
        sync(partial)
        os.replace(partial, out)
        sync(out.parent)


@contextmanager
def _partial(out: Path) -> Iterator[Path]:
    path = hidden(out, "part")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _add(archive: zipfile.ZipFile, file: Path, name: str) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o644 << 16
    packed = file.suffix in _COMPRESSED
    entry.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
    with file.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
        shutil.copyfileobj(source, target, _CHUNK)


def _fill(folder: Path, draft: Path, title: str, source: str, training: bool) -> None:
    """Everything of a bundle, below `draft`."""
    found = read_directory(folder)
    manifests = {kind: item.manifest for kind, item in found.items()}
    require_model(folder, manifests)
    places = {kind: folder / kind for kind in manifests if training or kind in _SERVING}
    chosen = {kind: manifests[kind] for kind in places}
    for kind, place in carried(str(manifests["cbm"].config.get("encoder")), folder).items():
        manifest = load_manifest(place)
        _require_room(kind, manifest, chosen.get(kind), folder)
        places[kind], chosen[kind] = place, manifest
    sums = {}
    for kind, manifest in chosen.items():
        for name in (*sorted(manifest.files), MANIFEST):
            known = manifest.files.get(name)
            sums[f"{kind}/{name}"] = _copied(places[kind] / name, draft / kind / name, known)
    if (folder / RECIPE).is_file():
        sums[RECIPE] = copy_hashed(folder / RECIPE, draft / RECIPE)
    write_json(draft / CONFIG, _config(title, chosen))
    sums[CONFIG] = _sha256(draft / CONFIG)
    pictures = any(name.startswith("thumbnails/") for name in manifests["dictionary"].files)
    (draft / CARD).write_text(
        model_card(title, manifests, source, pictures=pictures), encoding="utf-8"
    )
    write_sums(draft / SUMS, sums)


def _config(title: str, manifests: dict[str, Manifest]) -> dict[str, object]:
    """What the hub's conventions call the configuration."""
    return {
        "library_name": "dncbm",
        "model_type": "dncbm",
        "name": title,
        "encoder": manifests["cbm"].config.get("encoder"),
        "artifacts": {kind: manifest.fingerprint for kind, manifest in manifests.items()},
    }


def _require_room(kind: str, encoder: Manifest, own: Manifest | None, folder: Path) -> None:
    """Refuse a model beside which another artifact of the encoder's kind lies."""
    if own is not None and own.fingerprint != encoder.fingerprint:
        raise ArtifactError(
            f"{folder / kind} is not the encoder of this model, which a bundle holds in that "
            "place. Move it elsewhere."
        )


def _copied(source: Path, target: Path, expected: str | None) -> str:
    found = copy_hashed(source, target)
    if expected not in (None, found):
        raise ArtifactError(f"{source} was changed after it was written. Make it again.")
    return found


def copy_hashed(source: Path, target: Path) -> str:
    """Copy a file, making folders on the way; its SHA-256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, target.open("xb") as writer:
        return copy_stream(reader, writer)


@runtime_checkable
class Reads(Protocol):
    """A file, or an entry of a zip."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end."""
        ...


@runtime_checkable
class Writes(Protocol):
    """A file."""

    def write(self, data: bytes, /) -> int:
        """Take all of it."""
        ...


def copy_stream(reader: Reads, writer: Writes, most: int | None = None) -> str:
    """Copy bytes; their SHA-256.

    Raises:
        InvalidInput: more than `most` bytes came.
    """
    digest, left = hashlib.sha256(), most
    while chunk := reader.read(_CHUNK):
        if left is not None:
            left -= len(chunk)
            if left < 0:
                raise InvalidInput(f"An entry is longer than the {most:,} bytes it announces.")
        digest.update(chunk)
        writer.write(chunk)
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream, open(os.devnull, "wb") as nothing:
        return copy_stream(stream, nothing)


def write_sums(file: Path, sums: dict[str, str]) -> None:
    """Write checksums as `sha256sum -c` reads them.

    Raises:
        ArtifactError: a name with a line break or a backslash, which the format cannot hold.
    """
    strange = [name for name in sums if not name.isprintable() or "\\" in name]
    if strange:
        raise ArtifactError(f"The file name {strange[0]!r} cannot be listed. Rename the file.")
    lines = [f"{sums[name]}  {name}\n" for name in sorted(sums)]
    file.write_text("".join(lines), encoding="utf-8")


def is_bundle_name(parts: Sequence[str]) -> bool:
    """Whether a bundle can hold a file of this path."""
    if len(parts) == 1:
        return parts[0] in (SUMS, CARD, CONFIG, RECIPE)
    return parts[0] in KINDS
