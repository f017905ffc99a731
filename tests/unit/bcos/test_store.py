"""Networks on disk: what is read is what was written, and what does not fit is named."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dncbm.bcos import originals, store
from dncbm.bcos.originals import ClassifierSpec, open_classifier, parse_classifier
from dncbm.bcos.store import Blueprint, load_bcos, save_bcos
from dncbm.data.views import Views
from dncbm.errors import ArtifactError, ArtifactMismatch, InvalidInput, Unavailable, UnknownName
from tests.unit.bcos.standin import standin

PLAIN = Blueprint(family="torchvision", name="squeezenet1_1", arguments={"num_classes": 3})
VIEWS = Views(size=32, mean=(0.4, 0.5, 0.6))


def test_a_stored_network_is_the_same_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs, views, classes, history and metrics come back; the mode is eval."""
    standin(monkeypatch)
    blueprint = Blueprint(**vars_of(PLAIN) | {"conversion": {"b": 2.0, "b_mode": "annealed"}})
    network = blueprint.build().eval()
    history = [{"step": 1, "bce": 0.5}]
    saved = save_bcos(
        tmp_path / "bcos", network, blueprint, VIEWS, classes=("a", "b", "c"),
        training={"seed": 3}, metrics={"accuracy": 0.7}, history=history,
    )  # fmt: skip
    loaded = load_bcos(tmp_path / "bcos")
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded.network(x), network(x), rtol=0, atol=0)
    assert (loaded.views, loaded.classes, loaded.history) == (VIEWS, ("a", "b", "c"), history)
    assert loaded.manifest.fingerprint == saved.fingerprint
    assert loaded.manifest.metrics == {"accuracy": 0.7}
    assert not loaded.network.training
    assert loaded.network.network.b == 2.0  # where an annealed B ends


def test_an_encoders_tower_is_built_around_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tower must be given, is not changed, and another one does not fit."""
    standin(monkeypatch)
    blueprint = Blueprint(family="encoder", name="mini", conversion={})
    tower = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    student = blueprint.build(tower)
    nn.init.zeros_(student.network.inner[1].weight)
    save_bcos(tmp_path / "bcos", student, blueprint, VIEWS)
    loaded = load_bcos(tmp_path / "bcos", original=tower)
    assert not loaded.network.network.inner[1].weight.any()
    assert tower[1].weight.any()
    with pytest.raises(InvalidInput, match="image tower of mini, which is needed"):
        load_bcos(tmp_path / "bcos")
    with pytest.raises(ArtifactMismatch, match=r"1 weights of .* do not fit the network: .*weight"):
        load_bcos(tmp_path / "bcos", original=nn.Sequential(nn.Flatten(), nn.Linear(9, 2)))


def test_damage_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are no numbers are never written; changed files are never read."""
    standin(monkeypatch)
    blueprint = Blueprint(family="encoder", name="mini", conversion={})
    tower = nn.Linear(2, 2)
    student = blueprint.build(tower)
    save_bcos(tmp_path / "bcos", student, blueprint, VIEWS)
    (tmp_path / "bcos" / store.WEIGHTS).write_bytes(b"x")
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        load_bcos(tmp_path / "bcos", original=tower)
    nn.init.constant_(student.network.inner.bias, float("nan"))
    with pytest.raises(InvalidInput, match=r"1 weights are not finite numbers, such as .*bias"):
        save_bcos(tmp_path / "other", student, blueprint, VIEWS)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("resnet18", UnknownName, "torchvision:resnet18"),
        ("torchvision:resnet81", UnknownName, "resnet18"),
        ("torchvision:resnet18@/no/file.pth", InvalidInput, "do not exist"),
    ],
)
def test_unknown_classifiers_are_named(text: str, error: type[Exception], message: str) -> None:
    """With the nearest names, or the file that is not there."""
    with pytest.raises(error, match=message):
        parse_classifier(text)


def test_a_file_gives_all_weights_but_a_head_of_another_width(tmp_path: Path) -> None:
    """Another architecture, no weights and NaN are refused, each with its name."""
    own, _ = originals.build_classifier("torchvision", "squeezenet1_1", 5)
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in own.state_dict().items()}}, file)
    spec = parse_classifier(f"torchvision:squeezenet1_1@{file}")
    same, _ = open_classifier(spec, 5)
    fewer, views = open_classifier(spec, 3)
    for name, tensor in own.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor), name
    assert torch.equal(
        fewer.state_dict()["features.0.weight"], own.state_dict()["features.0.weight"]
    )
    assert fewer.state_dict()["classifier.1.bias"].shape == (3,)
    assert views.size == 224
    with pytest.raises(InvalidInput, match=r"not those of a torchvision squeezenet1_0: \d+ differ"):
        open_classifier(ClassifierSpec("torchvision", "squeezenet1_0", file), 5)
    own.state_dict()["features.0.bias"].fill_(float("nan"))
    torch.save(own.state_dict(), file)
    with pytest.raises(InvalidInput, match=r"not finite in features\.0\.bias"):
        open_classifier(spec, 5)
    file.write_bytes(b"no weights")
    with pytest.raises(InvalidInput, match="cannot be read"):
        open_classifier(spec, 5)


def test_published_weights_without_a_network_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One clear error, whatever the library raises."""

    def refuse(name: str) -> None:
        raise OSError("no route")

    monkeypatch.setattr("torchvision.models.get_model_weights", refuse)
    with pytest.raises(Unavailable, match=r"torchvision:squeezenet1_1@FILE"):
        open_classifier(parse_classifier("torchvision:squeezenet1_1"), 3)


def vars_of(blueprint: Blueprint) -> dict[str, object]:
    """Fields of a blueprint."""
    return {name: getattr(blueprint, name) for name in Blueprint.__dataclass_fields__}
