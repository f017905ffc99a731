"""The command behind `dncbm distill`: every kind of teacher, the chain behind it, and refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.originals import build_classifier
from dncbm.bcos.store import Blueprint, load_bcos, save_bcos
from dncbm.data.views import Views
from dncbm.distillation.recipe import DistillRecipe
from dncbm.encoders.clip import load_encoder
from dncbm.errors import InvalidInput, UnknownName
from dncbm.predictor import Predictor
from pipelines import distill as module
from pipelines.cli import app
from pipelines.distill import distill_stage
from pipelines.distilled_networks import open_teacher
from pipelines.workspace import Workspace

SMALL = {"small_inputs": True, "width": 4}
TINY = {"steps": 2, "batch_size": 4, "evaluate_every": 2, "precision": "float32"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of twelve photos each."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(24):
        folder = root / ("cat", "dog")[i % 2]
        folder.mkdir(exist_ok=True)
        levels = rng.integers(0, 128, (40, 40, 3), dtype=np.uint8)
        levels[..., i % 2] += 120
        Image.fromarray(levels).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A B-cos classifier in a directory, its classes the other way round and one more."""
    out = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    blueprint = Blueprint(
        family="scratch", name="resnet18", arguments={"num_classes": 3, **SMALL}
    )  # fmt: skip
    save_bcos(out / "bcos", blueprint.build(), blueprint, Views(size=16),
              classes=("dog", "cat", "hen"))  # fmt: skip
    return out


def _recipe(photos: Path, **changes: Any) -> DistillRecipe:
    values: dict[str, Any] = {
        "student": "scratch:standard_resnet18", "data": str(photos), "device": "cpu",
        "network": SMALL, "training": TINY | changes.pop("training", {}),
    }  # fmt: skip
    return DistillRecipe.of(values | changes)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_classifier_and_its_student_that_is_a_teacher_again(
    photos: Path, classifier: Path, tmp_path: Path, frozen: bool
) -> None:
    work = Workspace(tmp_path / "out")
    told: list[str] = []
    recipe = _recipe(
        photos, teacher=str(classifier), student="scratch:resnet18", shots=6,
        training={"explanation": "bcos", "frozen": frozen},
    )  # fmt: skip
    result = distill_stage(recipe, work, lambda stage, *_: told.append(stage))
    assert set(told) == {"decode", "train"} | ({"freeze"} if frozen else set())
    assert {"held_out_accuracy", "held_out_explanation_similarity"} <= result.keys()
    assert result["train_photos"] == 12
    assert not work.work.exists()
    found = load_bcos(work.root / "bcos")
    assert isinstance(found.network, ImageModel)
    assert found.classes == ("dog", "cat", "hen")
    again = open_teacher(f"bcos:{work.root}", "cpu")
    assert (again.kind, again.width) == ("classifier", 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "distil_classifier", None)
        assert distill_stage(recipe, work) == result  # what is current is read


