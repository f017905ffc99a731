"""What of a photo to explain, as the command line says it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from pipelines.console import stdout


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """What to explain; nothing means the predicted class and its top concepts."""

    classes: tuple[int | str, ...] = ()
    concepts: tuple[int | str, ...] = ()
    texts: tuple[str, ...] = ()
    top: int = 3
    nec: int | None = None


def numbers(items: list[str] | None) -> tuple[int | str, ...]:
    """Indices as numbers, names as they are."""
    return tuple(int(item) if item.isascii() and item.isdigit() else item for item in items or ())


def meant(names: Sequence[Any], asked: Sequence[int | str]) -> list[dict[str, Any]]:
    """Which concepts each name stands for that was given in place of an index.

    Args:
        names: `ConceptName` of each concept.
        asked: indices and names.

    Raises:
        UnknownName: no concept of that name.
    """
    from dncbm.attribution.targets import indices  # heavy: not for `dncbm --help`
    from dncbm.naming.mates import base_names

    whole, bases = [item.name for item in names], base_names(list(names))
    return [
        {
            "asked": name,
            "by": "name" if name in whole else "base name",
            "concepts": [
                {"concept": place, "name": whole[place]}
                for place in indices("concept", [name], whole, bases)
            ],
        }
        for name in dict.fromkeys(item for item in asked if isinstance(item, str))
    ]


def say_meant(found: Sequence[dict[str, Any]]) -> None:
    """Tell in a line each which concepts a name stands for, where it is not the only one's own."""
    for item in found:
        concepts = item["concepts"]
        if item["by"] == "name" and len(concepts) == 1:
            continue
        listed = ", ".join(f"{one['name']} #{one['concept']}" for one in concepts)
        stdout.print(Text(f"{item['asked']!r} means {listed}"), soft_wrap=True)
