"""Where lower precision pays: only where the hardware multiplies it."""

import logging

import torch

_log = logging.getLogger(__name__)


def native_bfloat16(device: torch.device | str) -> bool:
    """Whether the device multiplies bfloat16 itself; a processor without it emulates it.

    Emulated products are many times slower than float32 ones (30 times for a small convolutional
    network on an AVX2 processor).
    """
    if torch.device(device).type != "cpu":
        return True
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def bfloat16_products(device: torch.device | str) -> torch.autocast:
    """A context in which matrix products are bfloat16, or float32 where that is emulated."""
    native = native_bfloat16(device)
    if not native:
        _log.debug("no bfloat16 on this processor: products are float32")
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=native)
