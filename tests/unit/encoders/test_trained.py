"""Encoders that were trained here: as they were saved, by scheme or folder, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.store import Blueprint
from dncbm.encoders.clip import Encoder, load_encoder
from dncbm.encoders.trained import (
    TextTower,
    build_tower,
    load_tower,
    save_encoder,
    trained_folder,
)
from dncbm.errors import ArtifactError, ArtifactMismatch, InvalidInput
from dncbm.naming.vocabulary import build_vocabulary
from pipelines.recipes import located_network

SMALL = Blueprint(
    family="scratch", name="standard_resnet18",
    arguments={"num_classes": 256, "small_inputs": True, "width": 8},
)  # fmt: skip
BCOS = Blueprint(
    family="scratch", name="resnet18",
    arguments={"num_classes": 256, "small_inputs": True, "width": 8},
)  # fmt: skip


@pytest.fixture(scope="module")
def mini() -> Encoder:
    return load_encoder("mini", device="cpu")


def _saved(path: Path, mini: Encoder, blueprint: Blueprint = SMALL, **changes: Any) -> Any:
    torch.manual_seed(0)
    tower = build_tower(blueprint, 256).eval()
    values: dict[str, Any] = {
        "embed_dim": 256, "preprocess": {**mini.preprocess_config, "size": [32, 32]},
        "text": TextTower(encoder="mini", fingerprint=mini.fingerprint),
    }  # fmt: skip
    save_encoder(path / "encoder", tower, blueprint, **values | changes)
    return tower


@pytest.mark.parametrize("blueprint", [SMALL, BCOS])
def test_a_tower_comes_back_with_its_pixels_and_the_texts(
    tmp_path: Path, mini: Encoder, blueprint: Blueprint
) -> None:
    """By scheme and by folder alone, inside or above the artifact."""
    tower = _saved(tmp_path, mini, blueprint)
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        wanted = tower(pixels)
    marks = set()
    for spec in (f"trained:{tmp_path}", str(tmp_path), str(tmp_path / "encoder")):
        found = load_encoder(spec, device="cpu")
        torch.testing.assert_close(found.encode_images(pixels), wanted)
        assert found.image_size == (32, 32)
        assert found.embed_dim == 256
        assert torch.equal(found.encode_texts(["a dog"]), mini.encode_texts(["a dog"]))
        marks.add(found.fingerprint)
    assert len(marks) == 1
    assert marks != {mini.fingerprint}
    assert isinstance(found.image_tower(), ImageModel) == (blueprint is BCOS)


def test_a_b_cos_tower_begins_without_the_bias_of_classes(mini: Encoder) -> None:
    tower = build_tower(BCOS, 256)
    assert isinstance(tower, ImageModel)
    assert tower.network.logit_layer.bias is None


def test_images_alone_have_embeddings_and_no_texts(tmp_path: Path, mini: Encoder) -> None:
    tower = _saved(tmp_path, mini, text=None)
    found = load_encoder(str(tmp_path), device="cpu")
    assert not found.has_texts
    assert found.embed_dim == 256
    assert found.image_tower() is not tower
    assert found.encode_images(torch.rand(1, 3, 32, 32)).shape == (1, 256)
    with pytest.raises(InvalidInput, match=r"no text tower.*dncbm distill --teacher"):
        found.encode_texts(["dog"])


def _texts(mini: Encoder) -> dict[str, Tensor]:
    state = mini._model.state_dict()
    return {name: value for name, value in state.items() if not name.startswith("visual.")}


def test_text_weights_of_its_own(tmp_path: Path, mini: Encoder) -> None:
    """The encoder that they come from keeps its own."""
    before = mini.encode_texts(["a dog"])
    texts = {name: value * 1.5 for name, value in _texts(mini).items()}
    _saved(tmp_path, mini, text_weights=texts)
    found = load_encoder(str(tmp_path), device="cpu")
    assert not torch.allclose(found.encode_texts(["a dog"]), before, atol=1e-3)
    assert torch.equal(mini.encode_texts(["a dog"]), before)
    _saved(tmp_path, mini, text_weights={"other": torch.ones(1)})
    with pytest.raises(ArtifactMismatch, match="text weights"):
        load_encoder(str(tmp_path), device="cpu")


def test_an_image_tower_of_open_clip(tmp_path: Path, mini: Encoder) -> None:
    """By encoder: mini's own weights, saved and read again."""
    blueprint = Blueprint(family="encoder", name="mini")
    tower = build_tower(blueprint, 256)
    tower.load_state_dict(mini.image_tower().state_dict())
    save_encoder(
        tmp_path, tower, blueprint, embed_dim=256, preprocess=mini.preprocess_config
    )  # fmt: skip
    pixels = torch.rand(2, 3, 96, 96)
    found = load_encoder(str(tmp_path), device="cpu")
    assert torch.equal(found.encode_images(pixels), mini.encode_images(pixels))


def test_by_architecture_with_the_wanted_width() -> None:
    tower = build_tower(Blueprint(family="encoder", name="ViT-S-32-alt"), 48).eval()
    assert tower(torch.zeros(1, 3, 224, 224)).shape == (1, 48)


def test_refused(tmp_path: Path, mini: Encoder) -> None:
    _saved(tmp_path / "a", mini, text=TextTower(encoder="mini", fingerprint="other"))
    with pytest.raises(ArtifactMismatch, match="texts from mini"):
        load_encoder(str(tmp_path / "a"), device="cpu")
    with pytest.raises(ArtifactError, match="not a dncbm artifact"):
        load_encoder(f"trained:{tmp_path / 'none'}", device="cpu")
    weights = tmp_path / "a" / "encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="changed"):
        load_tower(tmp_path / "a" / "encoder")
    tower = build_tower(SMALL, 256)
    with torch.no_grad():
        next(tower.parameters()).fill_(float("nan"))
    with pytest.raises(InvalidInput, match="not finite"):
        save_encoder(tmp_path / "b", tower, SMALL, embed_dim=256, preprocess={})


def test_specs(tmp_path: Path, mini: Encoder) -> None:
    """A folder by itself is remembered with its absolute path; `mini` is never one."""
    _saved(tmp_path / "student", mini)
    (tmp_path / "mini").mkdir()
    assert located_network("student", tmp_path) == f"trained:{tmp_path / 'student'}"
    assert located_network("trained:student", tmp_path) == f"trained:{tmp_path / 'student'}"
    assert located_network("mini", tmp_path) == "mini"
    assert trained_folder("mini") is None
    assert trained_folder("ViT-B-32:openai") is None
    assert trained_folder(str(tmp_path / "student")) == tmp_path / "student" / "encoder"


def test_naming_refuses_images_alone_and_says_what_to_do(tmp_path: Path, mini: Encoder) -> None:
    _saved(tmp_path, mini, text=None)
    found = load_encoder(str(tmp_path), device="cpu")
    with pytest.raises(InvalidInput, match=r"no text tower.*--teacher mini"):
        build_vocabulary(["dog", "cat"], found.encode_texts, encoder_fingerprint="f")
