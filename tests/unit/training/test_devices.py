import pytest
import torch

from dncbm.errors import Unavailable, UnknownName
from dncbm.training.devices import resolve_device


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, there: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert resolve_device("auto") == device


def test_a_device_is_tried() -> None:
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(UnknownName, match="Unknown device 'cud'. Nearest known names: .*cuda"):
        resolve_device("cud")
    with pytest.raises(Unavailable, match="'cuda:99' cannot be used on this machine. Use cpu"):
        resolve_device("cuda:99")
