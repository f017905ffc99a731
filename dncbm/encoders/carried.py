"""Encoders that lie in a folder of this machine, and the copies of them that travel with a model.

A model names its encoder. Where that is an artifact (`bcos:DIR`, `guided:DIR`, `trained:DIR`, or
DIR alone for the latter), a bundle holds a copy beside the model's own parts, and so it does for
the encoders which that one was made of. Whatever is opened is compared with the fingerprint that
was recorded, so a copy is never believed.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from dncbm.artifacts import MANIFEST, Manifest, load_manifest
from dncbm.encoders.spec import BCOS, GUIDED, MINI, parse_spec
from dncbm.errors import ArtifactError, InvalidInput, Unavailable, UnknownName

_log = logging.getLogger(__name__)

KIND_OF: Mapping[str, str] = {BCOS: "bcos", GUIDED: "guided", "trained": "encoder"}
"""Kind of the artifact, which is its name within a directory, by the scheme of the encoder."""
_SCHEME_OF = {kind: scheme for scheme, kind in KIND_OF.items()}
_ALONE = "encoder"
"""Kind that a folder without a scheme means."""


def candidates(spec: str, model: Path, own: Path | None = None) -> tuple[str, ...]:
    """What may be the encoder `spec` of what lies in the directory `model`, the likeliest first.

    The copy beside it comes first, then the original, where it is another place that exists. The
    artifact `own`, which was made of that encoder, is no copy of it.
    """
    kind, original = _named(spec)
    if kind is None:
        return (spec,)
    copy = model / kind
    if not (copy / MANIFEST).is_file() or (own and own.resolve() == copy.resolve()):
        return (spec,)
    beside = f"{_SCHEME_OF[kind]}:{copy}"
    if original is None:
        return (beside,)
    return (spec,) if original.resolve() == copy.resolve() else (beside, spec)


def carried(spec: str, model: Path) -> dict[str, Path]:
    """The artifacts of an encoder and of those that it was made of, by kind.

    Weights in other files of this machine are not among them; a warning says so.

    Args:
        spec: as the model in the directory `model` names it.
        model: where copies may lie, if the originals are gone.

    Raises:
        ArtifactError: one is gone, damaged, or there are two of one kind.
    """
    found: dict[str, Path] = {}
    while (kind := _named(spec)[0]) is not None:
        path = _named(spec)[1] or model / kind
        if not (path / MANIFEST).is_file():
            raise ArtifactError(
                f"The encoder {spec} is gone, so the model cannot be opened elsewhere. Put it back."
            )
        if kind in found:
            raise ArtifactError(
                f"The encoder is made of two of the kind {kind!r} ({found[kind]} and {path}); a "
                "bundle holds one. Make it of an encoder that is not."
            )
        found[kind] = path
        manifest = load_manifest(path, kind)  # type: ignore[arg-type]  # kinds by `KIND_OF`
        spec, model = _base_of(manifest), path.parent
    if (files := _own_files(spec)) is not None:
        _log.warning(
            "The encoder %s lies in files of this machine that are not copied. Where the model is "
            "opened, %s must be there as well, at the same place.", spec, files,
        )  # fmt: skip
    return found


def _own_files(spec: str) -> str | None:
    """The folder or the file that open_clip reads the weights from, where it is of this machine."""
    try:
        found = parse_spec(spec)
    except (InvalidInput, UnknownName, Unavailable):
        return None  # whoever opens it is told
    if found.model_name.startswith("local-dir:"):
        return found.model_name.removeprefix("local-dir:")
    return None if spec == MINI or found.is_tag else found.pretrained


def _named(spec: str) -> tuple[str | None, Path | None]:
    """Kind of the artifact that an encoder is, None for all others; and where it is, if it is."""
    scheme, colon, rest = spec.partition(":")
    if colon and rest and scheme in KIND_OF:
        kind, root = KIND_OF[scheme], Path(rest).expanduser()
    elif spec != MINI and Path(spec).expanduser().is_absolute():
        kind, root = _ALONE, Path(spec).expanduser()
    else:
        return None, None
    places = [place for place in (root, root / kind) if (place / MANIFEST).is_file()]
    return kind, places[0] if places else None


def _base_of(manifest: Manifest) -> str:
    """The encoder that one was made of or has its texts from; where there is none, `mini`."""
    config = manifest.config
    text = config.get("text")
    if isinstance(text, dict):
        return str(text.get("encoder", MINI))
    blueprint = config.get("blueprint")
    if manifest.kind not in (BCOS, GUIDED) or not isinstance(blueprint, dict):
        return MINI
    return str(blueprint["name"]) if blueprint.get("family") == "encoder" else MINI
