"""The encoder: repeatable, fingerprinted, and honest about what it cannot load."""

import json
import pickle
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from dncbm.encoders.clip import Encoder, load_encoder
from dncbm.encoders.spec import MINI_FOLDER
from dncbm.errors import InvalidInput, UnknownName
from tests.oracles import encoders as oracle
from tests.unit.data.pictures import noise
from tests.unit.encoders.tiny import CONFIG, tiny_encoder, write_model_folder


def test_images_are_embedded_as_open_clip_embeds_them(encoder: Encoder) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(encoder.spec)
    images = [noise(i, 30, 22) for i in range(3)]
    with torch.inference_mode():
        theirs = model.eval().encode_image(torch.stack([preprocess(image) for image in images]))
    torch.testing.assert_close(encoder.embed_pil(images), theirs, rtol=0, atol=0)
    pixels = torch.stack([encoder.preprocess(image) for image in images])
    torch.testing.assert_close(encoder.encode_images(pixels), theirs, rtol=0, atol=0)


def test_convolutions_run_with_channels_last() -> None:
    encoder = load_encoder("mini", device="cpu")
    tower = encoder.image_tower()
    layers = [layer for layer in tower.modules() if isinstance(layer, torch.nn.Conv2d)]
    last = torch.channels_last
    assert all(layer.weight.is_contiguous(memory_format=last) for layer in layers)
    pixels = torch.stack([encoder.preprocess(noise(i, 30, 22)) for i in range(3)])
    found = encoder.encode_images(pixels)
    for layer in layers:
        layer.weight.data = layer.weight.data.contiguous()
    torch.testing.assert_close(found, encoder.encode_images(pixels), rtol=1e-4, atol=1e-5)


def test_embeddings_can_be_trained_on(encoder: Encoder) -> None:
    weight = torch.ones(12, requires_grad=True)
    embeddings, texts = encoder.embed_pil([noise(1)]), encoder.encode_texts(["cat"])
    ((embeddings + texts) * weight).sum().backward()
    torch.testing.assert_close(weight.grad, (embeddings + texts)[0])


def test_attributes(encoder: Encoder) -> None:
    assert (encoder.embed_dim, encoder.image_size) == (12, (16, 16))
    assert (encoder.device, encoder.precision) == ("cpu", "fp32")
    assert encoder.preprocess_config["mean"] == [0.5, 0.5, 0.5]
    assert len(encoder.fingerprint) == 64


def test_texts_against_the_plain_formula(encoder: Encoder) -> None:
    texts, templates = ["cat", "a red boat"], ["{}", "a photo of a {}.", "my {}"]
    found = encoder.encode_texts(texts, templates=templates, batch_size=1)
    model, tokenizer = open_clip.create_model(encoder.spec), open_clip.get_tokenizer(encoder.spec)

    def embed_one(text: str) -> np.ndarray:
        with torch.inference_mode():
            return model.eval().encode_text(tokenizer([text]))[0].numpy()

    expected = oracle.prompt_ensemble(texts, templates, embed_one)
    np.testing.assert_allclose(found.double().numpy(), expected, atol=1e-6)


def test_text_batches_do_not_change_texts(encoder: Encoder) -> None:
    words = [f"word {i}" for i in range(7)]
    whole, parts = encoder.encode_texts(words), encoder.encode_texts(words, batch_size=3)
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-6)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(7))


def test_nothing_to_embed_is_empty(encoder: Encoder) -> None:
    assert encoder.embed_pil([]).shape == (0, 12)
    assert encoder.encode_images(torch.zeros(0, 3, 16, 16)).shape == (0, 12)
    assert encoder.encode_texts([]).shape == (0, 12)


@pytest.mark.parametrize("templates", [[], ["no place"]])
def test_templates_need_a_place(encoder: Encoder, templates: list[str]) -> None:
    with pytest.raises(InvalidInput, match="needs '{}' where the text goes"):
        encoder.encode_texts(["cat"], templates=templates)


def test_text_batch_size_is_checked(encoder: Encoder) -> None:
    with pytest.raises(InvalidInput, match="batch_size is 0"):
        encoder.encode_texts(["cat"], batch_size=0)


def test_fingerprint_follows_weights_and_preprocessing_not_place(tmp_path: Path) -> None:
    first = tiny_encoder(tmp_path / "a").fingerprint
    assert tiny_encoder(tmp_path / "b").fingerprint == first
    other = load_encoder(f"local-dir:{write_model_folder(tmp_path / 'c', seed=1)}", device="cpu")
    shifted = load_encoder(
        f"local-dir:{write_model_folder(tmp_path / 'd', mean=0.4)}", device="cpu"
    )
    assert len({first, other.fingerprint, shifted.fingerprint}) == 3


def test_precision_changes_numbers_not_the_fingerprint(tmp_path: Path, encoder: Encoder) -> None:
    low = tiny_encoder(tmp_path, precision="bf16")
    assert low.fingerprint == encoder.fingerprint
    images = [noise(1), noise(2)]
    found, exact = low.embed_pil(images), encoder.embed_pil(images)
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.1)


