"""What is explained: classes, concepts and texts by index or name, and what comes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dncbm.attribution.heads import Head, class_logits, concept_codes, text_cosines, together
from dncbm.attribution.pixels import EXACT, PixelMaps
from dncbm.errors import InvalidInput, UnknownName
from dncbm.probe.model import Probe
from dncbm.sae.model import SaeModel
from dncbm.types import Attribution, TargetKind


@dataclass(frozen=True, slots=True)
class Target:
    """One of the things that a photo is explained for."""

    kind: TargetKind
    name: str
    index: int | None
    """Of the class or the concept."""


def head_of(
    wanted: Sequence[Target], sae: SaeModel, probe: Probe,
    encode_texts: Callable[[list[str]], Tensor],
) -> Head:  # fmt: skip
    """What computes all targets from embeddings, classes first, then concepts, then texts."""
    of: dict[str, list[Any]] = {"class": [], "concept": [], "text": []}
    for target in wanted:
        of[target.kind].append(target.name if target.index is None else target.index)
    heads: list[Head] = []
    if of["class"]:
        heads.append(class_logits(sae, probe, of["class"]))
    if of["concept"]:
        heads.append(concept_codes(sae, of["concept"]))
    if of["text"]:
        heads.append(text_cosines(encode_texts(of["text"])))
    head = together(heads)
    return lambda embeddings: head(embeddings.float().cpu())  # where the autoencoder is


def indices(
    what: str, wanted: Sequence[int | str], names: Sequence[str], bases: Sequence[str] = ()
) -> list[int]:
    """Places of what was asked for by place or by name, each once.

    Args:
        what: for messages, `class` or `concept`.
        wanted: places or names; a name stands for all that have it.
        names: all of them, in order.
        bases: names without their detail, which stand for all that share them where no whole name
            is meant.

    Raises:
        InvalidInput: no such place.
        UnknownName: no such name.
    """
    found: list[int] = []
    for item in wanted:
        if isinstance(item, str):
            places = [i for i, name in enumerate(names) if name == item]
            places = places or [i for i, name in enumerate(bases) if name == item]
            if not places:
                raise UnknownName(what, item, set(names))
            found += places
        elif 0 <= item < len(names):
            found.append(item)
        else:
            raise InvalidInput(
                f"{what.capitalize()} {item} does not exist; there are 0 to {len(names) - 1}."
            )
    return list(dict.fromkeys(found))


def attribution_of(target: Target, maps: PixelMaps, t: int) -> Attribution:
    """Target number `t` of the only image."""
    exact = maps.method == EXACT
    return Attribution(
        kind=target.kind,
        name=target.name,
        index=target.index,
        value=float(maps.values[0, t]),
        map=maps.maps[0, t].float().cpu().numpy(),
        position=float(maps.position[0, t]) if maps.position is not None else None,
        bias=float(maps.bias[0, t]) if maps.bias is not None else None,
        method=maps.method,
        exact=exact,
        picture=maps.pictures[0, t].float().cpu().numpy() if maps.pictures is not None else None,
    )
