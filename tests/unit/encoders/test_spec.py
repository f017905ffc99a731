"""Names of encoders: what they mean, and what is said when they mean nothing."""

import logging
from pathlib import Path

import pytest

from dncbm.encoders import spec as spec_module
from dncbm.encoders.clip import load_encoder
from dncbm.encoders.spec import fetching, parse_spec
from dncbm.errors import InvalidInput, Unavailable, UnknownName


@pytest.mark.parametrize(
    ("text", "model_name", "pretrained"),
    [
        ("ViT-B-32:openai", "ViT-B-32", "openai"),
        ("ViT-B/32:openai", "ViT-B-32", "openai"),
        ("ViT-B-32:laion2b-s34b-b79k", "ViT-B-32", "laion2b-s34b-b79k"),
        ("hf-hub:org/name", "hf-hub:org/name", None),
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


@pytest.mark.parametrize("text", ["ViT-B-32:openai", "hf-hub:nobody/nothing-here"])
def test_without_network_the_next_step_is_told_at_once(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(spec_module, "hub_reachable", lambda: bool(asked.append("hub")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Unavailable, match="no network to fetch it.*or use the bundled encoder"):
        load_encoder(text, device="cpu")
    assert asked == ["hub"]
    assert caplog.records == []


def test_loading_leaves_logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), list(root.filters), logging.getLogger("timm").level)
    spec = parse_spec("ViT-B-32:openai")
    monkeypatch.setattr(spec_module, "hub_reachable", lambda: True)
    with pytest.raises(InvalidInput, match="cannot be loaded: boom"), fetching(spec):
        logging.warning("from a test, not from open_clip")
        raise RuntimeError("boom\nmore")
    assert before == (list(root.handlers), list(root.filters), logging.getLogger("timm").level)
