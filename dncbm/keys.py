"""API keys in a file: who may do what. A key is shown once; the file holds its hash alone.

    [[keys]]
    name = "shop"
    hash = "sha256:…"
    scopes = ["predict"]
    expires = 2027-01-01T00:00:00Z

Keys are 256 random bits, so one SHA-256 is as good as a slow hash; passwords that people choose
are not accepted, since only `new_key` makes them.
"""

import hashlib
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dncbm.errors import InvalidInput, Unavailable, UnknownName
from dncbm.files import hidden, locked, sync

SCOPES = ("read", "predict", "edit", "admin")
"""Each includes those before it."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_FIELDS = {"name", "hash", "scopes", "expires"}


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a keys file."""

    name: str
    hash: str
    scopes: tuple[str, ...]
    expires: datetime | None = None

    def allows(self, scope: str) -> bool:
        """Whether one of its scopes is `scope` or a larger one."""
        return any(SCOPES.index(own) >= SCOPES.index(scope) for own in self.scopes)

    def is_expired(self, moment: datetime) -> bool:
        """Whether it is no longer good at `moment`."""
        return self.expires is not None and self.expires <= moment


def hash_of(key: bytes) -> str:
    """What the file holds of a key."""
    return f"sha256:{hashlib.sha256(key).hexdigest()}"


def read_keys(path: Path) -> list[Key]:
    """The keys of a file.

    Raises:
        InvalidInput: no such file, others may read it, or an entry breaks a rule.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"Cannot read the keys file {path}: {error}. Make one with "
            f"`dncbm keys add NAME --scope predict --file {path}`."
        ) from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise InvalidInput(
            f"The keys file {path} has mode {stat.S_IMODE(mode):04o}; only its owner may read it. "
            f"Run: chmod 600 {path}"
        )
    return parse_keys(text, str(path))


def parse_keys(text: str, where: str) -> list[Key]:
    """The keys of a TOML text; `where` names it in errors.

    Raises:
        InvalidInput: not TOML, or an entry breaks a rule.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"The keys file {where} is not TOML: {error}.") from error
    entries = table.pop("keys", [])
    if table or not isinstance(entries, list):
        raise InvalidInput(
            f"The keys file {where} may hold tables [[keys]] alone; it has "
            f"{', '.join(table) or 'keys of another kind'}."
        )
    keys = [_key(entry, f"{where}, key {number}") for number, entry in enumerate(entries, 1)]
    names = [key.name for key in keys]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInput(
            f"The keys file {where} has the name {twice[0]!r} twice. Rename or revoke one of them."
        )
    return keys


def _key(entry: Any, where: str) -> Key:
    if not isinstance(entry, dict) or not {"name", "hash", "scopes"} <= set(entry) <= _FIELDS:
        raise InvalidInput(
            f"{where}: an entry has name, hash, scopes and if wished expires. "
            "`dncbm keys add` writes it."
        )
    _check_name(entry["name"])
    if not (isinstance(entry["hash"], str) and _HASH.fullmatch(entry["hash"])):
        raise InvalidInput(f"{where}: hash is not `sha256:` and 64 hexadecimal digits.")
    scopes = entry["scopes"]
    if not isinstance(scopes, list) or not scopes:
        raise InvalidInput(f"{where}: scopes is a list of one or more of {', '.join(SCOPES)}.")
    for scope in scopes:
        _check_scope(scope)
    return Key(entry["name"], entry["hash"], tuple(scopes), _expiry(entry.get("expires"), where))


def _expiry(value: Any, where: str) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise InvalidInput(
            f"{where}: expires is {value!r}; it must be a date and time such as "
            "2027-01-01T00:00:00Z, without quotes."
        )
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _check_name(name: Any) -> None:
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise InvalidInput(
            f"The key's name {str(name)[:100]!r} is not 1 to 64 of a-z, 0-9, dot, _ and -."
        )


def _check_scope(scope: Any) -> None:
    if scope not in SCOPES:
        raise UnknownName("scope", str(scope)[:100], SCOPES)


def add_key(
    path: Path, name: str, scopes: Sequence[str], expires: datetime | None = None
) -> tuple[Key, str]:
    """Make a key, store its hash in `path`, and return entry and key, which is shown once.

    Raises:
        InvalidInput: a name that is taken or not allowed, no or an unknown scope, a past expiry.
        Unavailable: another command changes the file now.
    """
    _check_name(name)
    if not scopes:
        raise InvalidInput(f"The key {name!r} has no scope. Give one of {', '.join(SCOPES)}.")
    for scope in scopes:
        _check_scope(scope)
    if expires is not None and expires <= datetime.now(UTC):
        raise InvalidInput(f"The key {name!r} would expire at {expires}, which is past.")
    with _changing(path):
        keys = read_keys(path) if path.exists() else []
        if any(key.name == name for key in keys):
            raise InvalidInput(f"There is a key {name!r} already. Revoke it, or take another name.")
        text = f"dncbm_{secrets.token_urlsafe(32)}"
        key = Key(name, hash_of(text.encode()), tuple(dict.fromkeys(scopes)), expires)
        _write(path, [*keys, key])
    return key, text


def revoke_key(path: Path, name: str) -> Key:
    """Remove a key by its name.

    Raises:
        UnknownName: there is no such key.
        Unavailable: another command changes the file now.
    """
    with _changing(path):
        keys = read_keys(path)
        found = [key for key in keys if key.name == name]
        if not found:
            raise UnknownName("key", name[:100], [key.name for key in keys])
        _write(path, [key for key in keys if key.name != name])
    return found[0]


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """One change at a time, else a key that was revoked could come back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(path.parent):
            yield
    except BlockingIOError as error:
        raise Unavailable(
            f"Another command changes files in {path.parent} now. Try again in a moment."
        ) from error


def _write(path: Path, keys: Sequence[Key]) -> None:
    draft = hidden(path, "draft")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("# Written by `dncbm keys`; the keys themselves are not in here.\n")
            file.writelines(_entry(key) for key in keys)
        sync(draft)
        os.replace(draft, path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _entry(key: Key) -> str:
    scopes = ", ".join(f'"{scope}"' for scope in key.scopes)
    text = f'\n[[keys]]\nname = "{key.name}"\nhash = "{key.hash}"\nscopes = [{scopes}]\n'
    if key.expires is not None:
        text += f"expires = {key.expires.astimezone(UTC).isoformat().replace('+00:00', 'Z')}\n"
    return text
