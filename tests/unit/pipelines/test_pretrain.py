"""The command behind `dncbm pretrain`: it trains, resumes, ends in an encoder, and refuses."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dncbm.contrastive.recipe import PretrainRecipe
from dncbm.encoders.clip import load_encoder
from dncbm.encoders.trained import load_tower
from dncbm.errors import InvalidInput, UnknownName
from dncbm.training.photos import Run
from pipelines import pretrain as module
from pipelines.cli import app
from pipelines.pretrain import pretrain_stage
from pipelines.workspace import Workspace

SMALL: dict[str, Any] = {"width": 8, "small_inputs": True}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of eight photos each, and a caption for each but one."""
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    for i in range(16):
        name = ("cat", "dog")[i % 2]
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True, exist_ok=True)
        levels = rng.integers(0, 128, (24, 28, 3), dtype=np.uint8)
        levels[..., i % 2] += 120
        Image.fromarray(levels).save(folder / f"{i}.png")
        if i:
            lines.append(f"{i}.png,a photo of a {name} number {i}")
    (tmp_path / "photos" / "captions.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "photos"


def _recipe(photos: Path, **changes: Any) -> PretrainRecipe:
    training = {"steps": 3, "batch_size": 6, "evaluate_every": 2} | changes.pop("training", {})
    values: dict[str, Any] = {"data": str(photos), "device": "cpu"}
    if not training.get("loss") and "model" not in changes:
        values |= {"network": SMALL, "size": 16}
    return PretrainRecipe(**values | changes, training=training)


def _pictures(count: int = 3) -> list[Image.Image]:
    draw = np.random.default_rng(1)
    return [
        Image.fromarray(draw.integers(0, 256, (30, 40, 3), dtype=np.uint8)) for _ in range(count)
    ]


def test_images_alone_become_an_encoder_without_texts(photos: Path, tmp_path: Path) -> None:
    work, told = Workspace(tmp_path / "out"), []
    result = pretrain_stage(_recipe(photos), work, lambda stage, *_: told.append(stage))
    assert set(told) == {"decode", "train"}
    assert {"held_out_knn_1", "knn_10", "few_shot", "class_separation"} <= result.keys()
    assert result["encoder"] == f"trained:{work.root}"
    assert not work.work.exists()
    for spec in (result["encoder"], str(work.root)):
        encoder = load_encoder(spec, device="cpu")
        assert encoder.embed_pil(_pictures()).shape == (3, 64)
    with pytest.raises(InvalidInput, match="no text tower"):
        encoder.encode_texts(["a cat"])
    tower: Any = load_tower(work.root / "encoder").tower
    assert torch.equal(tower.fc.weight, torch.eye(64))  # its own features
    stamp = (work.root / "encoder" / "manifest.json").stat().st_mtime_ns
    assert pretrain_stage(_recipe(photos), work) == result
    assert (work.root / "encoder" / "manifest.json").stat().st_mtime_ns == stamp


def test_a_killed_command_ends_in_the_same_encoder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = _recipe(photos, training={"steps": 5})
    pretrain_stage(recipe, Workspace(tmp_path / "whole"))
    train = module.train_views

    def killed(*given: Any, **named: Any) -> Any:
        def stop(step: int, _: int) -> None:
            if step == 3:
                raise KeyboardInterrupt

        run = given[4]
        stopping = Run(
            checkpoint=run.checkpoint, purpose=run.purpose, device=run.device, on_step=stop
        )
        return train(*given[:4], stopping, **named)

    monkeypatch.setattr(module, "train_views", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain_stage(recipe, Workspace(tmp_path / "killed"))
    assert list((tmp_path / "killed" / ".work").glob("pretrain-*.safetensors"))
    monkeypatch.setattr(module, "train_views", train)
    pretrain_stage(recipe, Workspace(tmp_path / "killed"))
    first, second = (
        (tmp_path / name / "encoder" / "model.safetensors").read_bytes()
        for name in ("whole", "killed")
    )
    assert first == second


@pytest.mark.parametrize("learns", ["both", "images", "adapters"])
def test_pairs_become_an_image_text_encoder(photos: Path, tmp_path: Path, learns: str) -> None:
    work = Workspace(tmp_path / "out")
    training = {"loss": "clip", "learns": learns, "chunk_size": 3, "learning_rate": 0.01}
    result = pretrain_stage(_recipe(photos, training=training), work)
    assert {"held_out_recall_1", "held_out_recall_5"} <= result.keys()
    assert result["train_photos"] + result["held_out_photos"] < 16  # one has no caption
    encoder, origin = load_encoder(str(work.root), device="cpu"), load_encoder("mini", device="cpu")
    words = ["a cat", "a dog"]
    same = torch.equal(encoder.encode_texts(words), origin.encode_texts(words))
    assert same == (learns == "images")
    pictures = _pictures()
    found, before = encoder.embed_pil(pictures), origin.embed_pil(pictures)
    assert found.shape == before.shape
    assert not torch.allclose(found, before)


def test_pairs_from_scratch_with_shifts(photos: Path, tmp_path: Path) -> None:
    """Its own text weights come back with it."""
    work = Workspace(tmp_path / "out")
    training = {"loss": "siglip", "clusters": 2, "temperature": "swing:0.08", "steps": 1}
    pretrain_stage(_recipe(photos, model="scratch:mini", training=training), work)
    encoder = load_encoder(str(work.root), device="cpu")
    texts = encoder.encode_texts(["a cat", "a dog"])
    assert torch.equal(texts, load_encoder(str(work.root), device="cpu").encode_texts(
        ["a cat", "a dog"]
    ))  # fmt: skip
    assert not torch.allclose(texts, load_encoder("mini").encode_texts(["a cat", "a dog"]))


def test_an_encoder_goes_on_with_images_alone(photos: Path, tmp_path: Path) -> None:
    work = Workspace(tmp_path / "out")
    pretrain_stage(
        _recipe(photos, model="mini", training={"steps": 1, "clusters": 2, "temperature": "0.1"}),
        work,
    )
    assert load_encoder(str(work.root), device="cpu").embed_pil(_pictures()).shape == (3, 256)


def test_a_long_tail_is_trained_on(photos: Path, tmp_path: Path) -> None:
    work = Workspace(tmp_path / "out")
    result = pretrain_stage(_recipe(photos, long_tail=0.25, training={"batch_size": 4}), work)
    assert result["shots"] == 1
    assert result["train_photos"] == 6


def test_other_towers(tmp_path: Path, photos: Path) -> None:
    pytest.importorskip("timm")
    work = Workspace(tmp_path / "out")
    recipe = _recipe(photos, model="timm:test_resnet", size=32, training={"steps": 1, "blur": 0.5})
    pretrain_stage(recipe, work)
    width = load_tower(work.root / "encoder").embed_dim
    assert load_encoder(str(work.root), device="cpu").embed_pil(_pictures()).shape == (3, width)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"captions": "x.txt", "training": {"loss": "nt-xent"}}, "takes no captions"),
        ({"model": "no-such-net"}, "no-such-net"),
        ({"training": {"speed": 3}}, "speed"),
        ({"training": {"temperature": "cosine:0:1"}}, "above 0"),
        ({"training": {"clusters": 2}}, "a new tower has none"),
        ({"long_tail": 100.0}, "Write 0.01"),
        ({"size": 4}, "at least 8"),
        ({"model": "mini", "size": 64}, "no others"),
        ({"model": "scratch:no-such", "training": {"loss": "clip"}}, "no-such"),
        ({"captions": "none.txt", "training": {"loss": "clip"}}, "do not exist"),
        ({"network": {"depth": 3}}, "depth"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(
    photos: Path, tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(InvalidInput, match=match):
        pretrain_stage(_recipe(photos, **changes), Workspace(tmp_path / "out"))
    assert issubclass(UnknownName, InvalidInput)


def test_an_encoder_without_texts_cannot_learn_from_captions(photos: Path, tmp_path: Path) -> None:
    pretrain_stage(_recipe(photos, training={"steps": 1}), Workspace(tmp_path / "out"))
    recipe = _recipe(photos, model=str(tmp_path / "out"), training={"loss": "clip"})
    with pytest.raises(InvalidInput, match="no text tower"):
        pretrain_stage(recipe, Workspace(tmp_path / "other"))


def test_the_command(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Options reach the recipe, the last line is JSON, and a cut schedule is told."""
    command = [
        "pretrain", "--data", str(photos), "--out", str(tmp_path / "out"), "--size", "16",
        "--steps", "2", "--batch-size", "6", "--chunk-size", "4", "--lr", "0.01", "--json",
        "--temperature", "cosine:0.1:1.0:period=400", "--set", "network.width=8", "--device", "cpu",
    ]  # fmt: skip
    with caplog.at_level(logging.WARNING):
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "it is cut" in caplog.text
    found = json.loads(done.stdout.splitlines()[-1])
    training = load_tower(tmp_path / "out" / "encoder").manifest.config["training"]
    assert found["encoder"] == f"trained:{tmp_path / 'out'}"
    assert training["temperature"] == "cosine:0.1:1.0:period=400"
    assert (training["chunk_size"], training["learning_rate"]) == (4, 0.01)
    assert training["network"] == {"width": 8}
