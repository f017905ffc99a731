"""All attribution methods by name, with what they can be used for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from dncbm.attribution import backprop, cams, methods, perturbation
from dncbm.attribution.lrp import lrp
from dncbm.attribution.rollout import rollout
from dncbm.errors import UnknownName

Kind = Literal["backpropagation", "activation", "perturbation", "attention", "inherent"]


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """One method."""

    name: str
    function: Callable[..., Tensor]
    """`function(forward, images, targets, *, layer=None, create_graph=False, **options)` gives
    maps (n, t, y, x)."""
    differentiable: bool
    """Whether a loss on its maps can train a network (`create_graph=True`)."""
    kind: Kind = "backpropagation"


def _all(*infos: MethodInfo) -> Mapping[str, MethodInfo]:
    return MappingProxyType({info.name: info for info in infos})


METHODS: Mapping[str, MethodInfo] = _all(
    MethodInfo("gradient", methods.gradient, True),
    MethodInfo("input_x_gradient", methods.input_x_gradient, True),
    MethodInfo("integrated_gradients", methods.integrated_gradients, True),
    MethodInfo("smooth_grad", backprop.smooth_grad, True),
    MethodInfo("smoothed_integrated_gradients", backprop.smoothed_integrated_gradients, True),
    MethodInfo("smoothed_input_x_gradient", backprop.smoothed_input_x_gradient, True),
    MethodInfo("guided_backprop", backprop.guided_backprop, False),
    MethodInfo("lrp", lrp, False),
    MethodInfo("grad_cam", methods.grad_cam, True, "activation"),
    MethodInfo("layer_cam", methods.layer_cam, True, "activation"),
    MethodInfo("grad_cam_plus_plus", cams.grad_cam_plus_plus, True, "activation"),
    MethodInfo("ablation_cam", cams.ablation_cam, False, "activation"),
    MethodInfo("score_cam", cams.score_cam, False, "activation"),
    MethodInfo("occlusion", perturbation.occlusion, False, "perturbation"),
    MethodInfo("rise", perturbation.rise, False, "perturbation"),
    MethodInfo("rollout", rollout, False, "attention"),
    MethodInfo("bcos", methods.bcos, True, "inherent"),
)


def method_named(name: str) -> MethodInfo:
    """The method of a name.

    Raises:
        UnknownName: there is no such method; the message has the nearest ones.
    """
    if name not in METHODS:
        raise UnknownName("attribution method", name, METHODS)
    return METHODS[name]
