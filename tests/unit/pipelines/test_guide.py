"""The command behind `dncbm guide`: it trains, resumes, chooses, is read again, and refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dncbm.encoders.clip import load_encoder
from dncbm.errors import InvalidInput, UnknownName
from dncbm.guidance.recipe import GuideRecipe
from dncbm.predictor import Predictor
from dncbm.training.progress import no_progress
from pipelines import guide as module
from pipelines.cli import app
from pipelines.guide import guide_stage
from pipelines.guided_data import How, Prepared, prepare, read_material
from pipelines.guided_models import load_guided
from pipelines.workspace import Workspace
from tests.unit.curation.conftest import write_model

CLASSES = ("ant", "bee", "cat")
SQUEEZED = "torchvision:squeezenet1_1"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of eight photos each: a bright square, and its box in YOLO's words."""
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    (root / "labels").mkdir(parents=True)
    for i in range(24):
        folder = root / "images" / CLASSES[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        levels = rng.integers(0, 100, (40, 48, 3), dtype=np.uint8)
        y, x = rng.integers(2, 20, 2)
        levels[y : y + 16, x : x + 16, i % 3] += 150
        Image.fromarray(levels).save(folder / f"{i}.png")
        box = [(x + 8) / 48, (y + 8) / 40, 16 / 48, 16 / 40]
        (root / "labels" / f"{i}.txt").write_text(f"{i % 3} " + " ".join(map(str, box)))
    names = "\n".join(f"  {place}: {name}" for place, name in enumerate(CLASSES))
    (root / "data.yaml").write_text(f"names:\n{names}\n")
    return root


def _recipe(photos: Path, **changes: Any) -> GuideRecipe:
    training = {"steps": 4, "batch_size": 6, "evaluate_every": 2} | changes.pop("training", {})
    values: dict[str, Any] = {
        "model": "scratch:resnet18", "data": str(photos / "images"), "annotations": str(photos),
        "size": 32, "device": "cpu", "training": training,
    }  # fmt: skip
    return GuideRecipe.of(values | changes)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow B-cos network in place of a ResNet-18."""
    from dncbm.bcos import store

    create = store.create_model

    def narrow(name: str, **arguments: Any) -> torch.nn.Module:
        return create(name, width=8, **arguments)

    monkeypatch.setattr(store, "create_model", narrow)


@pytest.mark.usefixtures("small")
def test_without_guidance_the_best_classification_is_chosen(photos: Path, tmp_path: Path) -> None:
    found = guide_stage(_recipe(photos, weights=[0.0]), Workspace(tmp_path / "out"))
    chosen = next(row for row in found["candidates"] if row["chosen"])
    assert found["tolerance"] == 0.0
    assert chosen["accuracy"] == max(row["accuracy"] for row in found["candidates"])


def test_boxes_grow_for_training_alone(photos: Path, tmp_path: Path) -> None:
    """What is measured is measured by the boxes that were given."""

    def prepared(dilation: float) -> Prepared:
        recipe = _recipe(photos, dilation=dilation)
        work = tmp_path / f"{dilation}"
        return prepare(read_material(recipe), recipe, How(32), work, no_progress)

    plain, grown = prepared(0.0), prepared(0.5)
    trained = np.isin(plain.data.masks.rows, plain.data.photos.train)
    assert 0 < trained.sum() < len(trained)
    areas = [part.data.masks.pixels.sum(axis=(1, 2)) for part in (plain, grown)]
    assert (areas[1][trained] > areas[0][trained]).all()
    assert (areas[1][~trained] == areas[0][~trained]).all()


@pytest.mark.usefixtures("small")
def test_a_guided_network_is_written_and_read_again(photos: Path, tmp_path: Path) -> None:
    """Figures before and after on the test, a row per kept state, and the chosen weights."""
    told: list[str] = []
    recipe = _recipe(photos, weights=[0.5, 2.0], fraction=0.5, dilation=0.1)
    found = guide_stage(recipe, Workspace(tmp_path / "out"), lambda stage, *_: told.append(stage))
    assert set(told) == {"decode", "train"}
    assert {"accuracy", "epg", "epg_chance", "iou"} <= found["after"].keys() & found["before"]
    assert {row["weight"] for row in found["candidates"]} == {0.5, 2.0}
    assert sum(row["chosen"] for row in found["candidates"]) == 1
    assert found["annotated_photos"] == round(0.5 * found["train_photos"])
    assert found["tolerance"] == 0.05  # of hardly any photos
    loaded = load_guided(tmp_path / "out")
    assert (loaded.classes, loaded.views.size) == (CLASSES, 32)
    assert loaded.network(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    assert loaded.manifest.kind == "guided"
    assert not (tmp_path / "out" / ".work").exists()
    again = _recipe(
        photos, model=f"guided:{tmp_path / 'out'}", training={"steps": 2}, tolerance=1.0
    )
    further = guide_stage(again, Workspace(tmp_path / "further"))
    best = max(further["candidates"], key=lambda row: row["epg"])
    assert (further["tolerance"], best["chosen"]) == (1.0, True)
    assert further["before"]["accuracy"] == found["after"]["accuracy"]


@pytest.mark.usefixtures("small")
def test_a_killed_run_resumes_and_a_finished_one_is_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The artifact of a run that was killed is that of one that was not."""
    recipe = _recipe(photos, weights=[1.0, 2.0], training={"steps": 4})
    guide_stage(recipe, Workspace(tmp_path / "whole"))
    count = [0]

    def stopping(*values: Any, **named: Any) -> Any:
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return train(*values, **named)

    train = module.train_guided
    with monkeypatch.context() as patch:
        patch.setattr(module, "train_guided", stopping)
        with pytest.raises(KeyboardInterrupt):
            guide_stage(recipe, Workspace(tmp_path / "killed"))
    guide_stage(recipe, Workspace(tmp_path / "killed"))
    whole, killed = load_guided(tmp_path / "whole"), load_guided(tmp_path / "killed")
    assert whole.manifest.fingerprint == killed.manifest.fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(module, "train_guided", None)
        guide_stage(recipe, Workspace(tmp_path / "killed"))


@pytest.mark.usefixtures("small")
def test_several_classes_per_photo_come_from_the_annotations(photos: Path, tmp_path: Path) -> None:
    """F1 and mAP instead of accuracy."""
    found = guide_stage(
        _recipe(photos, task="multi", crops=False, training={"loss": "l1", "layer": "final"}),
        Workspace(tmp_path / "out"),
    )
    assert {"f1", "map"} <= found["after"].keys()
    assert load_guided(tmp_path / "out").manifest.config["views"]["smallest"] == 1.0


def test_a_guided_bottleneck_is_a_model_directory(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label's boxes for a concept; the forbidden one has no weight; photos are decided."""
    monkeypatch.setattr(
        module, "choice", lambda figures, tolerance: len(figures) - 1
    )  # the last state
    origin = write_model(tmp_path / "model", encoder=load_encoder("mini", device="cpu"))
    recipe = _recipe(
        photos, model=str(origin), size=None, concepts={"leg": "ant"}, forbid=["fur"],
        training={"steps": 2, "layer": "final", "attribution": "grad_cam", "batch_size": 4},
    )  # fmt: skip
    found = guide_stage(recipe, Workspace(tmp_path / "out"))
    assert {"cosine", "active", "forbidden", "accuracy"} <= found["after"].keys()
    assert found["before"]["cosine"] == pytest.approx(1, abs=1e-4)
    assert found["after"]["cosine"] < 1
    assert "test" in found["accuracy_refitted"]
    model = Predictor.load(tmp_path / "out", device="cpu")
    assert not model.cbm.probe.weights[:, 2].any()
    assert model.cbm.probe.weights.any()
    image = Image.open(next((photos / "images" / "ant").iterdir())).convert("RGB")
    assert model.predict([image])[0][0].class_name in CLASSES
    before = Predictor.load(origin, device="cpu").embed([image])
    assert not torch.equal(before, model.embed([image]))


@pytest.mark.usefixtures("small")
def test_the_command_prints_one_line_last(photos: Path, tmp_path: Path) -> None:
    """JSON for machines, tables for people."""
    arguments = [
        "guide", "--model", "scratch:resnet18", "--data", str(photos / "images"), "--annotations",
        str(photos), "--out", str(tmp_path / "out"), "--size", "32", "--steps", "2", "--batch-size",
        "6", "--weight", "1", "--weight", "3", "--every", "2", "--set", "training.evaluate_every=2",
        "--device", "cpu",
    ]  # fmt: skip
    found = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    line = json.loads(found.stdout.splitlines()[-1])
    assert line["guided"] == str(tmp_path / "out" / "guided")
    assert len(line["candidates"]) >= 2
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "epg_gain" in shown.stdout


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"training": {"layer": "layr2"}}, UnknownName, "Nearest known names.*layer2"),
        ({"training": {"attribution": "rise"}}, InvalidInput, "rise cannot be guided.*grad_cam"),
        ({"training": {"rate": 1}}, UnknownName, "training setting 'rate'"),
        ({"training": {"weight": 1}}, UnknownName, "training setting 'weight'"),
        ({"guided": ["cow"]}, UnknownName, "class 'cow'"),
        ({"model": "torchvison:resnet18"}, UnknownName, "model to guide"),
        ({"model": "nowhere"}, Exception, "does not exist"),
        ({"fraction": 0.0}, InvalidInput, r"fraction is 0\.0"),
        ({"weights": []}, InvalidInput, "No weight is given"),
        ({"dilation": -0.1}, InvalidInput, "dilation"),
        ({"tolerance": 1.5}, InvalidInput, r"tolerance is 1\.5; the rule is a share in"),
        ({"task": "both"}, UnknownName, "task 'both'"),
        ({"annotations": "/no/boxes"}, InvalidInput, "There are no annotations at /no/boxes"),
        ({"kind": "segments"}, InvalidInput, "no segments"),
        ({"kind": "segments", "dilation": 0.1}, InvalidInput, "Segments cannot be dilated"),
    ],
)
def test_what_cannot_work_is_refused(
    photos: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Before anything is trained; the message names the value and the next step."""
    with pytest.raises(error, match=f"(?s){message}"):
        guide_stage(_recipe(photos, **changes), Workspace(tmp_path / "out"))
    assert not (tmp_path / "out" / "guided").exists()


@pytest.mark.usefixtures("small")
def test_a_class_without_annotation_is_told_and_may_be_left_out(
    photos: Path, tmp_path: Path
) -> None:
    """Guiding the others is fine; their photos are all told apart."""
    for i in range(2, 24, 3):
        (photos / "labels" / f"{i}.txt").unlink()
    with pytest.raises(InvalidInput, match=r"1 classes have no box or mask, such as 'cat'"):
        guide_stage(_recipe(photos), Workspace(tmp_path / "out"))
    found = guide_stage(_recipe(photos, guided=["ant", "bee"]), Workspace(tmp_path / "out"))
    assert load_guided(tmp_path / "out").classes == CLASSES
    assert found["annotated_photos"] < found["train_photos"]


def test_concepts_that_there_are_not_are_refused(photos: Path, tmp_path: Path) -> None:
    origin = write_model(tmp_path / "model", encoder=load_encoder("mini", device="cpu"))
    for changes, error, message in (
        ({}, InvalidInput, "guided by its concepts"),
        ({"forbid": ["fur"]}, InvalidInput, "Training needs a concept that is guided"),
        ({"concepts": {"legg": "ant"}}, UnknownName, "concept 'legg'"),
        ({"concepts": {"leg": "cow"}}, InvalidInput, "No annotation has the class 'cow'"),
    ):
        recipe = _recipe(photos, model=str(origin), size=None, **changes)
        with pytest.raises(error, match=message):
            guide_stage(recipe, Workspace(tmp_path / "out"))
