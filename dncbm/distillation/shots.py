"""Few photos per class: which ones."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from dncbm.errors import InvalidInput
from dncbm.training.photos import Photos
from dncbm.training.seeding import generator


def few_shots(
    photos: Photos, shots: int, seed: int = 42, names: Sequence[str] | None = None
) -> Photos:
    """So many training photos of each class, drawn by the seed; what is held out stays.

    A class's draw depends on the seed and on its own photos alone.

    Args:
        photos: with labels.
        shots: per class.
        seed: of the draw; 42 in e2KD.
        names: of the classes, for messages.

    Raises:
        InvalidInput: no labels, fewer than one shot, or a class with fewer photos than shots.
    """
    if shots < 1:
        raise InvalidInput(f"shots is {shots}; the rule is at least 1.")
    labels = photos.truth(photos.train).numpy()
    chosen = []
    for index in np.unique(labels[labels >= 0]).tolist():
        rows = photos.train[labels == index]
        if len(rows) < shots:
            name = names[index] if names else index
            raise InvalidInput(
                f"Class {name!r} has {len(rows)} training photo{'s' * (len(rows) != 1)}; {shots} "
                f"shots need {shots}. Give more photos of it, or take --shots {len(rows)}."
            )
        order = torch.randperm(len(rows), generator=generator(seed, "shots", index)).numpy()
        chosen.append(rows[order[:shots]])
    return replace(photos, train=np.sort(np.concatenate(chosen)))
