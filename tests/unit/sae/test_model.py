import numpy as np
import pytest
import torch

from dncbm.errors import InvalidInput
from dncbm.sae.activations import ReLU, TopK
from dncbm.sae.model import SaeModel


def _model(normalize: bool = False) -> SaeModel:
    model = SaeModel(6, 10, activation=ReLU(), normalize=normalize).double()
    with torch.no_grad():
        model.encoder_bias.uniform_(-0.1, 0.1)
        model.pre_bias.uniform_(-1, 1)
        model.input_mean.uniform_(-1, 1)
        model.input_scale.fill_(2.5)
    return model


def test_encode_and_decode_follow_the_formula() -> None:
    model = _model()
    x = torch.randn(4, 6, dtype=torch.float64)
    p = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    y = (x.numpy() - p["input_mean"]) / 2.5
    codes = np.maximum((y - p["pre_bias"]) @ p["encoder_weight"].T + p["encoder_bias"], 0)
    rebuilt = (codes @ p["dictionary"] + p["pre_bias"]) * 2.5 + p["input_mean"]
    output = model(x)
    np.testing.assert_allclose(output.codes.detach().numpy(), codes, atol=1e-12)
    np.testing.assert_allclose(output.reconstruction.detach().numpy(), rebuilt, atol=1e-12)
    torch.testing.assert_close(model.encode(x), output.codes)


def test_a_code_adds_its_direction_to_the_embedding() -> None:
    model = _model()
    codes = torch.zeros(2, 10, dtype=torch.float64)
    codes[1, 3] = 1.0
    rebuilt = model.decode(codes)
    torch.testing.assert_close(rebuilt[1] - rebuilt[0], 2.5 * model.dictionary[3])


def test_a_normalising_model_ignores_length_and_gives_it_back() -> None:
    model = _model(normalize=True)
    x = torch.randn(4, 6, dtype=torch.float64)
    short, long = model(x), model(3 * x)
    torch.testing.assert_close(short.codes, long.codes)
    torch.testing.assert_close(3 * short.reconstruction, long.reconstruction)


def test_impossible_sizes_and_widths_are_refused() -> None:
    with pytest.raises(InvalidInput, match="k is 9, but there are only 4 concepts"):
        SaeModel(3, 4, activation=TopK(9))
    with pytest.raises(InvalidInput, match="at least one input"):
        SaeModel(0, 4, activation=ReLU())
    with pytest.raises(InvalidInput, match="width 5, this SAE was made for width 6"):
        _model().encode(torch.zeros(2, 5, dtype=torch.float64))
