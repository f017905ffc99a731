"""Is there a network? Asked once before a download, so that its absence is told in seconds."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_TIMEOUT_SECONDS = 3.0


def hub_reachable() -> bool:
    """Whether the Hugging Face hub may be asked: not switched off, and a host answers.

    Behind a proxy no direct connection can tell, so True is assumed.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    return host_reachable(urlsplit(constants.ENDPOINT).hostname or "huggingface.co")


def host_reachable(host: str, port: int = 443) -> bool:
    """Whether a connection to `host` opens within three seconds (True behind a proxy)."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    try:
        socket.create_connection((host, port), timeout=_TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True


@contextmanager
def hub_cache_only(active: bool) -> Iterator[None]:
    """While `active`, the hub's client reads its local cache and never tries the network."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or active
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
