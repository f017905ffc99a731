"""The numbers that evaluate.py reports, as functions of embeddings."""

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

PROBE_STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3)
PROBE_ROWS = 5000  # for choosing the strength; the final fit takes every row


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of rows whose highest score is the label, in [0, 1]."""
    return round(float((scores.argmax(1) == labels).float().mean()), 4)


def linear_probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Test accuracy of logistic regression; its strength is chosen on training rows alone."""
    x, y = train.numpy(), train_labels.numpy()
    some = np.random.default_rng(0).permutation(len(x))[:PROBE_ROWS]
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    scores = [
        cross_val_score(_probe(c), x[some], y[some], cv=folds).mean() for c in PROBE_STRENGTHS
    ]
    best = PROBE_STRENGTHS[int(np.argmax(scores))]
    return round(float(_probe(best).fit(x, y).score(test.numpy(), test_labels.numpy())), 4)


def _probe(strength: float):  # type: ignore[no-untyped-def]
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))


def recall_image_to_text(similarity: Tensor, owner: Tensor, k: int) -> float:
    """Share of images (rows) with one of their own captions among the k most similar."""
    nearest = similarity.topk(k, 1).indices
    own = owner[nearest] == torch.arange(len(similarity))[:, None]
    return round(float(own.any(1).float().mean()), 4)


def recall_text_to_image(similarity: Tensor, owner: Tensor, k: int) -> float:
    """Share of captions (columns) whose photo is among the k most similar."""
    nearest = similarity.T.topk(k, 1).indices
    return round(float((nearest == owner[:, None]).any(1).float().mean()), 4)


def _cosines(vectors: Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    unit = torch.nn.functional.normalize(vectors, dim=1)
    return (unit[rows] @ unit[columns].T).numpy()


def similarity_spearman(
    own: Tensor, teacher: Tensor, rows: np.ndarray, columns: np.ndarray
) -> float:
    """Mean over rows of the rank correlation between own and teacher similarities to columns."""
    ours, theirs = _cosines(own, rows, columns), _cosines(teacher, rows, columns)
    keep = [columns != row for row in rows]  # a row's similarity to itself says nothing
    values = [spearmanr(a[m], b[m]).statistic for a, b, m in zip(ours, theirs, keep, strict=True)]
    return round(float(np.mean(values)), 4)


def neighbour_overlap(
    own: Tensor, teacher: Tensor, rows: np.ndarray, columns: np.ndarray, k: int = 10
) -> float:
    """Share of each row's k nearest columns that the teacher's k nearest hold too, in [0, 1]."""
    ours = np.argsort(-_cosines(own, rows, columns), 1)[:, :k]
    theirs = np.argsort(-_cosines(teacher, rows, columns), 1)[:, :k]
    shared = [len(set(a) & set(b)) / k for a, b in zip(ours, theirs, strict=True)]
    return round(float(np.mean(shared)), 4)
