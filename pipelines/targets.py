"""What of a photo to explain, as the command line says it."""

from dataclasses import dataclass


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
