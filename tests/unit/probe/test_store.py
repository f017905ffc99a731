import pytest
import torch
from safetensors.torch import load_file

from dncbm.errors import ArtifactError, InvalidInput
from dncbm.probe.store import load_cbm, save_cbm
from dncbm.probe.train import ProbeConfig, train_probe

INPUTS = {"encoder": "e" * 64, "sae": "s" * 64, "dictionary": "d" * 64, "embeddings": "m" * 64}


@pytest.fixture(scope="module")
def trained(world):
    return train_probe(*world, ProbeConfig(necs=(2, 4), path_points=6))


@pytest.fixture
def saved(trained, tmp_path):
    save_cbm(tmp_path / "cbm", trained, config={"encoder": "mini", "seed": 0}, inputs=INPUTS)
    return tmp_path / "cbm"


def test_what_is_saved_is_loaded_bit_for_bit(trained, saved):
    cbm = load_cbm(saved)
    assert torch.equal(cbm.probe.weights, trained.probe.weights)
    assert torch.equal(cbm.probe.bias, trained.probe.bias)
    for nec, head in trained.nec_probes.items():
        assert torch.equal(cbm.nec_probes[nec].weights, head.weights)
        assert torch.equal(cbm.nec_probes[nec].bias, head.bias)
    assert cbm.classes == ("ant", "bee", "cat")
    assert cbm.metrics == trained.metrics
    assert cbm.temperature == trained.temperatures["dense"]
    assert cbm.temperature_for(4) == trained.temperatures["nec4"]
    assert cbm.manifest.inputs == INPUTS
    assert cbm.config == {"encoder": "mini", "seed": 0}


def test_sparse_heads_are_stored_sparsely(saved):
    tensors = load_file(saved / "probe.safetensors")
    assert tensors["nec2.values"].numel() == 6
    assert tensors["nec2.indices"].shape == (2, 6)


def test_probe_for_lists_what_there_is(saved):
    cbm = load_cbm(str(saved))
    assert cbm.probe_for(None) is cbm.probe
    assert cbm.probe_for(2) is cbm.nec_probes[2]
    with pytest.raises(InvalidInput, match="nec=3 is not available. Available: 2, 4"):
        cbm.probe_for(3)
    with pytest.raises(InvalidInput, match="nec=7 is not available"):
        cbm.temperature_for(7)


def test_given_metrics_replace_those_of_the_training(trained, tmp_path):
    save_cbm(tmp_path / "cbm", trained, config={}, inputs={}, metrics={"zero_shot": 0.5})
    assert load_cbm(tmp_path / "cbm").metrics == {"zero_shot": 0.5}


@pytest.mark.parametrize("part", ["probe.safetensors", "cbm.json"])
def test_damage_is_reported(saved, part):
    (saved / part).write_bytes((saved / part).read_bytes()[:-1] + b"?")
    with pytest.raises(ArtifactError, match=f"{part} was changed after it was written"):
        load_cbm(saved)


def test_another_directory_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="not a dncbm artifact"):
        load_cbm(tmp_path)
