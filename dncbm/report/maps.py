"""Maps of a photo side by side: what was seen, and where each target comes from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from dncbm.bcos.render import heat, window_of
from dncbm.types import Attribution

_INCHES = 2.2
_FADED = 0.55
"""How much of the photo is left under a heat map."""


def montage(photos: Sequence[tuple[UInt8[np.ndarray, "h w 3"], Sequence[Attribution]]]) -> Figure:
    """One row per photo: the photo, then each target's heat map, and its picture where exact.

    Args:
        photos: what the encoder sees of each photo, and its attributions.
    """
    rows = [[_Panel("photo", seen), *_panels(seen, items)] for seen, items in photos]
    columns = max(map(len, rows))
    size = (_INCHES * columns, (_INCHES + 0.4) * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, panels in zip(axes, rows, strict=True):
        for place, panel in zip(line, panels, strict=False):
            place.imshow(panel.pixels, interpolation="nearest")
            place.set_title(panel.title, fontsize=8)
        for place in line:
            place.set_axis_off()
    return figure


class _Panel(NamedTuple):
    title: str
    pixels: np.ndarray


def _panels(seen: np.ndarray, items: Sequence[Attribution]) -> list[_Panel]:
    found = []
    for item in items:
        title = f"{item.kind}: {_short(item.name)}\n{item.value:.2f}"
        found.append(_Panel(title, overlay(seen, item.map)))
        if item.picture is not None:
            found.append(_Panel(f"{_short(item.name)}\nin its colours", _paper(item.picture)))
    return found


def overlay(
    seen: UInt8[np.ndarray, "h w 3"], contributions: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w 3"]:
    """Contributions in red and blue over the faded grey photo, smoothed for the eye."""
    window = window_of(contributions.shape[0])
    colour = heat(torch.from_numpy(contributions), smooth=window).numpy()
    grey = seen.mean(axis=-1, keepdims=True) / 255
    paper = 1 - _FADED * (1 - grey)
    opacity = colour[..., 3:]
    return colour[..., :3] * opacity + paper * (1 - opacity)


def _paper(picture: np.ndarray) -> np.ndarray:
    return picture[..., :3] * picture[..., 3:] + 1 - picture[..., 3:]


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
