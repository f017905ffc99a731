"""The number format of a training step on this processor."""

import torch


def autocast() -> torch.autocast:
    """A context of bfloat16 where the processor multiplies it in hardware.

    Elsewhere it is emulated, 30 times slower than float32, and the context changes nothing.
    """
    native: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported() and (
        "AVX512" in torch.backends.cpu.get_cpu_capability()
    )
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=native)
