import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dncbm.attribution.inner import ConceptLayer, InnerConcepts, layer_rows
from dncbm.bcos.explain import explain
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.layers import BcosConv2d, LogitLayer
from dncbm.bcos.norms import GroupNorm2d
from dncbm.errors import InvalidInput, UnknownName
from dncbm.sae.activations import TopK
from dncbm.sae.model import SaeModel
from dncbm.sae.presets import preset
from dncbm.sae.train import train_sae

D, C = 5, 8


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        BcosConv2d(6, D, 3, bias=True), GroupNorm2d(D),
        BcosConv2d(D, 4, 3, b=1.5, bias=True, unit_norm=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), LogitLayer(bias=-1.0),
    )  # fmt: skip
    return net.double().eval()


def _model() -> SaeModel:
    torch.manual_seed(1)
    model = SaeModel(D, C, activation=TopK(2)).double()
    with torch.no_grad():
        model.encoder_weight.add_(torch.randn(C, D) * 0.1)
        model.input_scale.fill_(0.6)
    return model


def _images() -> Tensor:
    return torch.rand(2, 6, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def _slow(
    net: nn.Sequential, image: Tensor, model: SaeModel, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of each place, and what each adds to class k: place by place with frozen factors."""
    features = net[:2](image[None])[0].detach()
    codes = torch.stack(
        [model.encode(features[:, y, x][None])[0] for y in range(5) for x in range(5)]
    ).detach()
    rebuilt = (codes @ model.dictionary * model.input_scale).detach().T.view(D, 5, 5)
    rest = explain(net[2:].eval(), rebuilt[None], k)  # its own row, tested elsewhere
    row = rest.weights[0, 0].flatten(1).numpy()
    added = np.zeros((25, C))
    for place in range(25):
        for concept in range(C):
            step = model.dictionary[concept].detach().numpy() * float(model.input_scale)
            added[place, concept] = float(codes[place, concept]) * float(step @ row[:, place])
    return codes.numpy(), added


@torch.no_grad()
def test_classes_are_sums_of_concepts() -> None:
    net, model, images = _network(), _model(), _images()
    inner = InnerConcepts(net, "1", model)
    found = inner.shares(images, torch.tensor([[0, 3]] * 2))
    torch.testing.assert_close(found.values, inner(images)[:, [0, 3]])
    total = found.contributions.sum(-1) + found.bias
    torch.testing.assert_close(total, found.values, rtol=1e-12, atol=1e-12)
    assert not found.error.any()
    assert float(found.contributions.abs().sum()) > 0
    for i, image in enumerate(images):
        for t, k in enumerate((0, 3)):
            codes, added = _slow(net, image, model, k)
            np.testing.assert_allclose(found.codes[i], codes.sum(axis=0), rtol=1e-9)
            np.testing.assert_allclose(
                found.contributions[i, t], added.sum(axis=0), rtol=1e-9, atol=1e-12
            )


@torch.no_grad()
def test_concepts_are_sums_of_pixels() -> None:
    """The rows too, from those of the features and the encoder's weights."""
    net, model, images = _network(), _model(), _images()
    inner = InnerConcepts(net, "1", model)
    found = inner.explain(images, [2, 5, 0])
    torch.testing.assert_close(found.values, inner.shares(images).codes[:, [2, 5, 0]])
    total = found.maps.sum((-2, -1)) + found.position + found.bias
    torch.testing.assert_close(total, found.values, rtol=1e-12, atol=1e-12)
    features = explain(net[:2].eval(), images, lambda f: f.flatten(1))
    weight = model.encoder_weight.detach() / model.input_scale
    for i, image in enumerate(images):
        codes, _ = _slow(net, image, model, 0)
        rows = features.weights[i].view(D, 25, -1)
        for t, concept in enumerate((2, 5, 0)):
            active = torch.from_numpy(codes[:, concept] > 0).double()
            expected = torch.einsum("d,dpi,p->i", weight[concept], rows, active)
            torch.testing.assert_close(found.weights[i, t].flatten(), expected)


def test_with_the_error_the_network_stays_as_it_is() -> None:
    net, images = _network(), _images()
    inner = InnerConcepts(net, "1", _model(), keep_error=True)
    torch.testing.assert_close(inner(images), net(images))
    found = inner.shares(images)
    total = found.contributions.sum(-1) + found.error + found.bias
    torch.testing.assert_close(total, found.values, rtol=1e-12, atol=1e-12)
    assert float(found.error.abs().min()) > 0
    without = InnerConcepts(net, "1", _model())
    assert not torch.allclose(without(images), net(images))


def test_the_original_keeps_its_layers_and_shares_its_weights() -> None:
    net = _network()
    inner = InnerConcepts(net, "1", _model())
    assert isinstance(net[1], GroupNorm2d)
    mine = dict(inner.network.named_parameters())
    assert all(mine[name] is part for name, part in net.named_parameters() if name[0] != "1")
    assert mine["1.0.weight"] is net[1].weight


def test_models_with_an_encoding_take_images() -> None:
    net = _network()
    images = torch.rand(2, 3, 7, 7, dtype=torch.float64)
    whole = InnerConcepts(ImageModel(net, encoding="inverse"), "network.1", _model())
    bare = InnerConcepts(net, "1", _model())
    encoded = torch.cat([images, 1 - images], dim=1)
    torch.testing.assert_close(whole.explain(images, [1]).maps, bare.explain(encoded, [1]).maps)
    torch.testing.assert_close(whole.shares(images, 1), bare.shares(encoded, 1))


def test_rows_are_drawn_where_the_class_is_decided() -> None:
    net, images = _network(), torch.zeros(1, 6, 12, 12, dtype=torch.float64)
    images[:, :, :3, :3] = torch.rand(6, 3, 3, dtype=torch.float64)
    net = nn.Sequential(BcosConv2d(6, D, 1), net[2], *net[3:]).double().eval()
    rows = layer_rows(net, "0", images, per_image=50, generator=torch.Generator().manual_seed(0))
    features = net[0](images)[0].flatten(1).T
    assert rows.shape == (50, D)
    assert all(any(torch.equal(row, one) for one in features) for row in rows)
    assert bool((rows.norm(dim=1) > 1e-6).all())  # the rest of the image is empty


def test_an_autoencoder_without_biases_is_trained_and_fits() -> None:
    torch.manual_seed(3)
    rows = torch.randn(512, D).relu() + 0.1
    config = preset(
        "default", embed_dim=D, num_rows=512, num_concepts=C, k=2, biases=False, max_steps=60
    )
    model = train_sae(rows, config).model
    assert not model.encoder_bias.any()
    assert not model.pre_bias.any()
    assert not model.input_mean.any()
    layer = ConceptLayer(model)
    features = torch.rand(1, D, 2, 2)
    torch.testing.assert_close(layer(3 * features), 3 * layer(features))


def test_bad_parts_are_refused() -> None:
    net, model = _network(), _model()
    with pytest.raises(UnknownName, match="Unknown layer 'stem'"):
        InnerConcepts(net, "stem", model)
    with pytest.raises(InvalidInput, match="Concept 9 does not exist"):
        InnerConcepts(net, "1", model).explain(_images(), [9])
    with pytest.raises(InvalidInput, match="neither subtracts a mean"):
        preset("default", embed_dim=4, num_rows=64, biases=False, center=True)
    model.pre_bias.data[0] = 1.0
    with pytest.raises(InvalidInput, match="has pre_bias; concepts inside a network must be"):
        InnerConcepts(net, "1", model)
