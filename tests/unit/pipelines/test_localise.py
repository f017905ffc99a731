"""`dncbm localise`: scores, figures and report of grids; it resumes, and refuses by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from dncbm.artifacts import load_manifest
from dncbm.attribution.headed import Headed
from dncbm.bcos.store import Blueprint, NetworkKind, save_bcos
from dncbm.data.pixels import centred
from dncbm.data.views import Views
from dncbm.errors import ArtifactError, InvalidInput, UnknownName
from pipelines import localise as module
from pipelines import localised_tasks
from pipelines.cli import app
from pipelines.localise import LocaliseConfig, localise_stage
from pipelines.localised_models import Subject, open_subject
from pipelines.localised_photos import Choice, candidates

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}


class _Colours(nn.Module):
    """A stage of each resolution, the mean, and a logit per colour."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 2, stride=2), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(3, 3, 2, stride=2), nn.ReLU())
        self.head = nn.Linear(3, 4)
        for conv in (self.stem[0], self.stage[0]):
            nn.init.zeros_(conv.bias)
            conv.weight.data = torch.eye(3)[..., None, None].expand(3, 3, 2, 2).clone() / 4
        rows = [[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1.2, 1.2, -2]]
        self.head.weight.data = 10 * torch.tensor(rows)
        self.head.bias.data = torch.tensor([0.0, 0.0, 0.0, -10.0])

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stage(self.stem(images)).mean((2, 3)))


