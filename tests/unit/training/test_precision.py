import pytest
import torch

from dncbm.training import precision


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, None)])
def test_products_are_bfloat16_only_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, dtype: torch.dtype | None
) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: native)
    assert precision.product_dtype("auto", "cpu") == dtype
    assert precision.product_dtype("bfloat16", "cpu") == dtype
    assert precision.product_dtype("float32", "cpu") is None


@pytest.mark.parametrize(
    ("vector", "tile", "native"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_the_processor_is_asked(
    monkeypatch: pytest.MonkeyPatch, vector: bool, tile: bool, native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vector)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tile)
    assert precision.native_bfloat16("cpu") == native


def test_a_torch_that_cannot_tell_means_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert not precision.native_bfloat16("cpu")


@pytest.mark.parametrize(("available", "supported"), [(True, True), (True, False), (False, True)])
def test_the_gpu_is_asked(
    monkeypatch: pytest.MonkeyPatch, available: bool, supported: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert precision.native_bfloat16("cuda:1") == (available and supported)
    assert not precision.native_bfloat16("mps")
