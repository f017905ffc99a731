"""Where settings come from: command line over environment over file over default."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import make_url

from api.settings import Settings
from dncbm.errors import InvalidInput

PREFIX = "DNCBM_"
_MASK = "********"
_OF_OTHERS = {"CONFIG", "CACHE", "DATA", "DEBUG", "PROPOSER_KEY", "SHARED"}
"""Variables with our prefix that are not settings of the service."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings in force, where each of them comes from, and what looks like a mistake."""

    settings: Settings
    sources: Mapping[str, str]
    warnings: list[str] = field(default_factory=list)


def load_settings(config: Path | None = None, given: Mapping[str, Any] | None = None) -> Loaded:
    """The settings in force.

    Args:
        config: a TOML file; by default the one that `DNCBM_CONFIG` names, if it is set.
        given: values of the command line by field; they win over all others.

    Raises:
        InvalidInput: a value breaks its rule, a key of the file is not known, a public address
            without keys; the message names every wrong one, with its source.
    """
    given = dict(given or {})
    variables = _variables()
    path = config or _config_of_environment()
    of_file = _read(path) if path is not None else {}
    sources = {name: "default" for name in Settings.model_fields}
    sources |= {name: str(path) for name in of_file}
    sources |= {name: variables[name] for name in sources if name in variables}
    sources |= {name: "command line" for name in given}
    values = {name: value for name, value in of_file.items() if name not in variables}
    try:
        settings = Settings(**(values | given))
    except ValidationError as error:
        raise InvalidInput(_explained(error, sources)) from error
    _refuse_open(settings)
    return Loaded(settings, sources, _unknown(variables))


def _variables() -> dict[str, str]:
    """Names of the variables with our prefix, by the rest of the name in lower case."""
    found = [name for name in os.environ if name.upper().startswith(PREFIX)]
    return {name[len(PREFIX) :].lower(): name for name in found}


def _config_of_environment() -> Path | None:
    text = os.environ.get(f"{PREFIX}CONFIG")
    return Path(text) if text else None


def _read(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"Cannot read the settings file {path}: {error}. Give a TOML file with --config or "
            f"{PREFIX}CONFIG."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"The settings file {path} is not TOML: {error}.") from error
    unknown = [f"{name!r}{_nearest(name)}" for name in table if name not in Settings.model_fields]
    if unknown:
        raise InvalidInput(
            f"The settings file {path} has unknown keys: {'; '.join(unknown)}. "
            "`dncbm serve --print-settings` lists all."
        )
    return table


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.4)
    return f" (nearest: {near[0]})" if near else ""


def _unknown(variables: Mapping[str, str]) -> list[str]:
    known = set(Settings.model_fields) | {name.lower() for name in _OF_OTHERS}
    return [
        f"The variable {variable} is not a setting{_nearest_variable(name)}. It has no effect."
        for name, variable in variables.items()
        if name not in known
    ]


def _nearest_variable(name: str) -> str:
    near = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.4)
    return f"; the nearest is {PREFIX}{near[0].upper()}" if near else ""


def _explained(error: ValidationError, sources: Mapping[str, str]) -> str:
    lines = []
    for item in error.errors():
        name = str(item["loc"][0])
        rule = str(item["msg"]).removeprefix("Value error, ")
        lines.append(f"{PREFIX}{name.upper()}: {rule}{_got(name, item, sources)}")
    return (
        f"The service cannot start. {'; '.join(lines)}. Set the environment variable or the key of "
        "the settings file, or use `dncbm serve DIR`."
    )


def _got(name: str, item: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """The value and its source, without what may be secret or was not given."""
    if item["type"] == "missing":
        return ""
    source = f"(from {sources.get(name, 'the environment')})"
    if _is_secret(name):
        return f" {source}"
    return f", got {str(item['input'])[:100]!r} {source}"


def _is_secret(name: str) -> bool:
    annotation = Settings.model_fields[name].annotation
    return annotation is not None and "SecretStr" in str(annotation)


def _refuse_open(settings: Settings) -> None:
    if settings.is_public and settings.is_open and not settings.allow_open:
        raise InvalidInput(
            f"The service would listen on {settings.host}, which others can reach, and ask nobody "
            "for a key. Make keys (`dncbm keys add NAME --scope predict --file keys.toml`) and set "
            "DNCBM_KEYS_FILE, or set DNCBM_API_KEY; or, to serve everybody, give --allow-open "
            "(DNCBM_ALLOW_OPEN=1)."
        )


def describe(loaded: Loaded) -> str:
    """The settings in force as a TOML file, secrets masked, each with its source."""
    lines = []
    for name in Settings.model_fields:
        value = _shown(name, getattr(loaded.settings, name))
        start = f"# {name} =" if value is None else f"{name} = {value}"
        lines.append(f"{start}  # {loaded.sources[name]}")
    return "\n".join(lines)


def _shown(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    text = _masked(name, value.get_secret_value()) if _is_secret(name) else str(value)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _masked(name: str, secret: str) -> str:
    """Of the database's address all but password and options, of anything else nothing."""
    if name != "database_url":
        return _MASK
    return make_url(secret).set(query={}).render_as_string(hide_password=True)