def _subject(targets: str = "classes") -> Subject:
    network: nn.Module = _Colours().eval().requires_grad_(False)
    if targets == "concepts":
        network = Headed(network, lambda e: e.clamp_min(0)).eval()
    return Subject(
        spec="colours", network=network, names=tuple(COLOURS),
        targets=targets,  # type: ignore[arg-type]
        resize=centred(16), normalise=lambda levels: levels.movedim(3, 1) / 255,
        confidence="margin" if targets == "concepts" else "softmax", fingerprint="colours",
        device="cpu",
    )  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos of each of four colours, and one that cannot be read."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(3):
            levels = rng.integers(0, 60, (20, 24, 3)) + 190 * np.array(colour)
            Image.fromarray(levels.astype(np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "photos" / "red" / "9.png").write_bytes(b"no picture")
    return tmp_path / "photos"


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network that is opened, whatever is asked for; all photos are test photos."""
    monkeypatch.setattr(module, "open_subject", lambda _m, _c, targets, _d: _subject(targets))
    monkeypatch.setattr(
        "pipelines.localised_photos.split_records",
        lambda source, _s: ["test"] * len(source.records),
    )


def _config(**changes: Any) -> LocaliseConfig:
    values: dict[str, Any] = {
        "methods": ("input_x_gradient", "grad_cam"), "layers": ("input", "final"), "grids": 3,
        "smooth": (3,),
    }  # fmt: skip
    return LocaliseConfig(**values | changes)


@pytest.mark.usefixtures("colours")
def test_what_comes_out(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = localise_stage(str(photos), out, _config())
    manifest = load_manifest(out, "localisation")
    assert manifest.config["grids"] == 3
    assert set(manifest.inputs) == {"photos", "model"}
    rows = pq.read_table(result["scores"]).to_pylist()
    # methods x layers x kernels x grids x scored cells
    assert len(rows) == 2 * 2 * 2 * 3 * (4 + 2 + 2)
    assert {row["class"] for row in rows} == set(COLOURS)
    for row in rows:
        assert row["chance"] == 0.25
        assert row["images"][row["cell"]] == row["image"]
        assert row["class"] in row["image"]
        if row["setting"] == "difull" and row["layer"] == "input" and row["smooth"] == 1:
            assert row["score"] == (1.0 if row["method"] == "input_x_gradient" else row["score"])
        if row["setting"] != "gridpg":
            assert row["images"][0].split("/")[0] == row["images"][3].split("/")[0]
            assert row["images"][0] != row["images"][3]
    assert result["broken"] == 1
    mean = next(
        row for row in result["means"]
        if (row["method"], row["layer"], row["setting"], row["smooth"])
        == ("grad_cam", "final", "gridpg", 1)
    )  # fmt: skip
    mine = [
        row["score"] for row in rows
        if all(row[key] == mean[key] for key in ("method", "layer", "setting", "smooth"))
    ]  # fmt: skip
    assert mean["mean"] == pytest.approx(np.mean(mine))
    assert mean["maps"] == len(mine) == 12
    for file in [*result["figures"].values(), result["report"]]:
        assert Path(file).stat().st_size > 1000
    assert set(result["figures"]) == {
        "boxes", "aggatt-gridpg-2", "aggatt-difull-2", "aggatt-dipart-2", "examples",
    }  # fmt: skip
    page = Path(result["report"]).read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.usefixtures("colours")
def test_an_interrupted_run_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, config = tmp_path / "out", _config(settings=("difull",), smooth=())
    whole = localise_stage(str(photos), tmp_path / "other", config)
    measured: list[str] = []
    original = localised_tasks.measured

    def interrupted(task: Any, *rest: Any) -> Any:
        measured.append(f"{task.method} {task.layer}")
        if len(measured) == 3:
            raise KeyboardInterrupt
        return original(task, *rest)

    monkeypatch.setattr(localised_tasks, "measured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        localise_stage(str(photos), out, config)
    assert not out.exists()
    result = localise_stage(str(photos), out, config)
    assert measured == [
        "input_x_gradient input", "input_x_gradient final", "grad_cam input", "grad_cam input",
        "grad_cam final",
    ]  # fmt: skip
    assert result["means"] == whole["means"]
    again = localise_stage(str(photos), out, config)  # only read
    assert again == result
    assert len(measured) == 5
    localise_stage(str(photos), out, _config(settings=("difull",), smooth=(), seed=1))
    assert len(measured) == 9


@pytest.mark.usefixtures("colours")
def test_concepts_are_targets_of_the_photos_that_show_them_most(
    photos: Path, tmp_path: Path
) -> None:
    result = localise_stage(
        str(photos), tmp_path / "out",
        _config(targets="concepts", settings=("difull",), layers=("final",), smooth=(),
                methods=("input_x_gradient",)),
    )  # fmt: skip
    assert {row["mean"] > 0.5 for row in result["means"]} == {True}


@pytest.mark.usefixtures("colours")
def test_a_setting_or_a_method_that_is_not_defined_is_told(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_head(self: Any, images: Tensor) -> None:
        raise InvalidInput("DiPart is not defined for this network.")

    monkeypatch.setattr("dncbm.attribution.settings.DiPart.check", no_head)
    config = _config(methods=("gradient", "bcos", "rollout"), layers=("final",), smooth=())
    result = localise_stage(str(photos), tmp_path / "out", config)
    reasons = {(row["setting"], row.get("method")): row["reason"] for row in result["undefined"]}
    assert reasons["dipart", None] == "DiPart is not defined for this network."
    assert "B-cos networks only" in reasons["gridpg", "bcos"]
    assert ("difull", "rollout") in reasons
    assert {row["method"] for row in result["means"]} == {"gradient"}
    assert "Not defined" in Path(result["report"]).read_text()
    with pytest.raises(InvalidInput, match="Nothing could be measured"):
        localise_stage(
            str(photos), tmp_path / "none", _config(methods=("bcos",), settings=("difull",))
        )


@pytest.mark.usefixtures("colours")
def test_the_command_prints_tables_and_one_json_line(photos: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    options = ["--grids", "1", "--methods", "gradient", "--layers", "final", "--json"]
    arguments = ["localise", "--data", str(photos), "--out", out, *options,
                 "--settings", "difull"]  # fmt: skip
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout.strip().splitlines()[-1])
    assert found["means"][0]["setting"] == "difull"
    assert Path(found["figures"]["boxes"]).exists()
    assert "difull, 2 x 2" in ran.stdout


@pytest.mark.usefixtures("colours")
def test_bad_calls_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Nearest known names: stage"):
        localise_stage(str(photos), tmp_path / "a", _config(layers=("stge",)))
    for changes, words in [
        ({"settings": ("gridpq",)}, "Unknown setting"), ({"methods": ("grad_cum",)}, "grad_cam"),
        ({"sides": (1,)}, "sides of 2 cells"), ({"smooth": (4,)}, "odd"),
        ({"confidence": 2.0}, "from 0 to 1"), ({"layers": ()}, "at least one of each"),
        ({"targets": "texts"}, "kind of targets"),
    ]:  # fmt: skip
        with pytest.raises(InvalidInput, match=words):
            _config(**changes)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "letter.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="will not be overwritten"):
        localise_stage(str(photos), tmp_path / "b", _config())
    with pytest.raises(InvalidInput, match="need 9 classes"):
        localise_stage(str(photos), tmp_path / "c", _config(sides=(3,)))
    ran = CliRunner().invoke(app, ["localise", "--out", "x", "--data", "y", "--sides", "two"])
    assert isinstance(ran.exception, InvalidInput)
    ran = CliRunner().invoke(app, ["localise", "--out", "x"])
    assert "No photos given" in str(ran.exception)


@pytest.mark.usefixtures("colours")
def test_photos_with_boxes_are_scored_whole(photos: Path, tmp_path: Path) -> None:
    """The box is the left half of each photo, as YOLO writes it."""
    labels = tmp_path / "labels"
    for k, name in enumerate(COLOURS):
        (labels / name).mkdir(parents=True)
        (labels / name / "0.txt").write_text(f"{k} 0.3 0.5 0.4 0.8\n")
    (labels / "data.yaml").write_text("names: [red, green, blue, yellow]\n")
    config = _config(settings=("difull",), boxes=str(labels), smooth=(), layers=("input",))
    result = localise_stage(str(photos), tmp_path / "out", config)
    rows = pq.read_table(result["scores"]).to_pylist()
    boxed = [row for row in rows if row["setting"] == "boxes"]
    assert len(boxed) == 2 * 4
    for row in boxed:
        assert row["image"].startswith(row["class"])
        assert 0.3 < row["chance"] < 0.5
        assert row["score"] == pytest.approx(row["chance"], abs=0.15)  # colour is everywhere
    assert "aggatt-boxes-1" not in result["figures"]
    assert load_manifest(tmp_path / "out", "localisation").inputs.keys() == {
        "photos", "model", "boxes",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["bcos", "guided"])
def test_trained_networks_are_opened_by_their_folder(tmp_path: Path, kind: NetworkKind) -> None:
    arguments = {"num_classes": 2, "small_inputs": True, "width": 8}
    blueprint = Blueprint(family="scratch", name="resnet18", arguments=arguments)
    network = blueprint.build().eval()
    save_bcos(
        tmp_path / kind, network, blueprint, Views(size=16), classes=("cat", "dog"), kind=kind
    )
    found = open_subject(f"{kind}:{tmp_path}", ["cat", "dog"], "classes", "cpu")
    pixels = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(found.network(pixels), network(pixels))
    assert (found.names, found.confidence, found.is_bcos) == (("cat", "dog"), "sigmoid", True)


def test_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidInput, match="mini has no concepts"):
        open_subject("mini", ["a", "b"], "concepts")
    with pytest.raises(InvalidInput, match="have 1 classes"):
        open_subject("mini", ["a"], "classes")
    with pytest.raises(UnknownName, match="resnet18"):
        open_subject("torchvision:resnet181", ["a", "b"], "classes")
    with pytest.raises(ArtifactError, match="holds no network"):
        open_subject("bcos:nowhere", ["a", "b"], "classes")
    found = open_subject("mini", ["cat", "dog"], "classes", "cpu")
    assert found.names == ("cat", "dog")
    assert found.network(torch.zeros(1, 3, 96, 96)).shape == (1, 2)


def test_a_head_of_other_classes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(_spec: Any, count: int) -> Any:
        from dncbm.data.views import Views

        return nn.Linear(2, count), Views(size=8)

    monkeypatch.setattr("pipelines.localised_models.open_classifier", opened)
    monkeypatch.setattr("pipelines.localised_models.parse_classifier", lambda text: text)
    with pytest.raises(InvalidInput, match="another number of classes than the photos, 2"):
        open_subject("timm:x", ["a", "b"], "classes", "cpu")


def test_unsure_photos_are_not_used(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    from dncbm.data.sources import open_source

    source, quiet = open_source(str(photos)), _silent()
    found = candidates(_subject(), source, Choice(confidence=0.5), quiet)
    assert found.broken + found.seen >= 4
    with pytest.raises(InvalidInput, match="right and sure about none"):
        candidates(_subject(), source, Choice(confidence=1.0), quiet)
    assert found.reader.pixels([0, 0]).shape == (2, 3, 16, 16)


def _silent() -> Callable[[str, int, int], None]:
    return lambda stage, done, total: None
