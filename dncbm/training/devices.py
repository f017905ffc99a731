"""Where to compute."""

import torch

from dncbm.errors import Unavailable


def resolve_device(name: str) -> str:
    """`auto` as a GPU where there is one, else the CPU; any other name as it is, once tried.

    Raises:
        Unavailable: this machine or this PyTorch cannot compute there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise Unavailable(
            f"The device {name!r} cannot be used here: {str(error).splitlines()[0]} "
            "Use cpu, or auto to take a GPU where there is one."
        ) from error
    return name
