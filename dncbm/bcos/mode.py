"""Explanation mode: a network's forward pass as one linear map of its input.

Everything in a dynamic linear network that depends on the input and multiplies it (B-cos factors,
variances, attention) is held constant, so that the gradient of an output is the row W(x) of the map
that made it; and everything that is added (positions, biases) is written down, so that the sum of
all parts is the output. Values are the same in and out of the mode.

The mode belongs to the calling thread or task, not to the modules: two concurrent explanations of
one network never see each other's, and an exception leaves nothing switched on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["position", "bias"]


class Term(NamedTuple):
    """Something that a network added to what came from its input."""

    kind: Kind
    value: Tensor
    """(n, ...): a copy per image, so that its gradients are those of one image each."""


_terms: ContextVar[list[Term] | None] = ContextVar("bcos_terms", default=None)


@contextmanager
def explanation_mode() -> Iterator[list[Term]]:
    """Hold what multiplies and write down what is added; yields the list of terms.

    Re-entrant: an inner mode has its own list, and the outer one goes on after it.
    """
    terms: list[Term] = []
    token = _terms.set(terms)
    try:
        yield terms
    finally:
        _terms.reset(token)


def explaining() -> bool:
    """Whether this thread is in explanation mode."""
    return _terms.get() is not None


def held(value: Tensor) -> Tensor:
    """The value; in explanation mode a constant, whose gradient is 0."""
    return value.detach() if explaining() else value


def added(value: Tensor, batch: Tensor, kind: Kind) -> Tensor:
    """The value, to be added to something of `batch`; in explanation mode one copy per image.

    Args:
        value: what is added, without a batch axis.
        batch: its first axis is that of the images.
        kind: what it is reported as.
    """
    terms = _terms.get()
    if terms is None:
        return value
    return _recorded(terms, value.expand(len(batch), *value.shape), kind)


def added_to_each(values: Tensor, kind: Kind) -> Tensor:
    """As `added`, for values (n, ...) that differ between the images."""
    terms = _terms.get()
    return values if terms is None else _recorded(terms, values, kind)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _recorded(terms: list[Term], values: Tensor, kind: Kind) -> Tensor:
    """Outside of compiled graphs, which would hide how the values came into the output."""
    if not values.requires_grad:
        values = values.detach().requires_grad_()
    terms.append(Term(kind, values))
    return values


def with_gradient_of(value: Tensor, path: Tensor) -> Tensor:
    """The numbers of `value` (of a fused kernel, say) with the gradient of `path`, its equal."""
    return value.detach() + (path - path.detach())
