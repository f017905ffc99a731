"""Where to compute."""

import torch

from dncbm.errors import Unavailable, UnknownName

_KNOWN = ("auto", "cpu", "cuda", "mps", "xpu")


def resolve_device(name: str) -> str:
    """`auto` as a GPU where there is one, else the CPU; any other name as it is, once tried.

    Raises:
        UnknownName: PyTorch has no device of this name.
        Unavailable: this machine or this PyTorch cannot compute there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in _KNOWN:
        raise UnknownName("device", name, _KNOWN)
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise Unavailable(
            f"The device {name!r} cannot be used on this machine. Use cpu, or auto to take a GPU "
            "where there is one."
        ) from error
    return name
