"""A network taken apart at a layer computes what the whole one does."""

import threading

import pytest
import torch
from torch import Tensor, nn

from dncbm.attribution.layers import layer_of, split_at, token_grid
from dncbm.errors import InvalidInput, UnknownName


class _Tokens(nn.Module):
    """A vision transformer in small: two extra tokens before 2 x 3 patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 2, stride=2)
        self.extra = nn.Parameter(torch.randn(1, 2, 4))
        self.block = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.norm = nn.LayerNorm(4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT
        tokens = torch.cat([self.extra.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.norm(self.block(tokens))[:, 0]


def _cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(4, 5, 2), nn.Flatten(),
        nn.LazyLinear(3),
    ).double()  # fmt: skip


def _images() -> Tensor:
    return torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_features_lead_to_the_output() -> None:
    net, images = _cnn(), _images()
    split = split_at(net, images, "1")
    torch.testing.assert_close(split.features, net[:2](images))
    torch.testing.assert_close(split.explain(split.features), net(images))
    other = torch.cat([split.features.detach() * 2, split.features.detach() - 1])
    torch.testing.assert_close(split.explain(other), net[2:](other))
    torch.testing.assert_close(split_at(net, images).explain(other[:2].new_ones(2, 3, 4, 6)),
                               net(torch.ones_like(images)))  # fmt: skip


def test_the_forward_pass_is_not_repeated_for_the_features_themselves() -> None:
    net, images, calls = _cnn(), _images(), []
    net[0].register_forward_hook(lambda *_: calls.append(1))
    split = split_at(net, images, net[1])
    split.explain(split.features)
    assert len(calls) == 1
    split.explain(split.features.clone())
    assert len(calls) == 2


def test_features_may_be_overwritten_by_what_follows() -> None:
    net, images = _cnn(), _images()
    net[1] = nn.ReLU(inplace=True)
    split = split_at(net, images, "0")
    torch.testing.assert_close(split.features, net[0](images))
    torch.testing.assert_close(split.explain(split.features), net(images))


def test_tokens_are_features_of_their_patches() -> None:
    torch.manual_seed(0)
    net, images = _Tokens().double().eval(), _images()
    split = split_at(net, images, "block")
    assert split.features.shape == (2, 4, 2, 3)
    tokens: list[Tensor] = []
    net.block.register_forward_hook(lambda _m, _i, output: tokens.append(output))
    expected = net(images)
    torch.testing.assert_close(split.features[1, :, 1, 2], tokens[0][1, 2 + 5])
    torch.testing.assert_close(split.explain(split.features), expected)
    torch.testing.assert_close(split.explain(split.features.clone()), expected)


def test_features_with_channels_last_are_put_first() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), _Permuted(), nn.Flatten(), nn.Linear(24, 3))
    images = torch.randn(2, 3, 4, 6)
    split = split_at(net, images, "1")
    torch.testing.assert_close(split.features, net[0](images))
    torch.testing.assert_close(split.explain(split.features), net(images))
    torch.testing.assert_close(split.explain(split.features.clone()), net(images))


class _Permuted(nn.Module):
    """As Swin transformers lay features."""

    def forward(self, features: Tensor) -> Tensor:
        return features.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("tokens", "size", "expected"),
    [
        (197, (224, 224), (1, (14, 14))),
        (50, (224, 224), (1, (7, 7))),
        (201, (224, 224), (5, (14, 14))),
        (64, (32, 32), (0, (8, 8))),
        (8, (4, 6), (2, (2, 3))),
        (3, (4, 6), None),
    ],
)
def test_the_grid_of_tokens(
    tokens: int, size: tuple[int, int], expected: tuple[int, tuple[int, int]] | None
) -> None:
    assert token_grid(tokens, *size) == expected


def test_weights_before_the_layer_are_trained_only_where_that_is_asked_for() -> None:
    net, images = _cnn(), _images()
    for create_graph in (False, True):
        net.zero_grad()
        split = split_at(net, images, "1", create_graph=create_graph)
        split.explain(split.features).sum().backward()
        assert (net[0].weight.grad is not None) is create_graph
        assert net[2].weight.grad is not None


def test_other_threads_are_left_alone() -> None:
    net, images = _cnn(), _images()
    expected, found = net(images), []
    release = threading.Event()

    class _Waits(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            other = threading.Thread(target=lambda: found.append(net(images)))
            if not release.is_set():
                release.set()
                other.start()
                other.join()
            return features

    slow = nn.Sequential(*net[:1], _Waits(), *net[1:])
    split = split_at(slow, images, net[1])
    assert len(found) == 1
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(split.explain(split.features), expected)
    assert not net[1]._forward_hooks


def test_layers_that_do_not_fit_are_refused() -> None:
    net, images = _cnn(), _images()
    named = nn.Sequential()
    named.add_module("layer4", nn.Conv2d(3, 2, 1))
    with pytest.raises(UnknownName, match="Nearest known names: layer4"):
        layer_of(named, "layer5")
    with pytest.raises(InvalidInput, match="is no module"):
        layer_of(lambda x: x, "layer4")
    with pytest.raises(InvalidInput, match=r"Flatten gave shape \(2, 10\)"):
        split_at(net, images, "3")
    with pytest.raises(InvalidInput, match="was called no times"):
        split_at(net, images, nn.Tanh())
    twice = nn.Sequential(net[0], net[1], net[1])
    with pytest.raises(InvalidInput, match="was called 2 times"):
        split_at(twice, images, net[1])
    split = split_at(net, images, "1")
    with pytest.raises(InvalidInput, match="3 features do not belong to 2 images"):
        split.explain(split.features.detach()[[0, 1, 0]])