def test_labels_are_counted_as_the_teacher_counts_them(
    photos: Path, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def noting(*arguments: Any, **_more: Any) -> list[Any]:
        seen.append(arguments[2])
        return []

    monkeypatch.setattr(module, "distil_classifier", noting)
    distill_stage(_recipe(photos, teacher=str(classifier)), Workspace(tmp_path))
    names = np.array(["dog", "cat", "hen"])[seen[0].labels]
    assert names.tolist() == ["cat"] * 12 + ["dog"] * 12


def test_networks_of_libraries(photos: Path, tmp_path: Path) -> None:
    """A teacher's own number of classes; a student of another family, without its weights."""
    torch.manual_seed(0)
    network, _ = build_classifier("timm", "test_resnet", 5)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    recipe = _recipe(
        photos, teacher=f"timm:test_resnet@{tmp_path / 'weights.safetensors'}", network={},
        student="scratch:timm:test_resnet", size=32,
    )  # fmt: skip
    result = distill_stage(recipe, Workspace(tmp_path / "out"))
    assert "held_out_agreement" in result
    assert "held_out_accuracy" not in result  # five classes whose names nobody knows
    found = load_bcos(tmp_path / "out" / "bcos")
    assert found.views.size == 32
    assert found.network(torch.rand(1, 3, 32, 32)).shape == (1, 5)


def test_an_encoder_and_the_whole_chain_behind_its_student(photos: Path, tmp_path: Path) -> None:
    """embed, discover, name, bottleneck, predict; and a student of that bottleneck."""
    out, model, runner = tmp_path / "student", tmp_path / "model", CliRunner()

    def called(*arguments: str) -> Any:
        found = runner.invoke(app, [*arguments, "--json"])
        assert found.exit_code == 0, (found.output, found.exception)
        return json.loads(found.stdout.strip().splitlines()[-1])

    tiny = ["--steps", "2", "--batch-size", "4", "--device", "cpu"]
    net = ["--set", "network.small_inputs=true", "--set", "network.width=4", "--size", "32"]
    result = called(
        "distill", "--teacher", "mini", "--student", "scratch:standard_resnet18",
        "--data", str(photos), "--out", str(out), "--set", "training.relational_weight=1.0",
        *tiny, *net,
    )  # fmt: skip
    assert result["parameters"] * 4 <= result["teacher_parameters"]
    assert {"held_out_cosine", "held_out_zero_shot"} <= result.keys()
    encoder = load_encoder(str(out), device="cpu")
    assert encoder.image_size == (32, 32)
    assert torch.equal(encoder.encode_texts(["dog"]), load_encoder("mini").encode_texts(["dog"]))
    embedded = called("embed", "--encoder", str(out), "--data", str(photos), "--out", str(model),
                      "--device", "cpu", "--workers", "0")  # fmt: skip
    assert embedded["encoder"] == f"trained:{out}"
    called("discover", str(model), "--set", "sae.num_concepts=16", "--set", "sae.max_steps=20")
    words = tmp_path / "words.txt"
    words.write_text("\n".join(["cat", "dog", "red", "green", "noise", "grey", "stone", "grass"]))
    called("name", str(model), "--vocabulary", str(words))
    called("bottleneck", str(model))
    called("predict", str(model), str(photos / "cat" / "0.png"), "--device", "cpu")
    small = tmp_path / "small"
    result = called(
        "distill", "--teacher", str(model), "--student", str(out),
        "--data", str(photos), "--out", str(small), *tiny,
    )  # fmt: skip
    names = ("agreement", "contribution_similarity", "top_concepts", "accuracy")
    assert {f"held_out_{name}" for name in names} <= result.keys()
    teacher, student = (Predictor.load(p, device="cpu") for p in (model, small))
    assert student.classes == teacher.classes
    assert [n.name for n in student.dictionary.names] == [n.name for n in teacher.dictionary.names]
    assert torch.equal(student.cbm.probe.weights, teacher.cbm.probe.weights)
    assert student.cbm.metrics["test_accuracy"].keys() >= {"dncbm"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "distil_encoder", None)
        again = called("distill", "--teacher", str(model), "--student", str(out),
                       "--data", str(photos), "--out", str(small), *tiny)  # fmt: skip
    assert again == result


def test_an_architecture_of_open_clip_as_the_student(photos: Path, tmp_path: Path) -> None:
    recipe = _recipe(photos, teacher="mini", student="mini", network={}, size=48)
    result = distill_stage(recipe, Workspace(tmp_path))
    assert result["parameters"] == result["teacher_parameters"]
    assert load_encoder(str(tmp_path), device="cpu").image_size == (48, 48)


def test_refused(photos: Path, classifier: Path, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    with pytest.raises(InvalidInput, match="No teacher"):
        DistillRecipe.of({"student": "mini"})
    for changes, kind, words in (
        ({"teacher": "mini", "training": {"explanation": "gradcam"}}, InvalidInput, "an encoder"),
        ({"teacher": str(classifier), "student": "ViT-B-32"}, UnknownName, "A student is"),
        ({"teacher": "nothing"}, UnknownName, "nothing"),
        ({"teacher": str(classifier), "shots": 99}, InvalidInput, "--shots"),
        ({"teacher": "mini", "training": {"lambda": 1}}, UnknownName, "lambda"),
        ({"teacher": "mini", "student": "timm:resnet10t", "size": 0}, InvalidInput, "size is 0"),
        ({"teacher": "mini", "student": "scratch:timm:test_resnet"}, InvalidInput, "no network"),
    ):
        with pytest.raises(kind, match=words):
            distill_stage(_recipe(photos, **changes), work)
