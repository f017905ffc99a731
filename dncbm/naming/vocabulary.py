"""The words that concepts may be named with, and their text embeddings."""

import csv
import io
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dncbm.artifacts import (
    Manifest,
    create_artifact,
    load_manifest,
    read_json,
    verify_files,
    write_json,
    writing,
)
from dncbm.errors import ArtifactError, ArtifactMismatch, InvalidInput
from dncbm.naming.blocklist import default_blocklist

log = logging.getLogger(__name__)

WORDS = "words.json"
EMBEDDINGS = "embeddings.safetensors"
MAX_LENGTH = 120
LARGE = 100_000
"""Words above which embeddings are kept in half precision, about 2e-5 off in any cosine."""
_EMBEDDED_AT_ONCE = 8192
_HEADERS = {"word", "words", "name", "names", "concept", "concepts", "text", "label", "phrase"}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words with unit-norm text embeddings of one encoder."""

    words: tuple[str, ...]
    embeddings: Float[Tensor, "v d"]
    """Float32, or float16 for very many; mapped from the file where it was loaded."""
    templates: tuple[str, ...]
    """Prompts whose embeddings were averaged; `{}` stands for the word."""
    encoder_fingerprint: str
    blocked: frozenset[str] = frozenset()
    """Words that were given and left out, because the block list hides them."""
    fingerprint: str = ""
    """Of the artifact it was loaded from; empty for one that was never saved."""

    def __post_init__(self) -> None:
        if len(self.words) != len(self.embeddings):
            raise InvalidInput(
                f"{len(self.words)} words came with {len(self.embeddings)} embeddings; "
                "give one embedding per word."
            )
        if len(self.words) < 2:
            raise InvalidInput(
                f"A vocabulary needs at least 2 words, got {len(self.words)}. Add words."
            )

    def require_encoder(self, fingerprint: str) -> None:
        """Refuse to be used with another encoder than the one that embedded the words.

        Raises:
            ArtifactMismatch: `fingerprint` is not `encoder_fingerprint`.
        """
        if fingerprint != self.encoder_fingerprint:
            raise ArtifactMismatch(
                f"The vocabulary was embedded by encoder {self.encoder_fingerprint[:12]}, but "
                f"encoder {fingerprint[:12]} was given. Build the vocabulary again with it."
            )


def read_words(location: str | Path | None = None) -> list[str]:
    """Words of a list, cleaned: the bundled one (None), a text file or a CSV's first column.

    Surrounding blanks, empty lines, `#` comments and repeats (whatever their case) are
    dropped; what was dropped is logged. The order of the file is kept.

    Raises:
        InvalidInput: unreadable file, or fewer than 2 usable words.
    """
    if location is None:
        return files("vocab").joinpath("words.txt").read_text(encoding="utf-8").splitlines()
    path = Path(location)
    lines = _csv_column(path) if path.suffix.lower() == ".csv" else _text(path).splitlines()
    words = clean_words(lines)
    if len(words) < 2:
        raise InvalidInput(
            f"{path} has {len(words)} usable words; a vocabulary needs at least 2. "
            "Write one word or phrase per line."
        )
    return words


def clean_words(lines: Iterable[str]) -> list[str]:
    """The usable entries of a list, in order, each once; logs how many were dropped."""
    kept: dict[str, str] = {}
    counts = {"blank or comment": 0, "repeated": 0, "too long": 0}
    for line in lines:
        word = " ".join(line.replace("\ufeff", "").split())
        if not word or word.startswith("#"):
            counts["blank or comment"] += 1
        elif len(word) > MAX_LENGTH:
            counts["too long"] += 1
        elif word.casefold() in kept:
            counts["repeated"] += 1
        else:
            kept[word.casefold()] = word
    dropped = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    if dropped:
        log.info("Word list: kept %d entries, dropped %s.", len(kept), dropped)
    return list(kept.values())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{path} is not UTF-8 text: {error.reason}. Save it as UTF-8."
        ) from error
    except OSError as error:
        raise InvalidInput(f"Cannot read the word list {path}: {error.strerror}.") from error


def _csv_column(path: Path) -> list[str]:
    rows = [row[0] for row in csv.reader(io.StringIO(_text(path))) if row]
    return rows[1:] if rows and rows[0].strip().casefold() in _HEADERS else rows


def build_vocabulary(
    words: Sequence[str],
    encode_texts: Callable[..., Tensor],
    *,
    encoder_fingerprint: str,
    templates: Sequence[str] = ("{}",),
) -> Vocabulary:
    """Embed words that the block list allows.

    Args:
        words: entries such as `read_words` gives; repeats and blanks are dropped.
        encode_texts: `Encoder.encode_texts`: (words, templates=...) to (v, d) embeddings.
        encoder_fingerprint: of that encoder.
        templates: prompts with one `{}` each; the paper embeds the bare word.

    Raises:
        InvalidInput: fewer than 2 usable words, a template without `{}`, or embeddings that
            are not finite.
    """
    bad = [template for template in templates if template.count("{}") != 1]
    if bad or not templates:
        raise InvalidInput(f"Each template needs one '{{}}' for the word; got {bad!r}.")
    cleaned = clean_words(words)
    rules = default_blocklist()
    allowed = [word for word in cleaned if not rules.blocks(word)]
    if len(allowed) < 2:
        raise InvalidInput(
            f"{len(allowed)} usable words are left of {len(words)}; a vocabulary needs at least "
            "2. Add words that are not on the block list."
        )
    return Vocabulary(
        words=tuple(allowed),
        embeddings=_embed(allowed, encode_texts, tuple(templates)),
        templates=tuple(templates),
        encoder_fingerprint=encoder_fingerprint,
        blocked=frozenset(cleaned) - frozenset(allowed),
    )


def _embed(
    words: Sequence[str], encode_texts: Callable[..., Tensor], templates: tuple[str, ...]
) -> Float[Tensor, "v d"]:
    """Unit rows; block by block into half precision where there are very many."""
    if len(words) <= LARGE:
        return unit_rows(encode_texts(words, templates=templates), "word", words)
    rows: Tensor | None = None
    for start in range(0, len(words), _EMBEDDED_AT_ONCE):
        some = words[start : start + _EMBEDDED_AT_ONCE]
        block = unit_rows(encode_texts(some, templates=templates), "word", words, start)
        if rows is None:
            rows = torch.empty(len(words), block.shape[1], dtype=torch.float16)
        rows[start : start + len(some)] = block
    return rows  # type: ignore[return-value]  # there is at least one block


def unit_rows(
    rows: Float[Tensor, "m d"], what: str, labels: Sequence[str] | None = None, start: int = 0
) -> Float[Tensor, "m d"]:
    """Rows at length 1 in float32 on the CPU; messages count them from `start`.

    Raises:
        InvalidInput: a row has NaN, infinity or length 0; the message names the first.
    """
    values = rows.detach().to("cpu", torch.float32)
    norms = values.norm(dim=1, keepdim=True)
    wrong = torch.nonzero(~torch.isfinite(norms[:, 0]) | (norms[:, 0] <= 0))[:, 0]
    if len(wrong):
        first = start + int(wrong[0])
        label = f" ({labels[first]!r})" if labels is not None else ""
        raise InvalidInput(
            f"{len(wrong)} {what} vectors are not finite or have length 0, the first is row "
            f"{first}{label}. Make them again; naming needs finite vectors."
        )
    return values / norms


def save_vocabulary(path: Path, vocabulary: Vocabulary) -> Manifest:
    """Write a `vocabulary` artifact (words, embeddings, recipe); returns its manifest.

    Raises:
        Unavailable: the disk is full or not writable.
    """
    config = {"templates": list(vocabulary.templates), "num_words": len(vocabulary.words)}
    inputs = {"encoder": vocabulary.encoder_fingerprint}
    with create_artifact(path, "vocabulary", config=config, inputs=inputs) as draft, writing(path):
        listed = {"words": list(vocabulary.words), "blocked": sorted(vocabulary.blocked)}
        write_json(draft.path / WORDS, listed)
        tensors = {"embeddings": vocabulary.embeddings.contiguous()}
        save_file(tensors, draft.path / EMBEDDINGS)
    return load_manifest(path, "vocabulary")


def load_vocabulary(path: Path) -> Vocabulary:
    """Read a `vocabulary` artifact.

    Raises:
        ArtifactError: not a vocabulary, or damaged.
    """
    manifest = load_manifest(path, "vocabulary")
    verify_files(path, manifest)
    listed = read_json(path / WORDS)
    try:
        return Vocabulary(
            words=tuple(listed["words"]),
            embeddings=load_file(path / EMBEDDINGS)["embeddings"],
            templates=tuple(manifest.config["templates"]),
            encoder_fingerprint=manifest.inputs["encoder"],
            blocked=frozenset(listed["blocked"]),
            fingerprint=manifest.fingerprint,
        )
    except (KeyError, TypeError, SafetensorError, InvalidInput) as error:
        raise ArtifactError(f"{path} is damaged: {error}. Build the vocabulary again.") from error
