from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dncbm.attribution.heads import class_logits, concept_codes, text_cosines, together
from dncbm.bcos.explain import explain
from dncbm.bcos.layers import BcosConv2d
from dncbm.errors import InvalidInput
from dncbm.probe.model import Probe
from dncbm.sae.activations import BatchTopK, ReLU, TopK
from dncbm.sae.gates import Gated, JumpReLU
from dncbm.sae.model import SaeModel

D, C = 5, 7


def _batch_topk() -> BatchTopK:
    activation = BatchTopK(2)
    activation.threshold.fill_(0.2)
    return activation


def _gated() -> Gated:
    gated = Gated(C)
    nn.init.normal_(gated.log_scale, std=0.3)
    nn.init.normal_(gated.offset, std=0.1)
    return gated


VARIANTS: dict[str, Any] = {
    "relu": ReLU, "topk": lambda: TopK(3), "batchtopk": _batch_topk,
    "jumprelu": lambda: JumpReLU(C, threshold=0.15), "gated": _gated,
}  # fmt: skip


def _model(name: str, normalize: bool) -> SaeModel:
    torch.manual_seed(3)
    model = SaeModel(D, C, activation=VARIANTS[name](), normalize=normalize).double().eval()
    with torch.no_grad():
        for part in (model.encoder_bias, model.pre_bias, model.input_mean):
            part.normal_(std=0.2)
        model.input_scale.fill_(0.7)
    return model


def _tower() -> nn.Sequential:
    torch.manual_seed(1)
    tower = nn.Sequential(BcosConv2d(6, D, 3, bias=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return tower.double().eval()


def _images() -> Tensor:
    drawn = torch.randn(3, 6, 5, 5, generator=torch.Generator().manual_seed(2))
    return drawn.double() * 4


def _slope(model: SaeModel, embedding: np.ndarray, concept: int) -> tuple[np.ndarray, float]:
    """v and constant with code = v·e + constant, by the formula of each variant."""
    weight = model.encoder_weight.detach().numpy()[concept]
    length = np.linalg.norm(embedding) if model.normalize else 1.0
    scale, mean = float(model.input_scale), model.input_mean.numpy()
    row = weight / (length * scale)
    shift = float(model.encoder_bias[concept]) - float(
        weight @ (mean / scale + model.pre_bias.detach().numpy())
    )
    code = float(model.encode(torch.from_numpy(embedding)[None])[0, concept])
    if code == 0:
        return np.zeros(D), 0.0
    if isinstance(model.activation, Gated):
        gain = float(model.activation.log_scale[concept].exp())
        return gain * row, gain * shift + float(model.activation.offset[concept])
    return row, shift


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_codes_are_their_pixels_and_their_constants(name: str, normalize: bool) -> None:
    """Slopes and constants by the formulas; seen to fail when lengths were not held."""
    model, tower, images = _model(name, normalize), _tower(), _images()
    concepts = list(range(C))
    found = explain(tower, images, concept_codes(model, concepts))
    embeddings = tower(images)
    torch.testing.assert_close(found.values, model.encode(embeddings))
    assert int((found.values > 0).sum()) > 2
    rows = explain(tower, images, lambda e: e)
    for i in range(3):
        for t, concept in enumerate(concepts):
            v, constant = _slope(model, embeddings[i].numpy(), concept)
            weights = np.einsum("d,dchw->chw", v, rows.weights[i].numpy())
            np.testing.assert_allclose(found.weights[i, t], weights, rtol=1e-9, atol=1e-12)
            bias = constant + float(v @ rows.bias[i].numpy())
            assert float(found.bias[i, t]) == pytest.approx(bias, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(found.maps.sum((-2, -1)) + found.bias, found.values)


def test_class_logits_are_the_sum_of_their_concepts_maps() -> None:
    model, tower, images = _model("topk", True), _tower(), _images()
    probe = Probe(torch.randn(4, C), torch.randn(4), tuple("abcd"))
    found = explain(tower, images, class_logits(model, probe, [2, 0]))
    codes = explain(tower, images, concept_codes(model, list(range(C))))
    weights = probe.weights[[2, 0]].double()
    torch.testing.assert_close(found.maps, torch.einsum("tc,nchw->nthw", weights, codes.maps))
    expected = codes.bias @ weights.T + probe.bias[[2, 0]].double()
    torch.testing.assert_close(found.bias, expected)
    torch.testing.assert_close(
        found.values, probe.logits(model.encode(tower(images)))[:, [2, 0]].detach()
    )


def test_heads_are_read_together() -> None:
    model, tower, images = _model("relu", False), _tower(), _images()
    texts = torch.randn(2, D)
    both = explain(tower, images, together([concept_codes(model, [1]), text_cosines(texts)]))
    alone = explain(tower, images, text_cosines(texts))
    torch.testing.assert_close(both.maps[:, 1:], alone.maps)
    torch.testing.assert_close(both.values[:, :1], model.encode(tower(images))[:, 1:2].detach())


def test_outside_the_mode_heads_are_plain_functions() -> None:
    model, embeddings = _model("gated", True), torch.randn(4, D, dtype=torch.float64)
    torch.testing.assert_close(
        concept_codes(model, [3, 1])(embeddings), model.encode(embeddings)[:, [3, 1]]
    )


def test_bad_targets_are_refused() -> None:
    model = _model("relu", False)
    with pytest.raises(InvalidInput, match="Concept 7 does not exist; there are 0 to 6"):
        concept_codes(model, [0, 7])
    with pytest.raises(InvalidInput, match="No class was asked for"):
        class_logits(model, Probe(torch.randn(2, C), torch.randn(2), ("a", "b")), [])
