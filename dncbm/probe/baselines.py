"""What the bottleneck is measured against, on the same embeddings: zero-shot, linear probe."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dncbm.errors import InvalidInput
from dncbm.probe.loss import Design, unscale
from dncbm.probe.matrix import Labels, class_indices
from dncbm.probe.memo import Memo
from dncbm.probe.metrics import accuracy
from dncbm.probe.select import Bench, ridge_path
from dncbm.probe.solvers import SolverOptions
from dncbm.probe.splits import HoldOut, prepare_splits
from dncbm.training.progress import Progress, no_progress

_DEFAULT_STRENGTH = 3


def zero_shot_accuracy(embeddings: Any, text_embeddings: Any, labels: Labels) -> float:
    """Share of images whose nearest class text, by cosine, is their class.

    Args:
        embeddings: image embeddings (n, d), any norm.
        text_embeddings: one text embedding per class (k, d), any norm.
        labels: class index per image.

    Raises:
        InvalidInput: no images, other widths, NaN, or labels outside the classes.
    """
    images, texts = _unit_rows(embeddings, "embeddings"), _unit_rows(text_embeddings, "texts")
    if images.shape[1] != texts.shape[1]:
        raise InvalidInput(
            f"Image embeddings have width {images.shape[1]}, text embeddings {texts.shape[1]}; "
            "both must come from the same encoder."
        )
    indices = class_indices(labels, [str(index) for index in range(texts.shape[0])])
    if len(indices) != len(images):
        raise InvalidInput(f"{len(images)} embeddings, but {len(indices)} labels; give one each.")
    return accuracy(images @ texts.T, indices)


def linear_probe_accuracy(
    embeddings: Any,
    labels: Labels | Mapping[str, Labels],
    classes: Sequence[str],
    *,
    seed: int = 0,
    balanced: bool = False,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Accuracy by split of multinomial logistic regression on standardised embeddings.

    The L2 penalty is chosen on validation by the rule that also chooses the dense probe.

    Args:
        embeddings: (n, d) of each split, `{"train": ..., "validation": ..., "test": ...}`; as
            for `train_probe`, validation is held out of train where it is missing.
        labels: class index or name per row, in the same form.
        classes: names of the k classes.
        seed: of the held-out rows.
        balanced: weigh classes equally instead of images.
        progress: called as `progress(stage, done, total)`.

    Raises:
        InvalidInput: as `train_probe`.
    """
    splits = prepare_splits(
        embeddings, labels, classes, options=HoldOut(seed=seed), dtype="float64"
    )
    train = splits.train
    spread = np.asarray(np.std(_dense(train.matrix), axis=0))
    spread = np.where(spread > 0, spread, 1.0)
    design = Design.build(train.matrix, train.labels, len(classes), scale=spread, balanced=balanced)
    bench = Bench(
        validation=splits.validation,
        memo=Memo(None, ""),
        options=SolverOptions(),
        progress=progress,
    )
    chosen = bench.best(ridge_path(bench, design, "baseline"), default=_DEFAULT_STRENGTH)
    weights, bias = unscale(design, chosen.solution.weights, chosen.solution.bias)
    return {
        name: accuracy(split.matrix @ weights.T + bias, split.labels)
        for name, split in splits.named().items()
    }


def _dense(matrix: Any) -> Float[np.ndarray, "n d"]:
    return matrix.toarray() if hasattr(matrix, "toarray") else matrix


def _unit_rows(values: Any, what: str) -> Float[np.ndarray, "n d"]:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
        raise InvalidInput(
            f"The {what} must be a non-empty finite matrix, got shape {tuple(array.shape)}."
        )
    array = array.astype(np.float64)
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
