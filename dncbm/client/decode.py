"""JSON to dataclasses, by their annotations."""

import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

from dncbm.errors import DncbmError

_T = TypeVar("_T")


def from_json(kind: type[_T], data: Any) -> _T:
    """A dataclass of type `kind` from a JSON object; fields that it does not know are left out.

    The field `class_name` is called `class` in JSON.

    Raises:
        DncbmError: a field is missing or of another type: the service is of another version.
    """
    try:
        return typing.cast(_T, _value(kind, data))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DncbmError(
            f"The service answered something else than a {kind.__name__} ({error}). Client and "
            "service may be of different versions; use those of one."
        ) from error


def _value(kind: Any, data: Any) -> Any:
    if kind is Any or kind is dict or typing.get_origin(kind) is dict:
        return data
    if is_dataclass(kind):
        return _dataclass(kind, data)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (list, tuple):
        if not isinstance(data, list):
            raise TypeError(f"a list was expected, not {type(data).__name__}")
        return origin(_value(parts[0], item) for item in data)
    if origin in (typing.Union, types.UnionType):
        return None if data is None else _value(_without_none(parts), data)
    return _plain(kind, data)


def _without_none(parts: Sequence[Any]) -> Any:
    return next(part for part in parts if part is not type(None))


def _plain(kind: Any, data: Any) -> Any:
    if kind is datetime:
        return datetime.fromisoformat(data)
    if kind is float:
        return float(data)
    if kind in (str, int, bool) and not isinstance(data, kind):
        raise TypeError(f"{kind.__name__} was expected, not {type(data).__name__}")
    return data


def _dataclass(kind: Any, data: Any) -> Any:
    values = {}
    for name, key, annotation, is_required in _fields(kind):
        if key in data:
            values[name] = _value(annotation, data[key])
        elif is_required:
            raise KeyError(key)
    return kind(**values)


@cache
def _fields(kind: Any) -> list[tuple[str, str, Any, bool]]:
    """Of each field: name, key in JSON, annotation, and whether it has no default."""
    hints = typing.get_type_hints(kind)
    return [
        (
            item.name,
            "class" if item.name == "class_name" else item.name,
            hints[item.name],
            item.default is MISSING and item.default_factory is MISSING,
        )
        for item in fields(kind)
    ]