def _tiny_name(folder: Path) -> str:
    """Register the tiny architecture with open_clip, as a user does with one of his own."""
    (folder / "dncbm-test-tiny.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / "dncbm-test-tiny.json")
    return "dncbm-test-tiny"


def test_an_architecture_with_a_local_checkpoint(tmp_path: Path, encoder: Encoder) -> None:
    folder = write_model_folder(tmp_path / "m")
    _tiny_name(tmp_path)
    weights = folder / "open_clip_model.safetensors"
    found = load_encoder(f"dncbm-test-tiny:{weights}", device="cpu")
    assert found.embed_dim == 12
    torch.testing.assert_close(
        found.encode_texts(["cat"]), encoder.encode_texts(["cat"]), rtol=0, atol=0
    )
    state = torch.load(_as_pickle(weights, tmp_path / "w.pt"), weights_only=True)
    assert state
    assert (
        load_encoder(f"dncbm-test-tiny:{tmp_path}/w.pt", device="cpu").fingerprint
        == found.fingerprint
    )


_PLAIN = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28), "url": "one"}
_HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "resize_mode": "squash"}


def _tagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tags: dict[str, dict[str, object]]
) -> tuple[str, Path]:
    """The tiny architecture with published tags, and weights of it."""
    name = _tiny_name(tmp_path)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags)
    return name, write_model_folder(tmp_path / "m") / "open_clip_model.safetensors"


def _activations(encoder: Encoder) -> set[str]:
    names = {type(module).__name__ for module in encoder._model.modules()}
    return names & {"GELU", "QuickGELU"}


def test_a_file_is_preprocessed_and_activated_as_all_tags_of_its_architecture_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tags = {tag: _HALVES | {"quick_gelu": True, "hf_hub": tag} for tag in ("one", "two")}
    name, weights = _tagged(tmp_path, monkeypatch, tags)
    found = load_encoder(f"{name}:{weights}", device="cpu")
    assert found.preprocess_config["mean"] == [0.5, 0.5, 0.5]
    assert found.preprocess_config["resize_mode"] == "squash"
    assert _activations(found) == {"QuickGELU"}
    assert not caplog.records


def test_where_tags_differ_the_file_says_which_or_a_warning_says_what_is_assumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tags = {"plain": _PLAIN, "quick": _HALVES | {"quick_gelu": True}}
    name, weights = _tagged(tmp_path, monkeypatch, tags)
    quick = load_encoder(f"{name}:quick@{weights}", device="cpu")
    assert quick.preprocess_config["std"] == [0.5, 0.5, 0.5]
    assert _activations(quick) == {"QuickGELU"}
    assert not caplog.records
    assumed = load_encoder(f"{name}:{weights}", device="cpu")
    assert assumed.preprocess_config["mean"] == list(open_clip.OPENAI_DATASET_MEAN)
    assert _activations(assumed) == {"GELU"}
    assert "Assumed are mean [0.48145466" in caplog.text
    assert "resize mode shortest and the activation GELU." in caplog.text
    assert f"{name}:plain@{weights}" in caplog.text


def test_the_activation_is_part_of_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = {"plain": _PLAIN, "quick": _PLAIN | {"quick_gelu": True}}
    name, weights = _tagged(tmp_path, monkeypatch, tags)
    marks = {load_encoder(f"{name}:{tag}@{weights}", device="cpu").fingerprint for tag in tags}
    assert len(marks) == 2


def test_many_images_are_embedded_in_batches(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [noise(i % 3) for i in range(130)]
    sizes: list[int] = []
    original = Encoder.encode_images

    def noted(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(Encoder, "encode_images", noted)
    found = encoder.embed_pil(images)
    assert sizes == [64, 64, 2]
    torch.testing.assert_close(found[127:], encoder.embed_pil(images[127:]))


def _as_pickle(weights: Path, target: Path) -> Path:
    torch.save(load_file(str(weights)), target)
    return target


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file({"visual.proj": torch.zeros(3, 3)}, str(weights))
    with pytest.raises(InvalidInput, match="cannot be loaded: .*belong to this architecture"):
        load_encoder(f"{_tiny_name(tmp_path)}:{weights}", device="cpu")


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    (tmp_path / "w.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    with pytest.raises(InvalidInput, match="cannot be loaded"):
        load_encoder(f"{_tiny_name(tmp_path)}:{tmp_path}/w.pt", device="cpu")
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_weights_is_never_random(tmp_path: Path) -> None:
    (write_model_folder(tmp_path) / "open_clip_model.safetensors").unlink()
    with pytest.raises(InvalidInput, match="cannot be loaded"):
        load_encoder(f"local-dir:{tmp_path}", device="cpu")


def test_unknown_precision_and_device(tmp_path: Path) -> None:
    name = f"local-dir:{write_model_folder(tmp_path)}"
    with pytest.raises(UnknownName, match="Unknown precision 'fp8'"):
        load_encoder(name, precision="fp8")
    with pytest.raises(UnknownName, match="Unknown device 'warp'"):
        load_encoder(name, device="warp")


@pytest.mark.skipif(
    not (MINI_FOLDER / "model.safetensors").is_file(), reason="the bundled weights are not here"
)
def test_the_bundled_encoder(caplog: pytest.LogCaptureFixture) -> None:
    mini = load_encoder("mini", device="cpu")
    assert not caplog.records
    assert mini.preprocess_config["mean"] == list(open_clip.OPENAI_DATASET_MEAN)
    assert mini.fingerprint == load_encoder("mini", device="cpu").fingerprint
    images = mini.embed_pil([noise(1, 60, 40)])
    texts = mini.encode_texts(["a cat", "an unheard-of wuggle"])
    assert images.shape[1] == texts.shape[1] == mini.embed_dim
    assert bool(torch.isfinite(images).all())
    assert not torch.equal(texts[0], texts[1])
