from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dncbm.bcos import create_model, load_weights, replace_head
from dncbm.bcos.inputs import ImageModel
from dncbm.bcos.models.network import Network
from dncbm.errors import InvalidInput, Unavailable

State = dict[str, Tensor]


def _network(name: str = "resnet18", **settings: Any) -> Network:
    size = {"width": 8, "depth": 1, "heads": 2, "patch_size": 4} if "vit" in name else {
        "width": 4, "depths": (1, 1),
    }  # fmt: skip
    return create_model(name, **{"num_classes": 3} | size | settings)


def _same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def _flat(state: State) -> State:
    return {key.replace(".linear.weight", ".weight"): value for key, value in state.items()}


def _under(prefix: str) -> Callable[[State], dict[str, Any]]:
    def dressed(state: State) -> dict[str, Any]:
        inner = {prefix + key: value for key, value in state.items()}
        return {"state_dict": inner | {"teacher.weight": torch.zeros(2)}, "epoch": 3}

    return dressed


@pytest.mark.parametrize("name", ["resnet18", "simple_vit_ti_patch16_224"])
@pytest.mark.parametrize(
    "dressed",
    [
        dict,
        _flat,
        _under("model."),
        _under("model.model."),
        _under("ema.module."),
        lambda state: {"model": state, "epoch": 1},
        lambda state: _under("model.")(_flat(state)),
    ],
)
def test_checkpoints_of_many_trainers(
    name: str, dressed: Callable[[State], dict[str, Any]], tmp_path: Path
) -> None:
    saved, fresh = _network(name), _network(name)
    torch.save(dressed(saved.state_dict()), tmp_path / "net.pth")
    assert load_weights(fresh, tmp_path / "net.pth") is fresh
    assert _same(fresh.state_dict(), saved.state_dict())


def test_safetensors_and_image_models(tmp_path: Path) -> None:
    saved = _network()
    save_file(saved.state_dict(), tmp_path / "net.safetensors")
    fresh = ImageModel(_network(), encoding="inverse")
    load_weights(fresh, str(tmp_path / "net.safetensors"))
    assert _same(fresh.network.state_dict(), saved.state_dict())


def test_another_number_of_classes_names_the_head(tmp_path: Path) -> None:
    torch.save(_network(num_classes=7).state_dict(), tmp_path / "net.pth")
    with pytest.raises(
        InvalidInput,
        match=r"1 of another shape \(fc.linear.weight \(7, 8, 1, 1\) for \(3, 8, 1, 1\)\).*"
        "replace_head",
    ):
        load_weights(_network(), tmp_path / "net.pth")
    loaded = load_weights(_network(num_classes=7), tmp_path / "net.pth")
    assert replace_head(loaded, 3).num_classes == 3


def test_weights_of_another_network_change_nothing(tmp_path: Path) -> None:
    torch.save(_network(depths=(1, 2)).state_dict(), tmp_path / "net.pth")
    fresh = _network(depths=(1, 1, 1))
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    with pytest.raises(InvalidInput) as caught:
        load_weights(fresh, tmp_path / "net.pth")
    message = str(caught.value)
    assert "15 missing (layer3.0.conv1.linear.weight, " in message
    assert "10 unexpected (layer2.1.conv1.linear.weight, " in message
    assert "fc.linear.weight (3, 8, 1, 1) for (3, 16, 1, 1)" in message
    assert "…" in message
    assert _same(fresh.state_dict(), before)


def test_weights_must_be_finite_and_fill_empty_networks(tmp_path: Path) -> None:
    saved = _network().state_dict()
    torch.save(saved, tmp_path / "net.pth")
    with torch.device("meta"):
        fresh = _network()
    assert _same(load_weights(fresh, tmp_path / "net.pth").state_dict(), saved)
    saved["bn1.weight"][1] = torch.nan
    torch.save(saved, tmp_path / "net.pth")
    with pytest.raises(InvalidInput, match=r"1 not finite \(bn1.weight\)"):
        load_weights(_network(), tmp_path / "net.pth")


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/nonexistent/trap"),))


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="There is no file"):
        load_weights(_network(), tmp_path / "none.pth")
    torch.save({"weights": _Trap()}, tmp_path / "trap.pth")
    with pytest.raises(InvalidInput, match="cannot be read as weights alone"):
        load_weights(_network(), tmp_path / "trap.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InvalidInput, match="holds no state dict"):
        load_weights(_network(), tmp_path / "list.pth")
    for name in ("noise.pth", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"noise" * 10)
        with pytest.raises(InvalidInput, match="cannot be read as weights alone"):
            load_weights(_network(), tmp_path / name)


def test_urls_are_fetched_once_and_hashes_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    saved, calls = _network(), []

    def download(url: str, target: str, hash_prefix: str | None, progress: bool) -> None:
        calls.append((url, hash_prefix))
        torch.save(saved.state_dict(), target)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        fresh = load_weights(_network(), "https://example.org/a/net-0123456789.pth?x=1")
        assert _same(fresh.state_dict(), saved.state_dict())
    assert calls == [("https://example.org/a/net-0123456789.pth?x=1", "0123456789")]
    load_weights(_network(), "http://example.org/b/resnet-18.pth")
    assert calls[1][1] is None


def test_urls_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(Unavailable, match="cannot be fetched.*no route.*Download it yourself"):
        load_weights(_network(), "https://example.org/net.pth")
    with pytest.raises(InvalidInput, match="names no file"):
        load_weights(_network(), "https://example.org/")
