"""Ids of models and names of aliases, which share one set of names."""

import re
from collections.abc import Collection

from dncbm.artifacts import slug
from dncbm.errors import InvalidInput

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST = 64
_LONGEST_TEXT = 2000
_LONGEST_AUTHOR = 200
"""As wide as the column of the audit log."""


def free_id(name: str, taken: Collection[str]) -> str:
    """The slug of `name`, numbered from 2 where it is taken."""
    base = slug(name)[:_LONGEST].rstrip("-")
    candidate, number = base, 1
    while candidate in taken:
        number += 1
        candidate = f"{base}-{number}"
    return candidate


def is_possible(name: str) -> bool:
    """Whether `name` can be an id, an alias or a fingerprint; databases choke on some others."""
    return len(name) <= 255 and name.isascii() and name.isprintable()


def check_alias(name: str) -> None:
    """Refuse a name that does not stand well in an address.

    Raises:
        InvalidInput: other than lower-case letters, digits and single hyphens, or too long.
    """
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"The alias {name[:100]!r} is not possible: use up to {_LONGEST} lower-case letters, "
            "digits and single hyphens between them, for example production."
        )


def check_text(what: str, text: str) -> str:
    """`text` without blanks around it; who changed an alias and why has to be said.

    Raises:
        InvalidInput: blank, too long, or with characters that do not print.
    """
    text = text.strip()
    if not text:
        raise InvalidInput(f"The {what} of the change is blank. Say it, it is kept for ever.")
    longest = _LONGEST_AUTHOR if what == "author" else _LONGEST_TEXT
    if len(text) > longest or not text.replace("\n", "").isprintable():
        raise InvalidInput(
            f"The {what} of the change has {len(text):,} characters or unprintable ones; it must "
            f"be a plain text of at most {longest:,}."
        )
    return text
