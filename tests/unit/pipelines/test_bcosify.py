"""The command behind `dncbm bcosify`: it trains, resumes, ends in an encoder, and refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.originals import build_classifier
from dncbm.bcos.recipe import BcosRecipe
from dncbm.bcos.store import load_bcos
from dncbm.encoders.clip import load_encoder
from dncbm.errors import ArtifactError, InvalidInput, UnknownName
from pipelines import bcosify as module
from pipelines.bcosify import bcosify_stage
from pipelines.recipes import located_network
from pipelines.workspace import Workspace
from tests.unit.bcos.standin import standin


@pytest.fixture(autouse=True)
def _conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    standin(monkeypatch)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of six photos each."""
    rng = np.random.default_rng(0)
    for i in range(12):
        folder = tmp_path / "photos" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        levels = rng.integers(0, 128, (40, 40, 3), dtype=np.uint8)
        levels[..., i % 2] += 120
        Image.fromarray(levels).save(folder / f"{i}.png")
    return tmp_path / "photos"


def _recipe(photos: Path, **changes: Any) -> BcosRecipe:
    training = {"steps": 3, "batch_size": 4, "evaluate_every": 2} | changes.pop("training", {})
    values: dict[str, Any] = {"model": "mini", "data": str(photos), "device": "cpu"}
    return BcosRecipe(**values | changes, training=training)


def test_an_encoder_becomes_one_that_embed_takes(photos: Path, tmp_path: Path) -> None:
    """Without labels; an ImageModel within, the texts of its origin, and figures of both."""
    work = Workspace(tmp_path / "out")
    told: list[str] = []
    result = bcosify_stage(_recipe(photos), work, lambda stage, *_: told.append(stage))
    assert set(told) == {"decode", "train"}
    assert result["held_out_cosine"] > 0.9  # a stand-in that begins as its teacher
    assert {"held_out_zero_shot", "held_out_teacher_zero_shot"} <= result.keys()
    assert not work.work.exists()
    found, origin = (
        load_encoder(result["encoder"], device="cpu"),
        load_encoder("mini", device="cpu"),
    )
    assert isinstance(found.image_tower(), ImageModel)
    assert found.preprocess_config == origin.preprocess_config
    assert found.fingerprint != origin.fingerprint
    assert torch.equal(found.encode_texts(["a cat"]), origin.encode_texts(["a cat"]))
    image = Image.new("RGB", (50, 40), (200, 30, 90))
    ours, theirs = found.embed_pil([image]), origin.embed_pil([image])
    assert torch.cosine_similarity(ours, theirs).item() > 0.6
    assert not torch.equal(ours, theirs)


def test_the_same_choices_are_not_trained_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is current is read; other choices train anew and replace it."""
    work = Workspace(tmp_path / "out")
    first = bcosify_stage(_recipe(photos), work)
    with monkeypatch.context() as patch:
        patch.setattr(module, "train_student", None)
        assert bcosify_stage(_recipe(photos), work) == first
    bcosify_stage(_recipe(photos, training={"loss": "cosine"}), work)
    manifest = load_bcos(work.root / "bcos", original=load_encoder("mini").image_tower()).manifest
    assert manifest.config["training"]["loss"] == "cosine"


def test_a_killed_run_resumes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The artifact of a run that was killed in the middle is that of one that was not."""
    fingerprints = []
    for name, killed in (("whole", False), ("killed", True)):
        work = Workspace(tmp_path / name)
        if killed:
            with monkeypatch.context() as patch:
                patch.setattr(module, "_on_step", lambda *_: _kill_at_2)
                with pytest.raises(KeyboardInterrupt):
                    bcosify_stage(_recipe(photos), work)
            assert len(list(work.work.glob("bcos-*.safetensors"))) == 1
        bcosify_stage(_recipe(photos), work)
        tower = load_encoder("mini", device="cpu").image_tower()
        fingerprints.append(load_bcos(work.root / "bcos", original=tower).manifest.fingerprint)
    assert fingerprints[0] == fingerprints[1]


def _kill_at_2(step: int, steps: int) -> None:
    if step == 2:
        raise KeyboardInterrupt


