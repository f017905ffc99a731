"""Settings as frozen dataclasses: one check of types for all of them."""

from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dncbm.errors import InvalidInput, UnknownName

_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    NoneType: "left out",
}


def check_types(config: Any, what: str = "") -> None:
    """Refuse a field whose value is not of its declared type, as files and options may bring.

    Understands numbers, texts, booleans, lists, tables and unions of them; which texts a
    `Literal` allows is left to the owner, who can name the nearest ones.

    Args:
        config: a dataclass instance.
        what: word before the field's name in the message, such as `SAE`.

    Raises:
        InvalidInput: names field, value and what it must be.
    """
    values = {item.name: getattr(config, item.name) for item in fields(config)}
    _check_values(type(config), values, what)


def checked_fields(kind: Any, values: Mapping[str, Any], what: str = "") -> dict[str, Any]:
    """The fields of a dataclass as a file or a request brings them, lists as tuples.

    Raises:
        UnknownName: a field that `kind` does not have.
        InvalidInput: a value that is not of its field's type.
    """
    known = [item.name for item in fields(kind)]
    for name in values:
        if name not in known:
            raise UnknownName(f"{what} field".strip(), str(name), known)
    hints = _check_values(kind, values, what)
    return {
        name: tuple(value)
        if isinstance(value, list) and get_origin(hints[name]) is tuple
        else value
        for name, value in values.items()
    }


def _check_values(kind: Any, values: Mapping[str, Any], what: str) -> dict[str, Any]:
    hints = get_type_hints(kind)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            label = f"{what} {name}".strip()
            raise InvalidInput(f"{label} is {value!r}; it must be {_words(hints[name])}.")
    return hints


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is Literal:
        return isinstance(value, str)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if origin is not None:  # a sequence
        many = isinstance(value, list | tuple)
        return many and all(_fits(item, arguments[0]) for item in value)
    if hint in (int, float):
        kind = Integral if hint is int else Real
        return isinstance(value, kind) and not isinstance(value, bool)
    return hint is Any or isinstance(value, hint)


def _words(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_words(option) for option in arguments)
    if origin is Literal:
        return _WORDS[str]
    if origin is not None and issubclass(origin, Mapping):
        return "a table"
    if origin is not None:
        return f"a list of which each is {_words(arguments[0])}"
    return _WORDS.get(hint, hint.__name__)
