"""Recipes in files: what `dncbm run` and `dncbm jobs submit` read."""

import json
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from dncbm.errors import InvalidInput
from dncbm.recipes import (
    PHOTO_TEMPLATES,
    TABLES,
    Recipe,
    located,
    located_network,
    merged,
)

__all__ = [
    "PHOTO_TEMPLATES",
    "TABLES",
    "Recipe",
    "located",
    "located_network",
    "merged",
    "read_recipe",
    "read_table",
]


def read_recipe(path: Path) -> tuple[Recipe, Path]:
    """The recipe in a TOML or JSON file and its output directory (`out`).

    Relative paths in the file are relative to the file.

    Raises:
        InvalidInput: unreadable file, unknown or ill-typed fields.
    """
    values = read_table(path)
    out = values.pop("out", None)
    if not isinstance(out, str):
        raise InvalidInput(f"{path} must name an output directory: out = 'DIR'.")
    known = {item.name for item in fields(Recipe)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InvalidInput(
            f"{path} has unknown fields {', '.join(unknown)}. Known: {', '.join(sorted(known))}."
        )
    try:
        return Recipe.of(values).located(path.parent), path.parent / Path(out).expanduser()
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error


def read_table(path: Path) -> dict[str, Any]:
    """The fields of a TOML or JSON file.

    Raises:
        InvalidInput: unreadable, or no table.
    """
    try:
        text = path.read_text()
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise InvalidInput(f"Cannot read the recipe {path}: {error.strerror}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{path} is not valid {path.suffix or 'TOML'}: {error}.") from error
    if not isinstance(table, dict):
        raise InvalidInput(f"{path} must hold a table of fields, got {type(table).__name__}.")
    return table
