import re
import xml.etree.ElementTree as ET

import pytest

from dncbm.report.data import AccuracyRow
from dncbm.report.figures import Chart, draw_all
from tests.unit.report.report_sample import sample, tiny


@pytest.fixture(scope="module")
def charts() -> dict[str, Chart]:
    return draw_all(sample(gallery=0))


def test_only_what_there_are_numbers_for() -> None:
    assert draw_all(tiny()) == {}
    assert set(draw_all(tiny(scores=[0.1, 0.2]))) == {"scores"}


def test_svg_is_well_formed_and_takes_the_page_colours(charts: dict[str, Chart]) -> None:
    for key, chart in charts.items():
        ET.fromstring(chart.svg())
        inline = chart.inline_svg(key)
        ET.fromstring(inline)
        assert inline.startswith("<svg")
        assert "var(--for)" in inline
        assert not re.search(r"#(18796c|1d232b|5c6672|e2dfd8)", inline)
        ids = set(re.findall(r'\bid="([^"]+)"', inline))
        assert all(item.startswith(f"{key}-") for item in ids)
        used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', inline)
        assert {a or b for a, b in used} <= ids


def test_curve_shows_its_numbers(charts: dict[str, Chart]) -> None:
    text = charts["accuracy_vs_nec"].text
    for shown in ("74.2", "79.6", "Concepts per class (NEC)"):
        assert shown in text


def test_names_from_data_never_reach_a_chart() -> None:
    rows = [AccuracyRow(name="$\\frac$ 日本 <b>", correct=1, total=2, baseline=True)]
    chart = draw_all(tiny(nec_curve=[(5, 0.5)], accuracies=rows))["accuracy_vs_nec"]
    assert "frac" not in chart.text


@pytest.mark.parametrize(
    "densities",
    [[0.0], [1.0], [0.0, 1e-12], [0.5] * 3],
)
def test_density_of_any_kind(densities: list[float]) -> None:
    assert draw_all(tiny(densities=densities))["density"].png.startswith(b"\x89PNG")


def test_dead_concepts_are_counted() -> None:
    chart = draw_all(tiny(densities=[0.0, 0.0, 0.3]))["density"]
    assert "2 of 3 are never active" in chart.text


@pytest.mark.parametrize(
    ("scores", "threshold"),
    [([0.2, 0.2], None), ([float("nan"), 0.1], 5.0), ([float("nan")], 0.2)],
)
def test_scores_of_any_kind(scores: list[float], threshold: float | None) -> None:
    draw_all(tiny(scores=scores, score_threshold=threshold))


@pytest.mark.parametrize("curve", [[(5, 0.0)], [(5, 1.0), (10, 1.0)], [(30, 0.2), (5, 0.1)]])
def test_curves_of_any_kind(curve: list[tuple[int, float]]) -> None:
    rows = [AccuracyRow(name="x", correct=1, total=2, baseline=True)]
    data = tiny(accuracies=rows, nec_curve=curve)
    assert "accuracy_vs_nec" in draw_all(data)
