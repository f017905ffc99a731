"""Names of encoders: what they mean, and what is said when they mean nothing."""

import re
from pathlib import Path

import open_clip
import pytest

from dncbm.encoders import spec as spec_module
from dncbm.encoders.hub_ids import OPEN_CLIP_NAMES
from dncbm.encoders.spec import parse_spec
from dncbm.errors import InvalidInput, Unavailable, UnknownName


@pytest.mark.parametrize(
    ("text", "model_name", "pretrained"),
    [
        ("ViT-B-32:openai", "ViT-B-32", "openai"),
        ("ViT-B/32:openai", "ViT-B-32", "openai"),
        ("ViT-B-32:laion2b-s34b-b79k", "ViT-B-32", "laion2b-s34b-b79k"),
        ("hf-hub:org/name", "hf-hub:org/name", None),
        ("org/name", "hf-hub:org/name", None),
        (
            "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
            "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
            None,
        ),
        ("openai/clip-vit-base-patch32", "ViT-B-32", "openai"),
        ("hf-hub:openai/clip-vit-large-patch14-336", "ViT-L-14-336", "openai"),
        ("google/siglip-base-patch16-224", "ViT-B-16-SigLIP", "webli"),
        ("google/siglip-so400m-patch14-384", "ViT-SO400M-14-SigLIP-384", "webli"),
    ],
)
def test_parsed(text: str, model_name: str, pretrained: str | None) -> None:
    spec = parse_spec(text)
    assert (spec.model_name, spec.pretrained) == (model_name, pretrained)


def test_an_architecture_alone_is_its_only_tag() -> None:
    assert parse_spec("ViT-B-16-SigLIP-256").pretrained == "webli"


def test_an_architecture_with_several_tags_asks_for_one() -> None:
    with pytest.raises(InvalidInput, match=r"has \d+ sets of weights. Choose one: ViT-B-32:openai"):
        parse_spec("ViT-B-32")


def test_an_architecture_without_tags_asks_for_a_file() -> None:
    with pytest.raises(InvalidInput, match="no published weights. Give a file: ViT-H-16:/path"):
        parse_spec("ViT-H-16")


@pytest.mark.parametrize(
    ("text", "near"),
    [("ViT-B-33:openai", "ViT-B-32:openai"), ("vit-b-32", "ViT-B-32"), ("minni", "mini")],
)
def test_a_wrong_architecture_gets_the_nearest(text: str, near: str) -> None:
    with pytest.raises(
        UnknownName, match=f"Unknown encoder '{text}'. Nearest known names: .*{near}"
    ):
        parse_spec(text)


def test_a_wrong_tag_gets_the_nearest_of_its_architecture() -> None:
    with pytest.raises(UnknownName, match="pretrained tag of ViT-B-32 'opnai'.*: openai"):
        parse_spec("ViT-B-32:opnai")


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"checkpoint .*gone\.safetensors of .* does not exist"):
        parse_spec(f"ViT-B-32:{tmp_path}/gone.safetensors")


def test_a_folder_without_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"has no open_clip_config\.json"):
        parse_spec(f"local-dir:{tmp_path}")


def test_an_incomplete_installation_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec_module, "MINI_FOLDER", tmp_path)
    with pytest.raises(Unavailable, match="bundled encoder `mini` is incomplete"):
        parse_spec("mini")


@pytest.mark.parametrize("names", OPEN_CLIP_NAMES.values(), ids=OPEN_CLIP_NAMES)
def test_open_clip_knows_what_the_ids_of_others_are_mapped_to(names: tuple[str, str]) -> None:
    assert names in open_clip.list_pretrained()
    size = open_clip.get_model_config(names[0])["vision_cfg"]["image_size"]
    hub_id = next(key for key, value in OPEN_CLIP_NAMES.items() if value == names)
    pixels = int((re.findall(r"-(\d{3})(?!\d)", hub_id) or ["224"])[-1])
    assert size == pixels or (size, pixels) == (378, 384)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("ViT-B-16-SigLIP", "webli"),
        ("RN50", "openai"),
        ("ViT-B-32", None),
        ("ViT-L-14", None),
        ("ViT-H-16", None),
    ],
)
def test_the_recipe_of_a_file_is_what_all_tags_agree_on(
    tmp_path: Path, name: str, recipe: str | None
) -> None:
    (tmp_path / "w.pt").write_bytes(b"")
    spec = parse_spec(f"{name}:{tmp_path}/w.pt")
    assert (spec.pretrained, spec.recipe, spec.is_tag) == (f"{tmp_path}/w.pt", recipe, False)


def test_a_tag_before_a_file_is_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "w@home.pt").write_bytes(b"")
    spec = parse_spec(f"ViT-B-32:openai@{tmp_path}/w@home.pt")
    assert (spec.pretrained, spec.recipe, spec.is_tag) == (f"{tmp_path}/w@home.pt", "openai", False)
    assert parse_spec(f"ViT-B-32:{tmp_path}/w@home.pt").pretrained == spec.pretrained
    with pytest.raises(UnknownName, match="pretrained tag of ViT-B-32 'opnai'.*: openai"):
        parse_spec(f"ViT-B-32:opnai@{tmp_path}/w@home.pt")
    with pytest.raises(InvalidInput, match=r"checkpoint gone\.pt of .* does not exist"):
        parse_spec("ViT-B-32:openai@gone.pt")
    with pytest.raises(InvalidInput, match=r"checkpoint /a@b/gone\.pt of .* does not exist"):
        parse_spec("ViT-B-32:/a@b/gone.pt")
