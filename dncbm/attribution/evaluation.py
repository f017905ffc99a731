"""What methods share that only evaluate: many variants of the same images, a bounded batch each."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.attribution.layers import Split
from dncbm.bcos.explain import Targets, target_values
from dncbm.errors import InvalidInput


def refuse_training(name: str, create_graph: bool) -> None:
    """Say which methods can be trained through, where that is asked of one that cannot.

    Raises:
        InvalidInput: it is.
    """
    if create_graph:
        from dncbm.attribution.catalogue import METHODS  # it lists the methods that call this

        able = ", ".join(info.name for info in METHODS.values() if info.differentiable)
        raise InvalidInput(
            f"Maps of {name} cannot be trained through (create_graph). Choose one of: {able}."
        )


def settled(split: Split, targets: Targets | None) -> Targets:
    """The targets; where none were given, the best class of each image as it is."""
    if targets is not None:
        return targets
    with torch.no_grad():
        return split.explain(split.features).argmax(dim=1)


def values_of(output: Tensor, targets: Targets, images: int) -> Float[Tensor, "k n t"]:
    """Targets of k variants of n images, which lie after each other in the output."""
    return torch.stack([target_values(part, targets) for part in output.split(images)])


Masks = Callable[[slice], Float[Tensor, "k #n #d #y #x"]]
"""Some of a row of masks: 1 keeps what is there, 0 puts the baseline there."""


def masked_values(
    split: Split,
    masks: Masks,
    count: int,
    targets: Targets,
    *,
    baseline: Tensor | float = 0.0,
    batch_size: int,
) -> Iterator[tuple[Float[Tensor, "k #n #d #y #x"], Float[Tensor, "k n t"]]]:
    """Some masks and the targets under each; all targets from the same forward passes.

    Args:
        split: where features are masked.
        masks: those of some places in their row.
        count: how many there are.
        targets: settled.
        baseline: what stands where a mask is 0.
        batch_size: most images in one forward pass, but at least one mask of all images.

    Raises:
        InvalidInput: a batch without images.
    """
    if batch_size < 1:
        raise InvalidInput(f"batch_size is {batch_size}; the rule is at least 1.")
    features = split.features.detach()
    at_once = max(1, batch_size // len(features))
    for start in range(0, count, at_once):
        kept = masks(slice(start, min(start + at_once, count))).to(features)
        changed = features * kept + baseline * (1 - kept)
        output = split.explain(changed.flatten(0, 1))
        yield kept, values_of(output, targets, len(features))
