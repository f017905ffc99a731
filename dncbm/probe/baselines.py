"""What the bottleneck is measured against, on the same embeddings: zero-shot, linear probe."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from torch import Tensor

from dncbm.errors import InvalidInput
from dncbm.probe.loss import Design, unscale
from dncbm.probe.matrix import Labels, check_same_length, class_indices, code_matrix, column_rms
from dncbm.probe.memo import Memo
from dncbm.probe.metrics import accuracy
from dncbm.probe.select import DEFAULT_RIDGE, Bench, best_dense, dense_fits
from dncbm.probe.solvers import SolverOptions
from dncbm.probe.splits import Splits, hold_out, named_splits, prepare_splits, stratified_rows
from dncbm.probe.train import ProbeConfig
from dncbm.training.progress import Progress, no_progress
from dncbm.training.threads import threads_for

MOST_ROWS = 200_000
"""The linear probe is fitted on a sample of at most about this many training rows."""
_BLOCK_ROWS = 16_384
_ROUNDING = 1e-6


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
    config: ProbeConfig,
    *,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Accuracy by split of softmax regression on embeddings, chosen as the dense probe is.

    The candidates are L2 fits in the same two scalings (each coordinate by its standard
    deviation; one scale for all), judged by the same rule on the same held-out rows. Beyond
    200,000 training rows the fit is on a seeded stratified sample of that size, in float32.

    Args:
        embeddings: (n, d) of each split, `{"train": ..., "validation": ..., "test": ...}`; as
            for `train_probe`, validation is held out of train where it is missing.
        labels: class index or name per row, in the same form.
        classes: names of the k classes.
        config: that of the probe to compare with; its `balanced`, `validation_fraction`,
            `seed`, `precision`, `tolerance` and `max_iterations` are used.
        progress: called as `progress(stage, done, total)`.

    Returns:
        Accuracy in [0, 1] by split (`train`: of the rows of the fit), and `fitted_rows`, their
        number.

    Raises:
        InvalidInput: as `train_probe`.
    """
    given = named_splits(embeddings, labels)
    parts = {
        name: (_array(values), class_indices(y, classes)) for name, (values, y) in given.items()
    }
    for name, (values, indices) in parts.items():
        check_same_length(values, indices, name)
    tested = parts.pop("test", None)
    sampled = len(parts["train"][1]) > MOST_ROWS
    if sampled:
        parts = _sampled(parts, config)
    splits = prepare_splits(
        {name: values for name, (values, _) in parts.items()},
        {name: indices for name, (_, indices) in parts.items()},
        classes,
        options=config.hold_out_options(),
        dtype="float32" if sampled else config.precision,
    )
    with threads_for(splits.train.matrix.shape[0] * splits.train.matrix.shape[1] * len(classes)):
        weights, bias = _fit(splits, len(classes), config, progress)
    measured = {name: (split.matrix, split.labels) for name, split in splits.named().items()}
    if tested is not None and len(tested[1]):
        _check_width(tested[0], weights.shape[1])
        measured["test"] = tested
    found = {name: _accuracy(*part, weights, bias) for name, part in measured.items()}
    return found | {"fitted_rows": float(len(splits.train.labels))}


_Part = tuple[Any, Int[np.ndarray, "_"]]  # each split has its own number of rows


def _sampled(parts: Mapping[str, _Part], config: ProbeConfig) -> dict[str, _Part]:
    """Train cut to a stratified sample, after the rows that `train_probe` holds out."""
    values, labels = parts["train"]
    held = parts.get("validation")
    kept = np.arange(len(labels))
    if held is None or not len(held[1]):
        out = hold_out(labels, config.validation_fraction, config.seed)
        held, kept = (values[np.flatnonzero(out)], labels[out]), np.flatnonzero(~out)
    rows = kept[stratified_rows(labels[kept], MOST_ROWS, config.seed)]
    return {"train": (values[rows], labels[rows]), "validation": held}


def _fit(
    splits: Splits, num_classes: int, config: ProbeConfig, progress: Progress
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"]]:
    train = splits.train
    dense = train.matrix.toarray() if sp.issparse(train.matrix) else train.matrix
    spread = np.std(dense, axis=0, dtype=np.float64)
    # A constant coordinate has a spread of rounding errors, which is no scale.
    moves = spread > _ROUNDING * column_rms(train.matrix)
    spread = np.where(moves, spread, 1.0).astype(dense.dtype)
    design = Design.build(
        train.matrix, train.labels, num_classes, scale=spread, balanced=config.balanced
    )
    options = SolverOptions(tolerance=config.tolerance, max_iterations=config.max_iterations)
    bench = Bench(
        validation=splits.validation, memo=Memo(None, ""), options=options, progress=progress
    )
    chosen = best_dense(bench, dense_fits(bench, design), DEFAULT_RIDGE)
    return unscale(chosen.design, chosen.solution.weights, chosen.solution.bias)


def _accuracy(
    values: Any,
    labels: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, "k d"],
    bias: Float[np.ndarray, " k"],
) -> float:
    """Accuracy in blocks of rows, so that no copy of all rows is made."""
    right = 0
    for start in range(0, len(labels), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        block = code_matrix(values[rows], what="embeddings")
        right += int(((block @ weights.T + bias).argmax(axis=1) == labels[rows]).sum())
    return right / len(labels)


def _array(values: Any) -> Any:
    """Rows that can be taken by slice and by index."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = values.tocsr() if sp.issparse(values) else np.asarray(values)
    if array.ndim != 2:
        raise InvalidInput(
            f"The embeddings have shape {tuple(array.shape)}; expected (images, width)."
        )
    return array


def _check_width(values: Any, width: int) -> None:
    if values.shape[1] != width:
        raise InvalidInput(
            f"Train embeddings have width {width}, test embeddings {values.shape[1]}; "
            "both must come from the same encoder."
        )


def _unit_rows(values: Any, what: str) -> Float[np.ndarray, "n d"]:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
        raise InvalidInput(
            f"The {what} must be a non-empty finite matrix, got shape {tuple(array.shape)}."
        )
    array = array.astype(np.float64)
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
