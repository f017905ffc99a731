"""A trial of a converted network on noise, since a walk over layers sees no function in a forward.

Three things are tried in float64, and each sees what the others cannot:

- The network converted with `EXACT` options must be the original function. This finds a forward
  that treats its input, or what lies between pooling and head, in a way of its own.
- In explanation mode the sum of all parts must be the output. This finds additions that nobody
  wrote down and functions such as GELU, but not those homogeneous of degree 1, for which Euler's
  theorem gives the same sum: an undetached |w·x| w·x / |x| passes.
- In explanation mode the gradient must not depend on the input: its derivative is 0. This finds
  every smooth function that nobody held, homogeneous or not.

None sees what the noise does not reach (a branch for other inputs, a plateau such as that of a
clamp), nor whether what is held should be. Pieces of linear functions, such as ReLU and maxima, are
linear here.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dncbm.bcos.inputs import negated
from dncbm.bcos.mode import Term, explanation_mode
from dncbm.errors import InvalidInput

_TOLERANCE = 1e-6
_LOOSE = 1e-2
"""Where the original computes in float32 or less whatever it is given."""
_FAILURES = (
    RuntimeError, AssertionError, AttributeError, IndexError, TypeError, ValueError,
)  # fmt: skip
"""What networks raise for what they do not take."""
_ADVICE = (
    "Its forward does what a walk over its layers cannot see (functional.gelu, a parameter that is "
    "added, a product of two branches). Say what it becomes with register_converter(type, "
    "function), or convert with check=False and know that explanations are not exact."
)

Conversion = Callable[[nn.Module], nn.Module]


def noise(original: nn.Module, network: nn.Module, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Pixels (1, 3, h, w) of the first size that both the original and the network take.

    The network, which reads six channels, may take more: without positions any size will do.

    Raises:
        InvalidInput: it takes none.
    """
    parameter = next(network.parameters())
    for height, width in sizes:
        pixels = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        pixels = pixels.to(parameter)
        try:
            with torch.no_grad():
                network(negated(pixels))
                original(pixels)
        except _FAILURES as failure:
            message = str(failure).splitlines()[0] if str(failure) else type(failure).__name__
            continue
        return pixels
    raise InvalidInput(
        f"The converted network takes no image of the sizes {list(sizes)}: {message!r}. It reads "
        "six channels; a forward that counts on three must be changed before the conversion."
    )


def check(original: nn.Module, network: nn.Module, exactly: Conversion, pixels: Tensor) -> None:
    """Try the three things above.

    Args:
        original: not changed.
        network: its conversion, for six channels.
        exactly: converts with `EXACT` options.
        pixels: (1, 3, h, w).

    Raises:
        InvalidInput: one of them fails; names the layer where it was first seen.
    """
    _check_function(original, exactly, pixels)
    trial = _in_double(network)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        wrong = _wrong(trial, negated(pixels.cpu().double()))
    if wrong is not None:
        raise InvalidInput(f"The converted network {wrong} {_ADVICE}")


def _in_double(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).cpu().double().eval().requires_grad_(False)


@torch.no_grad()
def _check_function(original: nn.Module, exactly: Conversion, pixels: Tensor) -> None:
    model, pixels = _in_double(original), pixels.cpu().double()
    tolerance = _TOLERANCE
    try:
        expected = model(pixels)
    except RuntimeError:  # it casts to float32 inside
        model, pixels, tolerance = model.float(), pixels.float(), _LOOSE
        expected = model(pixels)
    if not isinstance(expected, Tensor):
        raise InvalidInput(
            f"The network returns a {type(expected).__name__}; the rule is one tensor. "
            "Wrap it in a module that returns what is to be explained."
        )
    found = exactly(model)(negated(pixels))
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error <= tolerance:
        raise InvalidInput(
            "Converted with B = 1 and all biases, the network is not the same function: its "
            f"output is off by {error:.1e} of the largest. {_ADVICE}"
        )


class _Call(NamedTuple):
    """What one layer made of its input, with what was added meanwhile."""

    path: str
    kind: str
    input: Tensor
    output: Tensor
    terms: list[Term]


def _wrong(network: nn.Module, images: Tensor) -> str | None:
    images.requires_grad_()
    with explanation_mode() as terms:
        output = network(images)
        whole = _fault(images, output, list(terms))
        if whole is None:
            return None
        for call in _calls(network, images, terms):
            fault = _fault(call.input, call.output, call.terms)
            if fault is not None:
                return f"{fault} First seen in layer {call.path!r} ({call.kind})."
    return whole


def _fault(source: Tensor, output: Tensor, terms: list[Term]) -> str | None:
    generator = torch.Generator().manual_seed(1)
    row = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    parts = [source, *(term.value for term in terms)]
    grads = torch.autograd.grad(
        (output * row).sum(), parts, create_graph=True, allow_unused=True, materialize_grads=True
    )
    total = sum(((grad * part).sum() for grad, part in zip(grads, parts, strict=True)), start=0.0)
    gap = _share((output * row).sum() - total, (output * row).abs().sum())
    bend = _bend(grads[0], source, torch.randn(source.shape, generator=generator).to(source))
    if bend > _TOLERANCE:
        return "is not linear in explanation mode: its gradient depends on its input."
    if gap > _TOLERANCE:
        return f"is not the sum of its parts: {gap:.1e} of its output comes from elsewhere."
    return None


def _bend(grad: Tensor, source: Tensor, direction: Tensor) -> float:
    """How much the gradient changes with the input, as a share of it."""
    if not grad.requires_grad:
        return 0.0
    (change,) = torch.autograd.grad(
        (grad * direction).sum(), source, allow_unused=True, materialize_grads=True,
        retain_graph=True,
    )  # fmt: skip
    return _share(change.norm() * source.norm(), grad.norm() * direction.norm())


def _share(part: Any, whole: Tensor) -> float:
    return float((abs(part) / whole).detach()) if whole > 0 else 0.0


def _calls(network: nn.Module, images: Tensor, terms: list[Term]) -> Iterator[_Call]:
    """Calls of the layers within, the innermost first."""
    found: list[_Call] = []
    with _hooked(network, terms, found):
        network(images)
    yield from found


def _traced(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.requires_grad


@contextmanager
def _hooked(network: nn.Module, terms: list[Term], found: list[_Call]) -> Iterator[None]:
    marks: list[int] = []

    def before(module: nn.Module, inputs: Any) -> None:
        marks.append(len(terms))

    def after(path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        added = terms[marks.pop() :]
        source = inputs[0] if inputs else None
        if _traced(source) and _traced(output):
            found.append(_Call(path, type(module).__name__, source, output, added))

    hooks = []
    for path, module in network.named_modules():
        if path:
            hooks.append(module.register_forward_pre_hook(before))
            hooks.append(module.register_forward_hook(lambda *call, path=path: after(path, *call)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
