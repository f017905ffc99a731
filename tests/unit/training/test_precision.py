import pytest
import torch

from dncbm.training import precision


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_products_are_bfloat16_only_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: native)
    with precision.bfloat16_products("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_the_processor_is_asked_and_a_gpu_is_taken_to_have_it() -> None:
    assert precision.native_bfloat16("cuda:1")
    assert precision.native_bfloat16("cpu") == torch.ops.mkldnn._is_mkldnn_bf16_supported()
