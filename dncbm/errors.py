"""The error tree.

Every error that a user can cause or mend derives from `DncbmError` and carries a
message of the form *what, the value, the rule, the next step*. The command line turns
them into one line and an exit code, the service into an RFC 9457 problem document.

    DncbmError                 exit code 1, HTTP 500
    ├── InvalidInput           exit code 2, HTTP 422   the caller's data or options are wrong
    │   └── UnknownName        exit code 2, HTTP 404   a name that is not in a known set
    ├── ArtifactError          exit code 1, HTTP 500   a directory on disk is not what it says
    │   └── ArtifactMismatch   exit code 1, HTTP 409   made from other inputs than the ones given
    ├── Conflict               exit code 1, HTTP 409   somebody else changed it, or it is not ready
    └── Unavailable            exit code 1, HTTP 503   disk, network, port or package is missing
"""

import difflib
from collections.abc import Iterable


class DncbmError(Exception):
    """Base of all errors whose message is safe and useful to show to a user."""


class InvalidInput(DncbmError, ValueError):
    """The caller's data or options break a rule; the message names value and rule."""


class UnknownName(InvalidInput):
    """A name outside a known set; the message lists the nearest known names."""

    def __init__(self, what: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.4)
        shown = ", ".join(near or names[:10]) or "none"
        label = "Nearest known names" if near else "Known names"
        super().__init__(f"Unknown {what} {name!r}. {label}: {shown}. {hint}".rstrip())

    @classmethod
    def saying(cls, message: str) -> "UnknownName":
        """The error with a message that was made elsewhere, for example by a service."""
        return cls.__new__(cls, message)


class ArtifactError(DncbmError):
    """A directory is not an artifact, is damaged, or has an unsupported format."""


class ArtifactMismatch(ArtifactError):
    """An artifact was made from other inputs than the ones it is now used with."""


class Conflict(DncbmError):
    """What is asked for does not fit the state that things are in now."""


class Unavailable(DncbmError):
    """Something outside the program is missing: disk space, network, a port, a package."""
