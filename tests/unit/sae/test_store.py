from pathlib import Path
from typing import Any

import pytest
import torch

from dncbm.errors import ArtifactError, InvalidInput
from dncbm.sae.activations import ReLU
from dncbm.sae.model import SaeModel
from dncbm.sae.store import (
    load_sae,
    save_sae,
)
from dncbm.sae.train import SaeConfig, train_sae


def _model(activation: Any, normalize: bool = False) -> SaeModel:
    model = SaeModel(6, 10, activation=activation, normalize=normalize).eval()
    with torch.no_grad():
        model.encoder_bias.uniform_(-0.1, 0.1)
        model.pre_bias.uniform_(-1, 1)
        model.input_mean.uniform_(-1, 1)
        model.input_scale.fill_(2.5)
    return model


def test_a_trained_sae_comes_back_whole(tmp_path: Path) -> None:
    x = torch.randn(40, 6)
    config = SaeConfig(
        embed_dim=6, num_concepts=9, activation="batchtopk", k=2, center=True, epochs=2
    )
    trained = train_sae(x, config)
    manifest = save_sae(tmp_path / "sae", trained, config=config, inputs={"embeddings": "abc"})
    loaded = load_sae(tmp_path / "sae")
    assert loaded.config == config
    assert loaded.manifest == manifest
    assert manifest.inputs == {"embeddings": "abc"}
    assert manifest.metrics["unexplained_variance"] == trained.metrics.unexplained_variance
    assert loaded.history == trained.history
    assert not loaded.model.training
    torch.testing.assert_close(loaded.model.encode(x), trained.model.encode(x), rtol=0, atol=0)


def test_damage_is_noticed(tmp_path: Path) -> None:
    save_sae(tmp_path / "sae", _model(ReLU()))
    weights = tmp_path / "sae" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        load_sae(tmp_path / "sae")
    with pytest.raises(ArtifactError, match="not a dncbm artifact"):
        load_sae(tmp_path)


def test_weights_that_are_not_finite_are_not_stored(tmp_path: Path) -> None:
    model = _model(ReLU())
    model.pre_bias.data[0] = torch.nan
    with pytest.raises(InvalidInput, match="pre_bias holds NaN"):
        save_sae(tmp_path / "sae", model)
    assert not (tmp_path / "sae").exists()
