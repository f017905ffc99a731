"""Figures of a localisation: box plots of scores, mean maps by percentile, and examples."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dncbm.attribution.aggregate import EDGES
from dncbm.report.figures import INK, LINE, MAIN, OTHER, SOFT, canvas
from dncbm.report.localisation_data import Part, layers_of, unique
from dncbm.report.maps import overlay

_DPI = 130
_COLOURS = ("#18796c", "#5f8fc4", "#b8471f", "#8a6bb1", "#b59a2c", "#5c6672")
"""Of layers, in the order in which they were given."""
_ROW = 0.2
"""Inches of a box."""
_MAP = 0.82
"""Inches of a mean map."""
_PANEL = 1.25
"""Inches of an example."""
BOXES = "boxes"
"""Whole photos, whose maps should lie in boxes: no setting of grids."""
_NAMES = {"gridpg": "GridPG", "difull": "DiFull", "dipart": "DiPart"}


def setting_title(setting: str, side: int) -> str:
    """`GridPG, 2 × 2`, or `Boxes`."""
    if setting == BOXES:
        return "Boxes"
    return f"{_NAMES.get(setting, setting)}, {side} × {side}"


def boxes(parts: Sequence[Part]) -> bytes:
    """PNG: scores of each method and layer, one panel per setting, with the chance level."""
    panels = unique((part.setting, part.side) for part in parts)
    methods = unique(part.title for part in parts)
    layers = layers_of(parts)
    height = max(2.4, 1.3 + _ROW * len(methods) * (len(layers) + 1))

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for place, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
            mine = [part for part in parts if (part.setting, part.side) == panel]
            _box_panel(axis, mine, methods, layers)
            axis.set_title(setting_title(*panel), fontsize=11, color=INK)
            if place == 0:
                step = len(layers) + 1
                middles = [m * step + (len(layers) - 1) / 2 for m in range(len(methods))]
                axis.set_yticks(middles, methods)
                axis.invert_yaxis()
        figure.legend(
            handles=_legend(layers), loc="outside lower center", ncols=len(layers) + 1,
            frameon=False, fontsize=9,
        )  # fmt: skip

    return _png(draw, 1.9 + 2.6 * len(panels), height)


def _box_panel(
    axis: Any, parts: Sequence[Part], methods: Sequence[str], layers: Sequence[str]
) -> None:
    for part in parts:
        layer = layers.index(part.layer)
        place = methods.index(part.title) * (len(layers) + 1) + layer
        colour = _COLOURS[layer % len(_COLOURS)]
        axis.boxplot(
            part.scores, positions=[place], orientation="horizontal", widths=0.75,
            patch_artist=True, manage_ticks=False,
            boxprops={"facecolor": colour, "edgecolor": colour, "alpha": 0.55},
            medianprops={"color": INK, "linewidth": 1.6},
            whiskerprops={"color": colour}, capprops={"color": colour},
            flierprops={"marker": ".", "markersize": 3, "markeredgecolor": colour, "alpha": 0.6},
        )  # fmt: skip
    for level in {part.chance for part in parts}:
        axis.axvline(level, color=SOFT, linewidth=1.2, dashes=(4, 3), zorder=0)
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel("share of positive mass inside", fontsize=9)
    axis.tick_params(labelsize=9)
    axis.grid(visible=False, axis="y")
    axis.grid(visible=True, axis="x")


def _legend(layers: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    patches: list[Any] = [
        Patch(facecolor=_COLOURS[place % len(_COLOURS)], alpha=0.55, label=layer)
        for place, layer in enumerate(layers)
    ]
    return [*patches, Line2D([], [], color=SOFT, dashes=(4, 3), label="uniform map")]


def aggregates(parts: Sequence[Part], setting: str, side: int) -> bytes:
    """PNG: the mean maps of one setting, methods below each other, bins of each layer beside.

    Bins that hold no map, as few pictures leave the outer ones, are left out.
    """
    mine = [part for part in parts if (part.setting, part.side) == (setting, side)]
    methods, layers = unique(part.title for part in mine), layers_of(mine)
    found = {(part.title, part.layer): part for part in mine}
    bins = [b for b in range(len(EDGES) - 1) if any(part.counts[b] for part in mine)]

    def draw(figure: Any) -> None:
        widths = [1.0] * (len(layers) * (len(bins) + 1) - 1)
        for place in range(len(bins), len(widths), len(bins) + 1):
            widths[place] = 0.25
        axes = figure.subplots(
            len(methods), len(widths), squeeze=False, gridspec_kw={"width_ratios": widths}
        )
        for axis in axes.flat:
            axis.set_axis_off()
        for row, method in enumerate(methods):
            for column, layer in enumerate(layers):
                start = column * (len(bins) + 1)
                line = axes[row, start : start + len(bins)]
                _bins(line, found.get((method, layer)), bins, side)
                if row == 0:
                    _over(line, bins, layer)
            _left_of(axes[row, 0], method)
        figure.suptitle(
            f"{setting_title(setting, side)}: mean maps for the top-left cell, best to worst",
            fontsize=11, color=INK,
        )  # fmt: skip

    width = 1.7 + _MAP * len(layers) * (len(bins) + 0.3)
    return _png(draw, max(width, 6.0), 1.0 + (_MAP + 0.08) * len(methods))


def _bins(line: Any, part: Part | None, bins: Sequence[int], side: int) -> None:
    for axis, place in zip(line, bins, strict=True):
        axis.set_box_aspect(1)
        if part is None or not part.counts[place]:
            why = "not defined" if part is None else "no map"
            axis.text(0.5, 0.5, why, ha="center", va="center", fontsize=6, color=SOFT,
                      transform=axis.transAxes)  # fmt: skip
            continue
        shown = np.clip(part.means[place] / (part.normaliser or 1.0), 0, 1)
        height, width = shown.shape
        axis.imshow(shown, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        for cell in range(1, side):
            axis.axhline(cell * height / side - 0.5, color="white", linewidth=0.5, alpha=0.6)
            axis.axvline(cell * width / side - 0.5, color="white", linewidth=0.5, alpha=0.6)


def _over(line: Any, bins: Sequence[int], layer: str) -> None:
    for axis, place in zip(line, bins, strict=True):
        title = f"{EDGES[place]}–{EDGES[place + 1]} %"
        axis.set_title(title, fontsize=7, color=SOFT, pad=2)
    line[0].text(0, 1.3, _short(layer), fontsize=9, color=INK, transform=line[0].transAxes)


def examples(
    parts: Sequence[Part], pictures: dict[tuple[str, int], tuple[np.ndarray, str]]
) -> bytes:
    """PNG: one picture per setting, and below it the maps of all methods for its first cell."""
    panels = unique((part.setting, part.side) for part in parts)
    methods, layers = unique(part.title for part in parts), layers_of(parts)
    found = {(part.setting, part.side, part.title, part.layer): part for part in parts}

    def draw(figure: Any) -> None:
        rows, columns = len(methods) + 1, len(panels) * (len(layers) + 1) - 1
        widths = [0.15 if (c + 1) % (len(layers) + 1) == 0 else 1.0 for c in range(columns)]
        axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"width_ratios": widths})
        for axis in axes.flat:
            axis.set_axis_off()
        for place, panel in enumerate(panels):
            start = place * (len(layers) + 1)
            picture, name = pictures[panel]
            top = axes[0, start + (len(layers) - 1) // 2]
            top.imshow(picture, interpolation="nearest")
            where = "" if panel[0] == BOXES else "top left: "
            title = f"{setting_title(*panel)}\n{where}{_short(name)}"
            top.set_title(title, fontsize=8, color=INK)
            for row, method in enumerate(methods, start=1):
                for column, layer in enumerate(layers):
                    part = found.get((*panel, method, layer))
                    _example(axes[row, start + column], part, picture, side=panel[1])
                    if row == 1:
                        axes[row, start + column].set_title(_short(layer), fontsize=8, color=SOFT)
        for row, method in enumerate(methods, start=1):
            _left_of(axes[row, 0], method)

    columns = len(panels) * (len(layers) + 0.15)
    return _png(draw, 1.6 + _PANEL * columns, 0.3 + (_PANEL + 0.1) * (len(methods) + 1))


def _example(axis: Any, part: Part | None, picture: np.ndarray, *, side: int) -> None:
    axis.set_box_aspect(1)
    if part is None:
        axis.text(0.5, 0.5, "not defined", ha="center", va="center", fontsize=7, color=SOFT,
                  transform=axis.transAxes)  # fmt: skip
        return
    height, width = part.example.shape
    seen = _resized(picture, height, width)
    axis.imshow(np.clip(overlay(seen, part.example), 0, 1), interpolation="nearest")
    for cell in range(1, side):
        axis.axhline(cell * height / side - 0.5, color=LINE, linewidth=0.8)
        axis.axvline(cell * width / side - 0.5, color=LINE, linewidth=0.8)
    framed = np.pad(part.mask, 1)
    axis.contour(
        np.arange(-1, width + 1), np.arange(-1, height + 1), framed, levels=[0.5], colors=[MAIN],
        linewidths=1.6,
    )  # fmt: skip
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
    score = f"{part.scores[0]:.2f}"
    colour = MAIN if part.scores[0] > part.chance else OTHER
    axis.text(0.97, 0.04, score, ha="right", va="bottom", fontsize=7.5, color=colour,
              transform=axis.transAxes,
              bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1})  # fmt: skip


def _resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((width, height)))


def _left_of(axis: Any, method: str) -> None:
    name = method.replace("_", " ").replace(", ", "\n")
    name = name if len(name) < 16 else name.replace(" ", "\n", 1)
    axis.text(-0.12, 0.5, name, fontsize=8.5, color=INK, ha="right", va="center",
              transform=axis.transAxes)  # fmt: skip


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _png(draw: Callable[[Any], None], width: float, height: float) -> bytes:
    with canvas(width, height) as figure:
        draw(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=_DPI)
    return stream.getvalue()
