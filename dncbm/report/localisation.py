"""Figures and an HTML page of a localisation; the page holds everything that it shows."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dncbm.artifacts import package_version, write_bytes
from dncbm.report.localisation_data import LocalisationReport, Part, layers_of, unique
from dncbm.report.localisation_figures import (
    BOXES,
    aggregates,
    boxes,
    examples,
    setting_title,
)
from dncbm.report.pictures import data_address

__all__ = ["REPORT", "LocalisationReport", "Part", "write_report"]
REPORT = "report.html"
_MEANINGS = {
    "gridpg": "The network sees the whole grid; one output per class.",
    "difull": "The network sees each cell alone; nothing outside the cell can have any influence.",
    BOXES: "Whole photos: the share of positive mass inside the boxes of the class.",
    "dipart": "The features of the whole grid; pooling and head on the region of each cell.",
}


def write_report(report: LocalisationReport, folder: Path) -> dict[str, str]:
    """Write the figures and `report.html` into a folder; returns the figures' files by name."""
    pictures = _pictures(report)
    for file, picture in pictures.items():
        write_bytes(folder / file, picture)
    write_bytes(folder / REPORT, render(report, pictures).encode())
    return {Path(file).stem: file for file in pictures}


def _pictures(report: LocalisationReport) -> dict[str, bytes]:
    found = {"boxes.png": boxes(report.parts)}
    for setting, side in unique((part.setting, part.side) for part in report.parts):
        if setting != BOXES:  # things lie elsewhere in every photo
            found[_aggregate(setting, side)] = aggregates(report.parts, setting, side)
    found["examples.png"] = examples(report.parts, dict(report.pictures))
    return found


def _aggregate(setting: str, side: int) -> str:
    """File of the mean maps of a setting."""
    return f"aggatt-{setting}-{side}.png"


def render(report: LocalisationReport, pictures: dict[str, bytes]) -> str:
    """The HTML text; every value that comes from data is escaped."""
    environment = Environment(
        loader=PackageLoader("dncbm.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["picture"] = data_address
    panels = unique((part.setting, part.side) for part in report.parts)
    return environment.get_template("localisation.html").render(
        report=report,
        style=Markup(environment.get_template("report.css").render()),
        version=package_version(),
        panels=[
            {
                "title": setting_title(*panel), "meaning": _MEANINGS.get(panel[0], ""),
                "rows": table(report, *panel), "chance": _chance(report, *panel),
                "picture": pictures.get(_aggregate(*panel)),
            }
            for panel in panels
        ],
        layers=[_layer_title(report, layer) for layer in layers_of(report.parts)],
        boxes=pictures["boxes.png"],
        examples=pictures["examples.png"],
    )  # fmt: skip


def table(report: LocalisationReport, setting: str, side: int) -> list[dict[str, Any]]:
    """One row per method: means by layer, None where it is not defined."""
    mine = {
        (part.title, part.layer): part
        for part in report.parts
        if (part.setting, part.side) == (setting, side)
    }
    layers = layers_of(report.parts)
    rows = []
    for title in unique(method for method, _ in mine):
        cells = [mine.get((title, layer)) for layer in layers]
        rows.append({"method": title, "cells": cells})
    return rows


def _chance(report: LocalisationReport, setting: str, side: int) -> float:
    return next(p.chance for p in report.parts if (p.setting, p.side) == (setting, side))


def _layer_title(report: LocalisationReport, layer: str) -> dict[str, str]:
    module = next(part.module for part in report.parts if part.layer == layer)
    return {"name": layer, "module": "" if module == layer else module}
