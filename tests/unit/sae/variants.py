"""One activation of each kind, away from its special start."""

from collections.abc import Callable

import torch

from dncbm.sae.activations import Activation, BatchTopK, ReLU, TopK
from dncbm.sae.gates import Gated, JumpReLU

CONCEPTS = 10


def jumprelu() -> JumpReLU:
    activation = JumpReLU(CONCEPTS, bandwidth=0.4)
    with torch.no_grad():
        activation.log_threshold.uniform_(-2, 0)
    return activation


def gated() -> Gated:
    activation = Gated(CONCEPTS)
    with torch.no_grad():
        activation.log_scale.uniform_(-1, 1)
        activation.offset.uniform_(-0.5, 0.5)
    return activation


def batchtopk() -> BatchTopK:
    activation = BatchTopK(3)
    activation.threshold.fill_(0.3)
    return activation


ACTIVATIONS: dict[str, Callable[[], Activation]] = {
    "relu": ReLU,
    "topk": lambda: TopK(3),
    "jumprelu": jumprelu,
    "batchtopk": batchtopk,
    "gated": gated,
}
