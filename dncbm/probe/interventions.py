"""What a head decides when it may not use some concepts: as it is, or fitted again without them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dncbm.errors import InvalidInput
from dncbm.probe.matrix import Codes, Labels
from dncbm.probe.model import Probe
from dncbm.probe.train import ProbeConfig, TrainedProbe, train_probe


def without(
    probe: Probe, concepts: Sequence[int], *, means: Float[Tensor, " c"] | None = None
) -> Probe:
    """The probe with the weights of some concepts at zero.

    Rao et al. (ECCV 2024, section on interventions) do this to heads without a bias. A fitted
    bias makes up for the average of every concept, so that taking concepts out tilts all
    decisions towards one class. With `means` the average stays in: the removed concepts count as
    if their codes were at their means in every image.

    Args:
        probe: any head.
        concepts: indices of the concepts to remove, in any order.
        means: mean code of each concept, for example over the training images.

    Raises:
        InvalidInput: a concept that the probe does not have, or means of another width.
    """
    chosen = _checked(probe, concepts)
    weights = probe.weights.clone()
    weights[:, chosen] = 0.0
    if means is None:
        return replace(probe, weights=weights)
    if means.shape != (probe.num_concepts,):
        raise InvalidInput(
            f"The means have shape {tuple(means.shape)}; give one for each of the "
            f"{probe.num_concepts} concepts."
        )
    average = probe.weights[:, chosen].double() @ means.to(probe.weights.device)[chosen].double()
    return replace(probe, weights=weights, bias=probe.bias + average.to(probe.bias.dtype))


def trained_without(
    concepts: Collection[int], codes: Mapping[str, Codes], labels: Mapping[str, Labels],
    classes: Sequence[str], config: ProbeConfig,
) -> TrainedProbe:  # fmt: skip
    """Heads fitted on codes of all concepts but some, whose weights are exactly zero.

    Args:
        concepts: indices of those that are left out.
        codes: by split, of all concepts.
        labels: by split.
        classes: their names.
        config: how to fit.

    Raises:
        InvalidInput: no concept is left.
    """
    width = next(iter(codes.values())).shape[1]
    kept = np.setdiff1d(np.arange(width), sorted(concepts))
    if not len(kept):
        raise InvalidInput(
            f"All {width} concepts are removed; a refit needs at least one. Remove fewer."
        )
    part = {split: table[:, kept] for split, table in codes.items()}
    trained = train_probe(part, labels, classes, config)

    def widened(head: Probe) -> Probe:
        weights = torch.zeros(head.num_classes, width, dtype=head.weights.dtype)
        weights[:, torch.from_numpy(kept)] = head.weights
        return replace(head, weights=weights)

    heads = {nec: widened(head) for nec, head in trained.nec_probes.items()}
    return replace(trained, probe=widened(trained.probe), nec_probes=heads)


def _checked(probe: Probe, concepts: Sequence[int]) -> Tensor:
    wrong = [concept for concept in concepts if not 0 <= concept < probe.num_concepts]
    if wrong:
        raise InvalidInput(
            f"Concept {wrong[0]} does not exist: the probe reads concepts 0 to "
            f"{probe.num_concepts - 1}."
        )
    return torch.tensor(sorted({int(concept) for concept in concepts}), dtype=torch.long)
