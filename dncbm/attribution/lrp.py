"""Layer-wise relevance propagation, at the level of functions rather than modules.

    R_i = x_i · Σ_j ∂z_j/∂x_i · R_j / (z_j + ε · sign(z_j))             (LRP-ε, Bach et al. 2015)

The rule stands at each step that is linear in what comes from the explained layer: convolutions,
linear layers, normalisation by stored statistics, means, sums of branches. Activation functions
pass relevance as it is; steps that only choose or move values pass it to where the values came
from. These are the rules of captum's LRP. There, they hang on modules, so a residual sum that is
written as `x + y` doubles the relevance, unsaid; here the functions themselves are watched, in the
calling thread only, and one without a rule is named and refused. The network is not changed.
"""

import traceback
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dncbm.attribution.evaluation import refuse_training, settled
from dncbm.attribution.layers import Layer, Network, split_at
from dncbm.attribution.methods import Maps, target_gradients
from dncbm.bcos.explain import Targets
from dncbm.errors import InvalidInput

LINEAR = frozenset({
    "conv1d", "conv2d", "conv3d", "linear", "matmul", "bmm", "batch_norm", "mean", "sum",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "interpolate", "add", "sub", "rsub", "mul", "div", "true_divide", "neg",
    "einsum",
})  # fmt: skip
"""Linear in one operand, the others given, or a sum of operands."""
SUMS = frozenset({"add", "sub", "rsub"})
"""Linear in all operands together."""
ACTIVATIONS = frozenset({
    "relu", "relu6", "hardtanh", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish",
    "softplus", "tanh", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout",
})  # fmt: skip
MOVES = frozenset({
    "flatten", "reshape", "view", "view_as", "reshape_as", "unflatten", "squeeze", "unsqueeze",
    "permute", "transpose", "movedim", "swapaxes", "t", "contiguous", "clone", "to", "float",
    "double", "type_as", "cat", "concat", "stack", "getitem", "split", "chunk", "unbind", "select",
    "narrow", "index_select", "expand", "expand_as", "repeat", "pad", "max_pool1d", "max_pool2d",
    "max_pool3d", "adaptive_max_pool2d", "clamp_min", "alias", "roll", "flip", "T", "mT", "H",
    "channel_shuffle", "pixel_shuffle",
})  # fmt: skip


def lrp(
    forward: Network,
    images: Float[Tensor, "n c h w"],
    targets: Targets | None = None,
    *,
    layer: Layer = None,
    epsilon: float = 1e-9,
    create_graph: bool = False,
) -> Maps:
    """Relevance of each place, summed over channels (Bach et al. 2015), by the rules above.

    What enters at the output is the output times the gradient of the target: the target itself for
    a class, and what each output adds for a linear function of them. Biases and normalisation take
    their share of relevance, so a map sums to less than the target where there are any.

    Options:
        epsilon: what keeps the division from 0; 1e-9 as in captum.

    Raises:
        InvalidInput: epsilon that is not positive; a step without a rule, such as the attention and
            normalisation of transformers, or a sum that overwrites a value which is used again.
    """
    refuse_training("lrp", create_graph)
    if not epsilon > 0:
        raise InvalidInput(f"epsilon is {epsilon}; the rule is above 0. 1e-9 is captum's.")
    with torch.inference_mode(False), torch.enable_grad():
        split = split_at(forward, images, layer)
        plain = split.explain(split.features).detach()
        targets = settled(split, targets)
        features = split.features.detach().clone().requires_grad_()
        output = _explained(forward, split.explain, features, epsilon)
        if not torch.allclose(output, plain, rtol=1e-3, atol=1e-5):
            raise InvalidInput(
                "The network overwrites a value in place that it uses again, which hides where "
                "relevance goes. Write that step without an in-place operation."
            )
        leaf = plain.requires_grad_()
        slopes = target_gradients(leaf, leaf, targets, create_graph=False)
        count = slopes.shape[1]
        found = [
            torch.autograd.grad(
                output, features, slopes[:, t] * leaf.detach(), retain_graph=t + 1 < count
            )[0]
            for t in range(count)
        ]
        return torch.stack(found, dim=1).sum(dim=2)


def _explained(
    forward: Network, explain: Callable[[Tensor], Tensor], features: Tensor, epsilon: float
) -> Tensor:
    """The output, whose gradient is relevance."""
    try:
        with _Rules(features, epsilon):
            output = explain(features)
            _check_graph(output)
        return output
    except _NoRule as error:
        frames = traceback.walk_tb(error.__traceback__)
        owners = [frame.f_locals.get("self") for frame, _ in frames]
        modules = [owner for owner in owners if isinstance(owner, nn.Module)]
        where = f" in {_path(forward, modules[-1])}" if modules else ""
        raise InvalidInput(
            f"LRP has no rule for {error.args[0]}{where}. Convolutional networks with ReLU are "
            "covered; for others use integrated_gradients or input_x_gradient."
        ) from None


