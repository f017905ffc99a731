"""Where lower precision pays: only where the hardware multiplies it."""

import logging

import torch

PRECISIONS = ("auto", "float32", "bfloat16")

_log = logging.getLogger(__name__)


def native_bfloat16(device: torch.device | str) -> bool:
    """Whether the device multiplies bfloat16 itself; a processor without it emulates it.

    Emulated products are many times slower than float32 ones: MobileNet at 224 pixels saw 6
    photos per second with them and 70 without, on two AVX2 cores.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    return _cpu_says("_is_avx512_bf16_supported") or _cpu_says("_is_amx_tile_supported")


def _cpu_says(name: str) -> bool:
    """The answer of a private function of torch, which may be gone in another version: then no."""
    ask = getattr(torch.cpu, name, None)
    return ask is not None and bool(ask())


def product_dtype(name: str, device: torch.device | str) -> torch.dtype | None:
    """The type of a training's large products: bfloat16, or None for the operands' own.

    Args:
        name: one of `PRECISIONS`; `auto` takes bfloat16 where the device multiplies it.
        device: where they are computed. Asked for by name where it would be emulated, bfloat16
            is refused with a warning: products are float32.
    """
    if name == "float32":
        return None
    if native_bfloat16(device):
        return torch.bfloat16
    if name == "bfloat16":
        _log.warning("%s has no bfloat16 products: float32 instead of bfloat16.", device)
    return None


def products(name: str, device: torch.device | str) -> torch.autocast:
    """A context in which products have the type that `product_dtype` says."""
    dtype = product_dtype(name, device)
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
