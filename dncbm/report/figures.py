"""Charts of the report. They hold numbers and fixed words only, never names from data.

Colours are drawn as fixed values and, for the HTML, replaced by the page's CSS variables, so
that one drawing serves light, dark and print.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from dncbm.report.data import ReportData

INK, SOFT, LINE, MAIN, OTHER = "#1d232b", "#5c6672", "#e2dfd8", "#18796c", "#b8471f"
_VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", MAIN: "for", OTHER: "against"}
CHARTS = ("accuracy_vs_nec", "density", "scores")
_LOWEST_DENSITY = -5
"""Power of ten under which densities share the first bar."""
_WIDTH, _HEIGHT = 5.4, 3.3

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": LINE,
    "axes.linewidth": 1,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn chart."""

    text: str
    """SVG without the XML declaration."""
    png: bytes
    """The same at 160 dots per inch on white."""

    def svg(self) -> bytes:
        """A stand-alone SVG file."""
        return self.text.encode()

    def inline_svg(self, name: str) -> str:
        """The SVG for use inside HTML: colours from the page, ids of its own."""
        text = self.text[self.text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', text, count=1)
        for colour, variable in _VARIABLES.items():
            text = text.replace(colour, f"var(--{variable})")
        text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
        return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)


def draw_all(data: ReportData) -> dict[str, Chart]:
    """Every chart that the data has numbers for, by name."""
    values = (data.nec_curve, data.densities, data.scores)
    draws = (_accuracy_vs_nec, _density, _scores)
    return {
        name: _chart(draw, data)
        for name, draw, numbers in zip(CHARTS, draws, values, strict=True)
        if numbers
    }


def _chart(draw: Callable[[Any, ReportData], None], data: ReportData) -> Chart:
    with canvas() as figure:
        draw(figure.subplots(), data)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.savefig(png, format="png", dpi=160)
    text = svg.getvalue()
    return Chart(text[text.index("<svg") :], png.getvalue())


@contextmanager
def canvas(width: float = _WIDTH, height: float = _HEIGHT) -> Iterator[Any]:
    """A figure of so many inches on the Agg canvas, without pyplot's global state."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE | {"svg.hashsalt": "dncbm"}):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        yield figure


def _accuracy_vs_nec(axes: Any, data: ReportData) -> None:
    points = sorted(data.nec_curve)
    x = [nec for nec, _ in points]
    y = [100 * accuracy for _, accuracy in points]
    baselines = [row for row in data.accuracies if row.baseline]
    highest = max((100 * row.accuracy for row in baselines), default=101.0)
    axes.plot(x, y, color=MAIN, linewidth=2, marker="o", markersize=5, clip_on=False, zorder=3)
    for position, value in zip(x, y, strict=True):
        axes.annotate(
            f"{value:.1f}",
            (position, value),
            # on the side of the point that the baselines do not cross
            xytext=(0, 8 if value >= highest else -15),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=INK,
        )
    for index, row in enumerate(baselines):
        axes.axhline(
            100 * row.accuracy,
            color=SOFT,
            linewidth=1.2,
            dashes=[(6, 3), (1.5, 2), (3, 2)][index % 3],
        )
    levels = y + [100 * row.accuracy for row in baselines]
    _limits(axes, levels)
    axes.set_xlabel("Concepts per class (NEC)")
    axes.set_ylabel("Accuracy, %")
    axes.set_xticks(x)


def _limits(axes: Any, levels: Sequence[float]) -> None:
    """A scale that shows differences but does not make small ones look large."""
    low, high = min(levels), max(levels)
    margin = max(5.0, 0.2 * (high - low))
    bottom, top = max(0.0, low - margin), min(102.0, high + margin)
    axes.set_ylim(bottom, top)
    # Room above a point at 100, but no tick: there is no 101 %.
    axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= 100.0])


def _density(axes: Any, data: ReportData) -> None:
    values = np.asarray(data.densities, dtype=float)
    alive = np.maximum(values[values > 0], 10.0**_LOWEST_DENSITY)
    low = float(np.floor(np.log10(alive.min(initial=0.1))))
    axes.hist(np.log10(alive), bins=np.linspace(low, 0, 33), color=MAIN, rwidth=0.9)
    ticks = np.arange(low, 1)
    axes.set_xticks(ticks, [f"{100 * 10.0**tick:g} %" for tick in ticks])
    axes.set_xlabel("Images in which a concept is active")
    axes.set_ylabel("Concepts")
    dead = int((values == 0).sum())
    if dead:
        axes.set_title(f"{dead:,} of {len(values):,} are never active", fontsize=10, color=SOFT)


def _scores(axes: Any, data: ReportData) -> None:
    values = np.asarray(data.scores, dtype=float)
    values = values[np.isfinite(values)]
    edges = np.histogram_bin_edges(values, bins=36)
    threshold = data.score_threshold
    low = values[values < threshold] if threshold is not None else values[:0]
    high = values[values >= threshold] if threshold is not None else values
    axes.hist([low, high], bins=edges, stacked=True, color=[OTHER, MAIN], rwidth=0.9)
    if threshold is not None:
        axes.axvline(threshold, color=SOFT, linewidth=1.2, dashes=(4, 3))
    axes.set_xlabel("Cosine between concept and name")
    axes.set_ylabel("Concepts")
