import numpy as np
import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.probe.adam import AdamConfig, fit_adam, initial_weights
from dncbm.training.seeding import generator
from tests.oracles import probe as oracle
from tests.unit.probe.conftest import make_codes


def test_two_epochs_match_the_steps_by_hand():
    codes, labels = make_codes(20, c=7, active=3)
    config = AdamConfig(learning_rate=0.05, sparsity=2.0, batch_size=8, epochs=2, seed=4)
    found = fit_adam(codes, labels, 3, config)
    batches = [
        batch.tolist()
        for epoch in range(2)
        for batch in torch.randperm(20, generator=generator(4, "shuffle", epoch)).split(8)
    ]
    start = initial_weights(3, 7, 4).numpy()
    truth = oracle.adam_steps(codes.astype(np.float64), labels, start, batches, 0.05, 2.0)
    np.testing.assert_allclose(found.numpy(), truth, atol=2e-5)


def test_resumed_epochs_give_the_same_weights(tmp_path):
    codes, labels = make_codes(30, c=7, active=3)
    whole = fit_adam(codes, labels, 3, AdamConfig(epochs=6, batch_size=8))
    file = tmp_path / "adam.safetensors"
    fit_adam(codes, labels, 3, AdamConfig(epochs=2, batch_size=8), checkpoint=file)
    resumed = fit_adam(codes, labels, 3, AdamConfig(epochs=6, batch_size=8), checkpoint=file)
    assert torch.equal(whole, resumed)


def test_no_weight_is_exactly_zero():
    codes, labels = make_codes(30, c=7, active=3)
    assert (fit_adam(codes, labels, 3, AdamConfig(epochs=3, sparsity=10.0)) != 0).all()


def test_settings_that_cannot_train_are_refused():
    with pytest.raises(InvalidInput, match="epochs >= 1"):
        AdamConfig(epochs=0)
