"""Training on views and on pairs: it learns, resumes bit by bit, and equals itself in chunks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dncbm.contrastive.config import PretrainConfig
from dncbm.contrastive.heads import ProjectionHead
from dncbm.contrastive.networks import PairsNetwork, ViewsNetwork
from dncbm.contrastive.train import Captions, spread, train_pairs, train_views
from dncbm.data.views import Views
from dncbm.errors import ArtifactMismatch, InvalidInput, UnknownName
from dncbm.training.photos import Photos, Run

VIEWS = Views(size=8, smallest=0.4)
WORDS = ("red", "green", "blue")


class _Stop(Exception):
    """Stands for a kill."""


def _tower(*, norm: bool = True) -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    if norm:
        layers[1:1] = [nn.BatchNorm2d(8), nn.Dropout(0.1)]
    return nn.Sequential(*layers)


def _views_network(config: PretrainConfig, *, norm: bool = True) -> ViewsNetwork:
    torch.manual_seed(4)
    head = ProjectionHead(32, hidden=16, out=6) if norm else nn.Linear(32, 6)
    return ViewsNetwork(_tower(norm=norm), head, config.new_loss(48))


class _Towers(nn.Module):
    """Stands for a CLIP model."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(_tower(), nn.Linear(32, 5))
        self.token_embedding = nn.Embedding(4, 7)
        self.text_projection = nn.Parameter(torch.randn(7, 5))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self.visual(pixels)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.token_embedding(tokens).mean(1) @ self.text_projection


def _pairs_network(config: PretrainConfig, adapter: int | None = None) -> PairsNetwork:
    torch.manual_seed(4)
    return PairsNetwork(
        _Towers(), config.new_loss(48), learns=config.learns, embed_dim=5, adapter=adapter
    )


def _photos(count: int = 60, *, labels: bool = True) -> Photos:
    """Red, green and blue noise; the last fifth is held out."""
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 120, (count, 3, 10, 10), generator=draw, dtype=torch.uint8)
    truth = torch.arange(count) % 3
    images[torch.arange(count), truth] += 100
    rows, cut = np.arange(count), count * 4 // 5
    return Photos(
        images=images, train=rows[:cut], held_out=rows[cut:],
        labels=truth.numpy() if labels else None,
    )  # fmt: skip


def _captions(count: int = 60) -> Captions:
    """The colour, once or twice, with another word."""
    parts = []
    for i in range(count):
        colour = torch.full((1 + i % 2, 1), i % 3)
        parts.append(torch.cat([colour, torch.full_like(colour, 3), colour], 1))
    return Captions.of(parts)


def _config(**changes: Any) -> PretrainConfig:
    settings: dict[str, Any] = {
        "steps": 12, "batch_size": 16, "learning_rate": 0.01, "evaluate_every": 4,
        "precision": "float32",
    }  # fmt: skip
    return PretrainConfig(**settings | changes)


def _run(path: Path, stop: int | None = None) -> Run:
    def on_step(step: int, steps: int) -> None:
        if step == stop:
            raise _Stop

    return Run(checkpoint=path, on_step=on_step)


def _trained(config: PretrainConfig, run: Run, **changes: Any) -> tuple[nn.Module, list[Any]]:
    if config.has_captions:
        pairs = _pairs_network(config)
        return pairs, train_pairs(pairs, _photos(), _captions(), VIEWS, config, run, **changes)
    views = _views_network(config, norm=changes.pop("norm", True))
    augmentation = config.augmentation(VIEWS)
    return views, train_views(views, _photos(), augmentation, config, run, **changes)


def test_views_bring_classes_apart(tmp_path: Path) -> None:
    """Colours stay colours where views keep them; the history has losses and neighbours."""
    config = _config(steps=40, evaluate_every=20, colours=0.1, grey=0.0)
    _, history = _trained(config, _run(tmp_path / "c"))
    losses = [row["nt-xent"] for row in history if "nt-xent" in row]
    assert losses[-1] < losses[0]
    assert history[-1]["held_out_knn_1"] > 0.6
    assert history[-1]["held_out_knn_10"] > 0.6


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_pairs_find_each_other(tmp_path: Path, loss: str) -> None:
    config = _config(steps=60, evaluate_every=30, loss=loss, learning_rate=0.03)
    network, history = _trained(config, _run(tmp_path / "c"))
    assert isinstance(network, PairsNetwork)
    names = network.texts(torch.arange(3)[:, None])
    found = network.images(VIEWS.whole(_photos().images[48:]))
    guess = (nn.functional.normalize(found) @ nn.functional.normalize(names).T).argmax(1)
    assert float((guess == torch.arange(48, 60) % 3).double().mean()) > 0.8
    assert {"held_out_recall_1", "held_out_recall_5"} <= history[-1].keys()
    assert network.loss.log_temperature is not None
    assert float(network.loss.log_temperature.detach()) != pytest.approx(np.log(0.07))