def test_a_classifier_learns_the_photos_classes(photos: Path, tmp_path: Path) -> None:
    """Its weights from a file, a head of two classes, its own names; no encoder."""
    own, _ = build_classifier("torchvision", "squeezenet1_1", 5)
    torch.save(own.state_dict(), tmp_path / "w.pth")
    model = f"torchvision:squeezenet1_1@{tmp_path / 'w.pth'}"
    recipe = _recipe(photos, model=model, size=32, convert={"b_mode": "annealed"})
    result = bcosify_stage(recipe, Workspace(tmp_path / "out"))
    assert 0 <= result["held_out_accuracy"] <= 1
    loaded = load_bcos(tmp_path / "out" / "bcos")
    assert loaded.classes == ("cat", "dog")
    assert (loaded.views.size, loaded.network(torch.rand(1, 3, 32, 32)).shape) == (32, (1, 2))
    with pytest.raises(InvalidInput, match="a classifier of photos, not an image-text encoder"):
        load_encoder(f"bcos:{tmp_path / 'out'}")


def test_an_encoder_of_changed_weights_is_refused(photos: Path, tmp_path: Path) -> None:
    """A tower belongs to the texts that it was made with."""
    bcosify_stage(_recipe(photos), Workspace(tmp_path / "out"))
    manifest = tmp_path / "out" / "bcos" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"model": "', '"model": "f00'))
    with pytest.raises(ArtifactError, match=r"changed after it was written"):
        load_encoder(f"bcos:{tmp_path / 'out'}")


def test_annealed_b_rises_from_1_and_stays() -> None:
    """Half of the updates to get there."""
    from tests.unit.bcos.standin import Options, convert

    network = convert(torch.nn.Identity(), Options(b_mode="annealed"))
    blueprint = module.Blueprint(
        family="encoder", name="mini", conversion={"b": 2.0, "b_mode": "annealed"}
    )
    on_step = module._on_step(network, blueprint)
    assert on_step is not None
    seen = []
    for step in range(5):
        on_step(step, 5)
        seen.append(network.network.b)
    assert seen == [1.0, 1.5, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"training": {"loss": "bce"}}, UnknownName, "loss of encoder training 'bce'"),
        ({"training": {"rate": 1}}, UnknownName, "training setting 'rate'"),
        ({"training": {"batch_size": 0}}, InvalidInput, "batch_size is 0"),
        ({"convert": {"bee": 1}}, UnknownName, "conversion option 'bee'"),
        ({"convert": {"bias": "decay"}}, InvalidInput, r"training\.bias_decay must be above 0"),
        ({"model": "torchvision:resnet81"}, UnknownName, "Nearest known names"),
        ({"model": "torchvision:resnet18", "teacher": "mini"}, InvalidInput, "Leave --teacher out"),
        ({"data": "/no/photos"}, InvalidInput, "does not exist"),
        ({"data": None}, InvalidInput, "No photos given"),
        ({"size": 32}, InvalidInput, "takes pixels of"),
    ],
)
def test_what_cannot_work_is_refused_before_it_begins(
    photos: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The message names the value and the rule, and no artifact appears."""
    with pytest.raises(error, match=message):
        bcosify_stage(_recipe(photos, **changes), Workspace(tmp_path / "out"))
    assert not (tmp_path / "out" / "bcos").exists()


def test_one_class_teaches_no_classifier(photos: Path, tmp_path: Path) -> None:
    """But an encoder needs none."""
    one = photos / "cat"
    recipe = _recipe(one, model="torchvision:squeezenet1_1")
    with pytest.raises(InvalidInput, match="needs at least two classes"):
        bcosify_stage(recipe, Workspace(tmp_path / "out"))
    result = bcosify_stage(_recipe(one), Workspace(tmp_path / "encoder"))
    assert "held_out_zero_shot" not in result


def test_places_are_remembered_from_where_the_command_ran(tmp_path: Path) -> None:
    """A later stage finds them from anywhere."""
    (tmp_path / "w.pth").write_bytes(b"")
    assert located_network("bcos:out", tmp_path) == f"bcos:{tmp_path / 'out'}"
    wanted = f"torchvision:resnet18@{tmp_path / 'w.pth'}"
    assert located_network("torchvision:resnet18@w.pth", tmp_path) == wanted
    assert located_network("torchvision:resnet18", tmp_path) == "torchvision:resnet18"
