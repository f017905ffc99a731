"""The page and figures of a localisation: whole, escaped, and for few maps too."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dncbm.report.localisation import LocalisationReport, Part, table, write_report


def _part(**changes: Any) -> Part:
    values: dict[str, Any] = {
        "method": "grad_cam", "layer": "final", "module": "layer4", "setting": "gridpg", "side": 2,
        "smooth": 1, "scores": np.array([0.5, 0.7]), "chance": 0.25,
        "means": np.random.default_rng(0).random((6, 8, 8)), "counts": (0, 0, 1, 1, 0, 0),
        "normaliser": 0.9, "example": np.random.default_rng(1).normal(size=(16, 16)),
        "mask": np.kron(np.array([[True, False], [False, False]]), np.ones((8, 8), bool)),
    }  # fmt: skip
    return Part(**values | changes)


def _report(*parts: Part) -> LocalisationReport:
    picture = np.zeros((16, 16, 3), np.uint8)
    panels = {(part.setting, part.side) for part in parts}
    return LocalisationReport(
        model="<b>model</b>", targets="classes", parts=parts,
        undefined=({"setting": "dipart", "side": 2, "reason": "tokens & attention"},),
        pictures=dict.fromkeys(panels, (picture, "class $x^2$")), photos=3, seen=4,
        recipe={"seed": 0}, fingerprints={"photos": "abc"},
    )  # fmt: skip


def test_everything_that_is_shown_is_written(tmp_path: Path) -> None:
    parts = [
        _part(), _part(layer="input", module=""), _part(setting="difull", smooth=9),
        _part(setting="boxes", side=1, chance=0.4), _part(method="rise", setting="difull"),
    ]  # fmt: skip
    figures = write_report(_report(*parts), tmp_path)
    assert set(figures) == {"boxes", "aggatt-gridpg-2", "aggatt-difull-2", "examples"}
    for file in figures.values():
        with Image.open(tmp_path / file) as picture:
            assert picture.width > 300
    page = (tmp_path / "report.html").read_text()
    assert "&lt;b&gt;model" in page
    assert "<b>model" not in page
    assert "tokens &amp; attention" in page
    assert "src=" in page
    assert "http" not in page


def test_rows_are_methods_and_cells_layers() -> None:
    parts = [_part(), _part(layer="input", module=""), _part(method="rise")]
    rows = table(_report(*parts), "gridpg", 2)
    assert [row["method"] for row in rows] == ["grad_cam", "rise"]
    assert [cell and cell.layer for cell in rows[1]["cells"]] == ["final", None]
    summary = parts[0].summary()
    assert summary["mean"] == 0.6
    assert summary["maps"] == 2
