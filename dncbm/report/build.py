"""`ReportData` in, one HTML file and its figures out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dncbm.artifacts import create_artifact, package_version, write_bytes
from dncbm.report import figures
from dncbm.report.data import Confusion, Metric, ReportData
from dncbm.report.pictures import data_address
from dncbm.types import Prediction

MAX_CONCEPTS = 60
MAX_THUMBNAILS = 6
MAX_MATRIX = 25
"""Classes up to which the confusion matrix is shown whole."""

REPORT = "report.html"


def build_report(data: ReportData, out: Path) -> Path:
    """Write the artifact `report` at `out`; returns the path of its HTML file.

    The HTML holds everything that it shows: no scripts, nothing loaded from elsewhere.
    `figures/` holds the charts as SVG and PNG for use elsewhere.

    Raises:
        Unavailable: disk full or read-only.
        ArtifactError: `out` holds something that is not an artifact.
    """
    charts = figures.draw_all(data)
    html = render(data, {name: chart.inline_svg(name) for name, chart in charts.items()})
    config = {"dataset": data.dataset, "encoder": data.encoder, "recipe": dict(data.recipe)}
    with create_artifact(out, "report", config=config, inputs=data.fingerprints) as draft:
        write_bytes(draft.path / REPORT, html.encode())
        for name, chart in charts.items():
            write_bytes(draft.path / "figures" / f"{name}.svg", chart.svg())
            write_bytes(draft.path / "figures" / f"{name}.png", chart.png)
        draft.metrics = {row.name: row.accuracy for row in data.accuracies}
    return out / REPORT


def render(data: ReportData, charts: dict[str, str]) -> str:
    """The HTML text; every value that comes from data is escaped."""
    environment = Environment(
        loader=PackageLoader("dncbm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "picture": data_address,
        "percent": percent,
        "signed": signed,
        "measured": measured,
        "valued": valued,
        "count": lambda number: f"{number:,}",
    }
    style = environment.get_template("report.css").render()
    return environment.get_template("report.html").render(
        data=data,
        charts={name: Markup(charts.get(name, "")) for name in figures.CHARTS},
        style=Markup(style),
        version=package_version(),
        concepts=data.concepts[:MAX_CONCEPTS],
        linked={card.name.concept for card in data.concepts[:MAX_CONCEPTS]},
        max_thumbnails=MAX_THUMBNAILS,
        largest=largest,
        sum_rows=sum_rows,
        matrix=matrix_rows(data.confusion) if data.confusion else [],
        confused=most_confused(data.confusion) if data.confusion else [],
        show_matrix=data.confusion is not None and len(data.confusion.classes) <= MAX_MATRIX,
    )


def percent(fraction: float, digits: int = 1) -> str:
    """`0.8234` as `82.3 %`, with a narrow no-break space."""
    return f"{100 * fraction:.{digits}f}\u202f%"


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, a true minus."""
    return f"{'−' if value < 0 else '+'}{abs(value):.{digits}f}"


def measured(metric: Metric) -> str:
    """The value of a metric with sensible digits and its unit."""
    return valued(metric.value, metric.unit)


def valued(value: float | int | str, unit: str) -> str:
    """A value with three digits, or as percent, and its unit."""
    if isinstance(value, str):
        return value
    if unit == "%":
        return percent(value)
    text = f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
    return f"{text}\u202f{unit}" if unit else text


def largest(values: Sequence[float]) -> float:
    """Largest absolute value, never 0, for scaling bars."""
    return max([abs(value) for value in values] + [1e-12])


def sum_rows(prediction: Prediction) -> list[dict[str, Any]]:
    """The terms of a logit: contributions, the rest, the bias."""
    rows = [
        {
            "name": part.name,
            "value": part.contribution,
            "quiet": False,
            "concepts": part.concepts or (part.concept,),
        }
        for part in prediction.contributions
    ]
    rest = {"all other concepts": prediction.remainder, "bias of the class": prediction.bias}
    rows += [
        {"name": name, "value": value, "quiet": True, "concepts": ()}
        for name, value in rest.items()
    ]
    return rows


def matrix_rows(confusion: Confusion) -> list[dict[str, Any]]:
    """Rows of the confusion matrix with the share of each cell in its row."""
    rows = []
    for index, (name, counts) in enumerate(zip(confusion.classes, confusion.counts, strict=True)):
        total = sum(counts)
        cells = [
            {"count": count, "share": count / total if total else 0.0, "diagonal": column == index}
            for column, count in enumerate(counts)
        ]
        recall = counts[index] / total if total else None
        rows.append({"name": name, "cells": cells, "total": total, "recall": recall})
    return rows


def most_confused(confusion: Confusion, limit: int = 10) -> list[tuple[str, str, int, int]]:
    """The most frequent mistakes: true class, answer, how often, images of the class."""
    pairs = [
        (confusion.classes[i], confusion.classes[j], count, sum(row))
        for i, row in enumerate(confusion.counts)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:limit]
