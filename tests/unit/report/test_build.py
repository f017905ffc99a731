import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dncbm.artifacts import load_manifest
from dncbm.errors import ArtifactError, InvalidInput
from dncbm.report.build import build_report, largest, most_confused, percent, render, signed
from dncbm.report.data import (
    AccuracyRow,
    ClassExplanation,
    ConceptCard,
    Confusion,
    LocalExplanation,
    Metric,
    QualityRow,
    Thumbnail,
    WeightedConcept,
)
from dncbm.types import Contribution, Prediction
from tests.unit.report.report_sample import CLASSES, name, png_bytes, prediction, sample, tiny

HOSTILE = "<script>alert(1)</script>\"'>{{ 7*7 }}"
VOID = {"meta", "img", "link", "br", "path", "circle", "use", "hr"}


class Checker(HTMLParser):
    """Balanced tags, unique ids, and what the page loads or runs."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for key, value in attrs:
            if key == "id":
                self.ids[str(value)] += 1
            if key == "src":
                self.loaded.append(str(value))
            if key in ("href", "xlink:href"):
                self.links.append(str(value))
            if key.startswith("on"):
                self.handlers.append(key)


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert not checker.open
    return checker


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(sample(), tmp_path_factory.mktemp("made") / "report")


@pytest.fixture
def html(made: Path) -> str:
    return made.read_text()


def test_artifact_holds_html_and_figures(made: Path) -> None:
    assert made.parts[-2:] == ("report", "report.html")
    manifest = load_manifest(made.parent, "report")
    assert set(manifest.files) == {"report.html"} | {
        f"figures/{name}.{kind}"
        for name in ("accuracy_vs_nec", "density", "scores")
        for kind in ("png", "svg")
    }
    assert set(manifest.inputs) == {"encoder", "sae", "cbm"}
    assert manifest.metrics["Linear probe"] == 301 / 372
    assert (made.parent / "figures" / "density.png").read_bytes().startswith(b"\x89PNG")


def test_same_data_same_fingerprint(made: Path, tmp_path: Path) -> None:
    again = build_report(sample(), tmp_path / "again")
    assert load_manifest(again.parent).fingerprint == load_manifest(made.parent).fingerprint


def test_html_is_well_formed_and_self_contained(html: str) -> None:
    page = check(html)
    assert [key for key, times in page.ids.items() if times > 1] == []
    assert page.tags["script"] == 0
    assert page.handlers == []
    assert all(address.startswith("data:image/") for address in page.loaded)
    targets = [link[1:] for link in page.links]
    assert all(link.startswith("#") for link in page.links)
    assert set(targets) <= set(page.ids)
    assert "url(http" not in html
    assert "@import" not in html


def test_every_section_is_there_and_linked(html: str) -> None:
    sections = "accuracy decisions classes concepts dictionary names mistakes limits recipe"
    for section in sections.split():
        assert f'<section id="{section}">' in html
        assert f'href="#{section}"' in html


def test_accuracy_table(html: str) -> None:
    assert "301 of 372" in html
    assert "80.9\u202f%" in html
    assert "412.3" in html


def test_pictures_have_alternative_texts(html: str) -> None:
    assert len(re.findall(r"<img ", html)) == len(re.findall(r'<img src="data:[^"]+" alt=', html))


def test_bars_follow_the_contributions(html: str) -> None:
    parts = prediction(0)
    values = [part.contribution for part in parts.contributions] + [parts.remainder, parts.bias]
    start = html.index("photo_0000.jpg</p>")
    bars = re.findall(r'<i class="(\w+)[^"]*" style="width:([\d.]+)%"', html[start:])[: len(values)]
    for (side, width), value in zip(bars, values, strict=True):
        assert side == ("for" if value > 0 else "against")
        assert float(width) == pytest.approx(50 * abs(value) / largest(values), abs=0.01)


def test_concepts_of_one_name_are_told_by_their_numbers() -> None:
    part = Contribution(
        concept=3, name="dress", code=2.0, weight=0.5, contribution=1.0, concepts=(3, 70, 1)
    )
    shown = replace(sample(gallery=5).explanations[0], prediction=replace(prediction(0),
                    contributions=(part,)))  # fmt: skip
    html = render(replace(sample(gallery=5), explanations=(shown,)), {})
    check(html)
    row = html[html.index(">dress ") :].split('<span class="track">')[0]
    assert re.findall(r"#(\d+)<", row) == ["3", "70", "1"]
    assert re.findall(r'href="#concept-(\d+)"', row) == ["3", "1"]  # the gallery ends before 70


def test_empty_data_leaves_sections_out(tmp_path: Path) -> None:
    html = build_report(tiny(), tmp_path / "report").read_text()
    check(html)
    assert re.findall(r'<section id="(\w+)">', html) == ["limits"]
    assert set(load_manifest(tmp_path / "report").files) == {"report.html"}


@pytest.mark.parametrize(
    "field", ["accuracies", "nec_curve", "sae_metrics", "densities", "naming", "scores", "concepts",
              "classes", "explanations", "fingerprints", "recipe", "splits", "caveats"]
)  # fmt: skip
def test_each_part_may_be_missing(field: str) -> None:
    data = sample(gallery=1)
    check(render(replace(data, **{field: type(getattr(data, field))()}), {}))


def test_the_dictionary_is_judged_by_all_measures_side_by_side() -> None:
    html = render(sample(gallery=1), {})
    table = html[html.index('<table class="quality">') :].split("</table>")[0]
    cells = [re.findall(r'<td class="number">(.*?)</td>', row) for row in table.split("</tr>")]
    assert [row for row in cells if row] == [
        ["0.083", "0.097"], ["0.957", "0.951"], ["31.7", "31.6"],
        ["2.1\u202f%", "4.3\u202f%"], ["0.71", ""], ["", "98.2\u202f%"],
    ]  # fmt: skip


def test_everything_from_data_is_escaped() -> None:
    part = Contribution(concept=0, name=HOSTILE, code=1.0, weight=1.0, contribution=1.0)
    hostile = Prediction(
        class_name=HOSTILE,
        class_index=0,
        probability=0.5,
        logit=1.0,
        bias=0.0,
        remainder=0.0,
        contributions=(part,),
    )
    weighted = (WeightedConcept(concept=0, name=HOSTILE, value=1.0),)
    picture = png_bytes()
    data = tiny(
        dataset=HOSTILE,
        encoder=HOSTILE,
        created=HOSTILE,
        recipe={HOSTILE: HOSTILE},
        fingerprints={HOSTILE: HOSTILE},
        splits={HOSTILE: 1},
        accuracies=[AccuracyRow(name=HOSTILE, note=HOSTILE, correct=1, total=2, baseline=True)],
        nec_curve=[(5, 0.5)],
        sae_metrics=[QualityRow(name=HOSTILE, says=HOSTILE, good=HOSTILE, misleads=HOSTILE)],
        naming=[
            Metric(name=HOSTILE, value=1.0, unit=HOSTILE),
            Metric(name=HOSTILE, value=HOSTILE, meaning=HOSTILE),
        ],
        concepts=[
            ConceptCard(
                name=name(0, HOSTILE),
                density=0.5,
                thumbnails=[Thumbnail(image=picture, caption=HOSTILE)],
            )
        ],
        classes=[ClassExplanation(name=HOSTILE, images=1, concepts=weighted, weights=weighted)],
        explanations=[
            LocalExplanation(
                image=picture,
                title=HOSTILE,
                prediction=hostile,
                true_class=HOSTILE + "x",
                alternatives=[hostile],
            )
        ],
        confusion=Confusion(classes=[HOSTILE, "b"], counts=[[1, 0], [1, 1]]),
        caveats=[HOSTILE],
    )
    html = render(data, {"accuracy_vs_nec": "<svg></svg>"})
    page = check(html)
    assert page.tags["script"] == 0
    assert page.handlers == []
    assert "<script" not in html
    assert "49" not in re.sub(
        r"data:image/png;base64,[^\"]+|<style>.*?</style>", "", html, flags=re.S
    )
    assert html.count("&lt;script&gt;") >= 20


def test_gallery_is_bounded() -> None:
    html = render(sample(gallery=75, thumbs=8), {})
    gallery = html[html.index('<div class="gallery">') : html.index('<section id="dictionary">')]
    assert gallery.count("<article") == 60
    assert gallery.count("<img") == 360
    assert "60 of 2,048" in html
    assert len(html) < 4_000_000


@pytest.mark.parametrize(("size", "shown"), [(25, True), (26, False)])
def test_large_confusions_become_a_list(size: int, shown: bool) -> None:
    classes = [f"class {i}" for i in range(size)]
    counts = [[2 if i == j else int(j == 0) for j in range(size)] for i in range(size)]
    html = render(tiny(confusion=Confusion(classes=classes, counts=counts)), {})
    check(html)
    assert ('class="matrix"' in html) is shown
    assert ("most frequent mistakes" in html) is not shown


def test_most_confused_are_the_most_frequent() -> None:
    confusion = Confusion(classes=["a", "b", "c"], counts=[[5, 1, 0], [3, 2, 0], [0, 0, 9]])
    assert most_confused(confusion) == [("b", "a", 3, 5), ("a", "b", 1, 6)]


def test_class_without_images_in_the_confusion() -> None:
    check(render(tiny(confusion=Confusion(classes=["a", "b"], counts=[[0, 0], [0, 3]])), {}))


def test_numbers() -> None:
    assert percent(0.8234) == "82.3\u202f%"
    assert signed(-1.005) == "−1.00"
    assert signed(2.0) == "+2.00"
    assert largest([0.0, 0.0]) > 0


def test_an_output_that_is_no_artifact_is_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="will not be overwritten"):
        build_report(tiny(), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    build_report(tiny(scores=[0.1, 0.2]), tmp_path / "report")
    assert (tmp_path / "report" / "figures").is_dir()
    build_report(tiny(dataset="second"), tmp_path / "report")
    assert "second" in (tmp_path / "report" / "report.html").read_text()
    assert not (tmp_path / "report" / "figures").exists()
    json.loads((tmp_path / "report" / "manifest.json").read_text())


@pytest.mark.parametrize(("correct", "total"), [(3, 2), (-1, 2), (0, 0)])
def test_impossible_accuracy(correct: int, total: int) -> None:
    with pytest.raises(InvalidInput, match=f"'x' has {correct} of {total} correct"):
        AccuracyRow(name="x", correct=correct, total=total)


@pytest.mark.parametrize("counts", [[[1]], [[1, 2], [3]], []])
def test_confusion_of_another_size(counts: list[list[int]]) -> None:
    with pytest.raises(InvalidInput, match="for 2 classes"):
        Confusion(classes=CLASSES[:2], counts=counts)