@pytest.mark.parametrize(
    "changes",
    [{"chunk_size": 5, "temperature": "random:0.1:1.0:period=2"}, {"blur": 0.5},
     {"loss": "clip", "chunk_size": 6}, {"loss": "siglip", "temperature": "cosine:0.1:1.0"}],
)  # fmt: skip
def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = _config(**changes)
    whole, history = _trained(config, _run(tmp_path / "whole"))
    with pytest.raises(_Stop):
        _trained(config, _run(tmp_path / "killed", stop=6))
    torch.manual_seed(99)  # another process has another state
    resumed, again = _trained(config, _run(tmp_path / "killed"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    assert again == history


def test_chunks_learn_what_the_batch_learns(tmp_path: Path) -> None:
    """Without batch norms."""
    whole, _ = _trained(_config(steps=3), _run(tmp_path / "a"), norm=False)
    parts, _ = _trained(_config(steps=3, chunk_size=5), _run(tmp_path / "b"), norm=False)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_samples_have_shifts_of_their_own(tmp_path: Path) -> None:
    config = _config(steps=2, clusters=3, temperature="swing:0.08:periods=5")
    shifts = torch.linspace(0.05, 0.2, 60)
    one, _ = _trained(config, _run(tmp_path / "a"), shifts=shifts)
    other, _ = _trained(config, _run(tmp_path / "b"), shifts=shifts.flip(0))
    assert not torch.equal(one.state_dict()["tower.0.weight"], other.state_dict()["tower.0.weight"])
    with pytest.raises(InvalidInput, match="no shift"):
        _trained(config, _run(tmp_path / "c"))


@pytest.mark.parametrize(
    ("learns", "moving"),
    [("both", ("visual", "token", "text")), ("images", ("visual",)),
     ("adapters", ("visual.adapter", "text"))],
)  # fmt: skip
def test_what_is_frozen_stays(tmp_path: Path, learns: str, moving: tuple[str, ...]) -> None:
    """Batch norms included."""
    config = _config(steps=2, loss="clip", learns=learns)
    network = _pairs_network(config, adapter=3 if learns == "adapters" else None)
    before = {name: value.clone() for name, value in network.model.state_dict().items()}
    train_pairs(network, _photos(), _captions(), VIEWS, config, _run(tmp_path / "a"))
    for name, value in network.model.state_dict().items():
        learned = name.startswith(moving)
        assert torch.equal(value, before[name]) != learned or name.endswith("adapter.down.bias")
    assert network.model.logit_scale.item() == 0


def test_an_adapter_begins_as_nothing() -> None:
    config = _config(loss="clip", learns="adapters")
    pixels = VIEWS.whole(_photos().images)
    plain, adapted = _pairs_network(config).eval(), _pairs_network(config, adapter=3).eval()
    torch.testing.assert_close(adapted.images(pixels), plain.images(pixels))


def test_captions_are_drawn_evenly() -> None:
    captions = Captions.of([torch.tensor([[1], [2], [3]]), torch.zeros(0, 1).long()])
    rows = np.zeros(6, dtype=int)
    u = torch.tensor([0.0, 0.3, 0.34, 0.6, 0.67, 0.999])
    assert captions.drawn(rows, u).flatten().tolist() == [1, 1, 2, 2, 3, 3]
    with pytest.raises(InvalidInput, match="no caption"):
        captions.drawn(np.array([1]), torch.zeros(1))


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    for changes, match in (
        ({"batch_size": 1}, "at least 2"), ({"chunk_size": 0}, "at least 1"),
        ({"temperature": "cosine:0:1"}, "above 0"), ({"temperature": "swing:0.08"}, "clusters"),
        ({"clusters": 3, "temperature": "swing:0.2"}, "above 0"), ({"clusters": -1}, "at least"),
        ({"temperature": 0.0}, "above 0"),
    ):  # fmt: skip
        with pytest.raises((InvalidInput, TypeError), match=match):
            _config(**changes)
    for changes in ({"loss": "moco"}, {"learns": "nothing"}):
        with pytest.raises(UnknownName):
            _config(**changes)
    photo = Photos(images=_photos().images[:1], train=np.arange(1))
    config = _config()
    with pytest.raises(InvalidInput, match="one photo"):
        train_views(
            _views_network(config), photo, config.augmentation(VIEWS), config, _run(tmp_path / "a")
        )
    with pytest.raises(InvalidInput, match="no two towers"):
        PairsNetwork(nn.Linear(2, 2), config.new_loss(10))
    first = Run(checkpoint=tmp_path / "b", purpose="one")
    _trained(_config(steps=2), first)
    with pytest.raises(ArtifactMismatch):
        _trained(_config(steps=2), Run(checkpoint=tmp_path / "b", purpose="another"))


def test_rows_are_spread_evenly() -> None:
    assert spread(np.arange(5), 9).tolist() == [0, 1, 2, 3, 4]
    assert spread(np.arange(9), 3).tolist() == [0, 4, 8]
