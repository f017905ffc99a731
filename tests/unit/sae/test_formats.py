import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dncbm.errors import ArtifactError, InvalidInput
from dncbm.sae.activations import ReLU, TopK
from dncbm.sae.formats import export_saelens, import_paper, import_saelens
from dncbm.sae.model import SaeModel
from dncbm.sae.store import load_sae, save_sae
from tests.unit.sae.variants import ACTIVATIONS


def _model(activation: Any, normalize: bool = False) -> SaeModel:
    model = SaeModel(6, 10, activation=activation, normalize=normalize).eval()
    with torch.no_grad():
        model.encoder_bias.uniform_(-0.1, 0.1)
        model.pre_bias.uniform_(-1, 1)
        model.input_mean.uniform_(-1, 1)
        model.input_scale.fill_(2.5)
    return model


def _saelens_codes(inputs: torch.Tensor, weights: dict[str, torch.Tensor], k: int) -> torch.Tensor:
    """What SAELens' classes compute, by the tensors that each has."""
    if "b_gate" in weights:
        gate = inputs @ weights["W_enc"] + weights["b_gate"]
        magnitude = inputs @ (weights["W_enc"] * weights["r_mag"].exp()) + weights["b_mag"]
        return (gate > 0) * magnitude.relu()
    pre = inputs @ weights["W_enc"] + weights["b_enc"]
    if "threshold" in weights:
        return pre.relu() * (pre > weights["threshold"])
    return TopK(k)(pre) if k else pre.relu()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_saelens_layout_reconstructs_the_same(name: str, normalize: bool, tmp_path: Path) -> None:
    model = _model(ACTIVATIONS[name](), normalize)
    x = torch.randn(7, 6)
    export_saelens(tmp_path, model)
    config = json.loads((tmp_path / "cfg.json").read_text())
    weights = load_file(tmp_path / "sae_weights.safetensors")
    factor = 6**0.5 / x.norm(dim=-1, keepdim=True) if normalize else 1.0
    assert config["normalize_activations"] == ("constant_norm_rescale" if normalize else "none")
    codes = _saelens_codes(x * factor - weights["b_dec"], weights, config.get("k", 0))
    rebuilt = (codes @ weights["W_dec"] + weights["b_dec"]) / factor
    expected = model(x).reconstruction.detach()
    torch.testing.assert_close(rebuilt, expected, rtol=1e-4, atol=1e-5)
    again = import_saelens(tmp_path)
    torch.testing.assert_close(again(x).reconstruction.detach(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again.dictionary, model.dictionary)


@pytest.mark.parametrize("name", ["relu", "jumprelu", "gated"])
def test_rows_of_any_length_are_brought_to_unit_length(name: str, tmp_path: Path) -> None:
    export_saelens(tmp_path, _model(ACTIVATIONS[name]()))
    weights = load_file(tmp_path / "sae_weights.safetensors")
    weights["W_dec"] *= torch.linspace(0.5, 3, 10)[:, None]
    save_file(weights, tmp_path / "sae_weights.safetensors")
    model, x = import_saelens(tmp_path), torch.randn(7, 6)
    codes = _saelens_codes(x - weights["b_dec"], weights, 0)
    rebuilt = codes @ weights["W_dec"] + weights["b_dec"]
    torch.testing.assert_close(model(x).reconstruction.detach(), rebuilt, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.dictionary.detach().norm(dim=-1), torch.ones(10))


def test_saelens_import_gives_unit_rows_and_the_same_reconstruction(tmp_path: Path) -> None:
    weights = {
        "W_enc": torch.randn(6, 10),
        "b_enc": torch.randn(10),
        "W_dec": 3 * torch.randn(10, 6),
        "b_dec": torch.randn(6),
    }
    save_file(weights, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "standard"}))
    model = import_saelens(tmp_path)
    x = torch.randn(5, 6)
    codes = torch.relu((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"])
    rebuilt = codes @ weights["W_dec"] + weights["b_dec"]
    torch.testing.assert_close(model(x).reconstruction.detach(), rebuilt, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.dictionary.detach().norm(dim=-1), torch.ones(10))


def test_saelens_layouts_that_we_cannot_represent_are_refused(tmp_path: Path) -> None:
    activation = ReLU()
    activation.name = "mine"
    with pytest.raises(InvalidInput, match="written for relu, topk.* not 'mine'"):
        export_saelens(tmp_path, _model(activation))
    export_saelens(tmp_path, _model(TopK(2)))
    config = json.loads((tmp_path / "cfg.json").read_text())
    for change, message in [
        ({"architecture": "temporal"}, "architecture 'temporal'; supported: standard, topk"),
        ({"apply_b_dec_to_input": False}, "apply_b_dec_to_input False"),
        ({"k": None}, "names no k"),
    ]:
        (tmp_path / "cfg.json").write_text(json.dumps(config | change))
        with pytest.raises(InvalidInput, match=message):
            import_saelens(tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    save_file(weights | {"W_dec": 2 * weights["W_dec"]}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(InvalidInput, match="rows of other lengths than 1"):
        import_saelens(tmp_path)
    del weights["b_enc"]
    save_file(weights, tmp_path / "sae_weights.safetensors")
    with pytest.raises(ArtifactError, match="lacks b_enc"):
        import_saelens(tmp_path)


def _paper_state() -> dict[str, torch.Tensor]:
    bias = torch.randn(1, 6)
    return {
        "tied_bias": bias,
        "pre_encoder_bias._bias_reference": bias,
        "encoder._weight": torch.randn(1, 10, 6),
        "encoder._bias": torch.randn(1, 10),
        "decoder._weight": torch.nn.functional.normalize(torch.randn(1, 6, 10), dim=1),
        "post_decoder_bias._bias_reference": bias,
    }


def test_the_papers_checkpoint_is_read(tmp_path: Path) -> None:
    state = _paper_state()
    torch.save(state, tmp_path / "sparse_autoencoder_final.pt")
    model = import_paper(tmp_path / "sparse_autoencoder_final.pt")
    x = torch.randn(5, 6)
    bias = state["tied_bias"][0]
    codes = torch.relu((x - bias) @ state["encoder._weight"][0].T + state["encoder._bias"][0])
    rebuilt = codes @ state["decoder._weight"][0].T + bias
    found = model(x)
    torch.testing.assert_close(found.codes.detach(), codes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.reconstruction.detach(), rebuilt, rtol=1e-5, atol=1e-5)
    save_sae(tmp_path / "sae", model)
    assert load_sae(tmp_path / "sae").config is None


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    with pytest.raises(ArtifactError, match="cannot be read"):
        import_paper(path)
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ArtifactError, match="no SAE checkpoint of Discover-then-Name"):
        import_paper(path)
    torch.save(_paper_state() | {"encoder._weight": torch.randn(2, 10, 6)}, path)
    with pytest.raises(ArtifactError, match="exactly one component"):
        import_paper(path)
    path.write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(ArtifactError, match="cannot be read"):
        import_paper(path)
