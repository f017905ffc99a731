"""What a reader of one format hands over, and the checks of values that all formats share."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from dncbm.data.annotations.regions import BadAnnotation, Regions, Size

MAX_TEXT = 4 * 1024 * 1024
"""Bytes of a text file about one photo, or of a list of names."""
MAX_REGIONS = 10_000
"""Boxes or segments of one photo."""
MAX_NUMBER = 1e9
"""No photo has more pixels along a side."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What an annotation set has about one photo, read when it is known to be wanted."""

    name: str
    """Path of the photo as the annotations name it, without extension."""
    where: str
    """File, for messages."""
    read: Callable[[Size], Regions]
    """Given the photo's size; raises `BadAnnotation`."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an annotation, and the photo with it, is left out."""

    where: str
    """File, and line or record where there is one; or the photo."""
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """All that a reader found in a place."""

    entries: Sequence[Entry]
    problems: Sequence[Problem] = ()


def number(value: object, what: str) -> float:
    """A finite number of a sensible size; text is read as one.

    Raises:
        BadAnnotation: it is none.
    """
    try:
        if not isinstance(value, int | float | str) or isinstance(value, bool):
            raise ValueError
        found = float(value)
    except (ValueError, OverflowError) as error:
        raise BadAnnotation(f"{what} is {_short(value)}, which is not a number") from error
    if not math.isfinite(found) or abs(found) > MAX_NUMBER:
        raise BadAnnotation(f"{what} is {_short(value)}, which is not a place in a photo")
    return found


def whole(value: object, what: str) -> int:
    """A whole number.

    Raises:
        BadAnnotation: it is none.
    """
    found = number(value, what)
    if found != int(found):
        raise BadAnnotation(f"{what} is {_short(value)}, which is not a whole number")
    return int(found)


def few(items: Sequence[Any], what: str) -> Sequence[Any]:
    """The items.

    Raises:
        BadAnnotation: there are more than a photo can have.
    """
    if len(items) > MAX_REGIONS:
        raise BadAnnotation(f"{len(items):,} {what} of one photo; at most {MAX_REGIONS:,} are read")
    return items


def parsed_json(text: str) -> Any:
    """A JSON document without NaN and infinity.

    Raises:
        BadAnnotation: it is none, or too deep.
    """
    try:
        return json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise BadAnnotation(f"the file is not JSON: {error}") from error


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _short(value: object) -> str:
    shown = repr(value) if isinstance(value, str | float | bool) else type(value).__name__
    return shown if len(shown) <= 40 else f"{shown[:40]}..."