def _path(forward: Network, module: nn.Module) -> str:
    named = forward.named_modules() if isinstance(forward, nn.Module) else ()
    name = next((name for name, known in named if known is module and name), "")
    return f"{type(module).__name__} {name!r}" if name else type(module).__name__


class _NoRule(Exception):
    """A function that what is explained went into."""


class _Rules(TorchFunctionMode):
    """Functions of this thread whose results come from `source` pass relevance backwards."""

    def __init__(self, source: Tensor, epsilon: float) -> None:
        super().__init__()
        self._epsilon = epsilon
        _mark(source)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The same values, with relevance in place of gradients."""
        kwargs = dict(kwargs or {})
        operands = [a for a in _flat([*args, *kwargs.values()]) if _marked(a)]
        if not operands:
            return func(*args, **kwargs)
        name = _name(func)
        func, kwargs = _out_of_place(func, kwargs)
        if _shares(name, args, kwargs, operands):
            result = self._by_share(func, args, kwargs, operands)
        else:
            result = func(*args, **kwargs)
            if not _carries(result) and name != "setitem":
                return result
            if name in ACTIVATIONS:
                [x] = operands
                result = _Passed.apply(x, result.detach())
            elif name not in MOVES:
                raise _NoRule(name)
        for part in _flat([result]):
            _mark(part)
        return result

    def _by_share(
        self, func: Any, args: Any, kwargs: dict[str, Any], operands: list[Tensor]
    ) -> Tensor:
        """LRP-ε: the gradient, between a division by what came out and a product with what went."""
        entered = {id(x): _Scaled.apply(x, x.detach()) for x in operands}

        def replaced(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return type(value)(map(replaced, value))
            return entered.get(id(value), value)

        result = func(*map(replaced, args), **{k: replaced(v) for k, v in kwargs.items()})
        z = result.detach()
        return _Scaled.apply(result, 1 / torch.where(z >= 0, z + self._epsilon, z - self._epsilon))


class _Scaled(torch.autograd.Function):
    """x, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        [factor] = ctx.saved_tensors
        return gradient * factor, None


class _Passed(torch.autograd.Function):
    """Another value of the same shape, with the gradient of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _check_graph(output: Tensor) -> None:
    """Refuse autograd functions of the network's own, whose inside is not watched.

    Raises:
        _NoRule: there is one.
    """
    nodes, seen = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        own = getattr(node, "_forward_cls", None)
        if own not in (None, _Scaled, _Passed):
            raise _NoRule(f"the autograd function {own.__name__}")
        nodes += [before for before, _ in node.next_functions]


def _mark(value: Any) -> None:
    """Note that a tensor comes from what is explained."""
    if isinstance(value, Tensor) and value.requires_grad:
        value._dncbm_explained = True  # type: ignore[attr-defined]


def _marked(value: Any) -> bool:
    return isinstance(value, Tensor) and hasattr(value, "_dncbm_explained")


def _shares(name: str, args: Any, kwargs: dict[str, Any], operands: list[Tensor]) -> bool:
    """Whether a function is linear in its operands, the rest given."""
    if name not in LINEAR or kwargs.get("training"):
        return False
    if name in ("div", "true_divide"):
        return len(operands) == 1 and args[0] is operands[0]
    return len(operands) == 1 or name in SUMS


def _flat(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        found += _flat(value) if isinstance(value, list | tuple) else [value]
    return found


def _carries(result: Any) -> bool:
    """Whether anything in a result can be followed backwards."""
    return any(isinstance(part, Tensor) and part.requires_grad for part in _flat([result]))


def _name(func: Any) -> str:
    """`add` for `add`, `add_`, `__add__`, `__radd__` and `__iadd__`, and the like."""
    name = str(getattr(func, "__name__", func))
    if name == "__get__":  # of a property of tensors, such as `mT`
        return str(getattr(func.__self__, "__name__", name))
    if name.startswith("__"):
        name = name.strip("_")
        bare = {"truediv": "div", "itruediv": "div", "idiv": "div"}
        if name[:1] in "ri" and name[1:] in LINEAR - {"div"}:
            name = name[1:]
        return bare.get(name, name)
    return name.strip("_")


def _out_of_place(func: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The same function without overwriting its input."""
    if kwargs.get("inplace"):
        kwargs["inplace"] = False
    name = str(getattr(func, "__name__", ""))
    if name.startswith("__i") and hasattr(Tensor, name.replace("__i", "__", 1)):
        return getattr(Tensor, name.replace("__i", "__", 1)), kwargs
    if name.endswith("_") and not name.endswith("__") and hasattr(torch, name[:-1]):
        return getattr(torch, name[:-1]), kwargs
    return func, kwargs
