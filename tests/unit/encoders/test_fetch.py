"""What is said when an encoder cannot be fetched or loaded."""

import logging
import sys
from pathlib import Path

import open_clip
import pytest

from dncbm.encoders import fetch
from dncbm.encoders.clip import load_encoder
from dncbm.encoders.fetch import fetching
from dncbm.encoders.spec import parse_spec
from dncbm.errors import InvalidInput, Unavailable


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """No network and an empty cache; the list grows whenever the network is asked for."""
    asked: list[str] = []
    monkeypatch.setattr(fetch, "hub_reachable", lambda: bool(asked.append("hub")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return asked


@pytest.mark.parametrize(
    "text", ["ViT-B-32:openai", "nobody/nothing-here", "google/siglip-base-patch16-224"]
)
def test_without_network_the_next_step_is_told_at_once(
    text: str, offline: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Unavailable, match="no network to fetch it.*or use the bundled encoder"):
        load_encoder(text, device="cpu")
    assert offline == ["hub"]
    assert caplog.records == []


def test_loading_leaves_logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), list(root.filters), logging.getLogger("timm").level)
    spec = parse_spec("ViT-B-32:openai")
    monkeypatch.setattr(fetch, "hub_reachable", lambda: True)
    with pytest.raises(InvalidInput, match="cannot be loaded: boom"), fetching(spec):
        logging.warning("from a test, not from open_clip")
        raise RuntimeError("boom\nmore")
    assert before == (list(root.handlers), list(root.filters), logging.getLogger("timm").level)


def _siglip_weights(folder: Path) -> str:
    (folder / "w.safetensors").write_bytes(b"")
    return f"ViT-B-16-SigLIP:{folder}/w.safetensors"


def test_weights_at_hand_whose_tokenizer_is_not(offline: list[str], tmp_path: Path) -> None:
    spec = parse_spec(_siglip_weights(tmp_path))
    message = "weights of the encoder .* are here, but its tokenizer timm/ViT-B-16-SigLIP comes"
    with pytest.raises(Unavailable, match=message), fetching(spec):
        open_clip.get_tokenizer(spec.model_name)
    assert offline == ["hub"]


def test_hub_weights_that_are_missing_beside_their_config(offline: list[str]) -> None:
    """open_clip only logs that it cannot fetch them, and then asks for weights."""
    with (
        pytest.raises(Unavailable, match="no network to fetch it"),
        fetching(parse_spec("org/name")),
    ):
        raise RuntimeError("Required pretrained weights (`...`) could not be loaded. ")


def test_a_missing_package_comes_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = parse_spec(_siglip_weights(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(fetch, "hub_reachable", lambda: True)
    with (
        pytest.raises(
            Unavailable, match="needs the package transformers.*pip install transformers"
        ),
        fetching(spec),
    ):
        open_clip.get_tokenizer(spec.model_name)


def test_without_network_other_failures_keep_their_reason(offline: list[str]) -> None:
    spec = parse_spec("ViT-B-32:openai")
    with pytest.raises(InvalidInput, match="cannot be loaded: size mismatch"), fetching(spec):
        raise RuntimeError("size mismatch for visual.proj")


def test_a_connection_that_breaks_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "hub_reachable", lambda: True)
    spec = parse_spec("ViT-B-32:openai")
    with pytest.raises(Unavailable, match="no network to fetch it"), fetching(spec):
        try:
            raise ConnectionResetError("by peer")
        except OSError:
            raise FileNotFoundError("Failed to download file")  # noqa: B904  (as open_clip does)


def test_mini_never_asks_for_the_network(offline: list[str]) -> None:
    with fetching(parse_spec("mini")):
        pass
    assert offline == []
