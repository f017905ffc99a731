"""Random streams that depend on one seed and on names, not on the order of calls."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from dncbm.errors import InvalidInput

_MAX_NUMPY_SEED = 2**32 - 1


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices)."""
    if not 0 <= seed <= _MAX_NUMPY_SEED:
        raise InvalidInput(f"A seed lies in [0, {_MAX_NUMPY_SEED}], got {seed}.")
    random.seed(seed)
    np.random.seed(seed)  # libraries we call still read the global stream
    torch.manual_seed(seed)


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that ``seed`` and ``names`` fix on every machine and Python version."""
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator of its own for the purpose that ``names`` spell.

    Two purposes never share a stream, so an additional draw in one (say ``"resample"``)
    leaves the other (``"shuffle", epoch``) as it was.
    """
    return torch.Generator().manual_seed(derive_seed(seed, *names))


@contextmanager
def seeded_by(draw: torch.Generator, device: torch.device | str = "cpu") -> Iterator[None]:
    """Global draws of torch inside (dropout, say) follow from the next number of `draw`.

    So a step of a resumed training draws what that step of an uninterrupted one does. The global
    generators are put back behind it.
    """
    seed = int(torch.randint(2**62, (), generator=draw))
    place = torch.device(device)
    devices = [place.index or 0] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
