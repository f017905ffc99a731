"""Quick looks at a run on photos that do not teach: never a test photo of CIFAR or clothing."""

from typing import TYPE_CHECKING

import batches
import torch
from torch import Tensor
from torch.nn import functional

from dncbm.training.precision import products

if TYPE_CHECKING:
    from train import Curriculum, ImageLearner

SIDE = 96


@torch.inference_mode()
def embed(learner: "ImageLearner", source: batches.Source, rows: Tensor) -> Tensor:
    """Unit embeddings ``[n, 256]`` of centre crops."""
    parts = []
    for chosen in rows.split(128):
        pixels = batches.centre_crops(
            batches.pixels_of(source, chosen), source.aspect[chosen], SIDE
        )
        with products("auto", "cpu"):
            parts.append(learner.visual(batches.normalised(pixels)).float())
    return functional.normalize(torch.cat(parts), dim=1)


@torch.inference_mode()
def accuracies(learner: "ImageLearner", curriculum: "Curriculum") -> dict[str, float]:
    """Zero-shot and ridge-probe accuracy, and retrieval recall, all on watched rows."""
    out = {}
    for name in ("cifar", "clothing"):
        source = curriculum.sources[name]
        labels = _label_index(curriculum, name)
        images = embed(learner, source, source.watch)
        texts = learner.texts(curriculum.names[name].features[:, 1])
        out[f"{name} zero-shot"] = _accuracy(images @ texts.T, labels[source.watch])
        rows = source.train[:: max(1, len(source.train) // 2000)]
        scores = _ridge(embed(learner, source, rows), labels[rows], images)
        out[f"{name} probe"] = _accuracy(scores, labels[source.watch])
    out["flickr caption R@5"] = _recall(learner, curriculum, 5)
    return {key: round(value, 4) for key, value in out.items()}


def _label_index(curriculum: "Curriculum", name: str) -> Tensor:
    table = curriculum.label_rows[name]
    return torch.tensor([table[label] for label in curriculum.sources[name].labels])


def _accuracy(scores: Tensor, labels: Tensor) -> float:
    return float((scores.argmax(1) == labels).float().mean())


def _ridge(train: Tensor, labels: Tensor, test: Tensor, penalty: float = 1e-2) -> Tensor:
    """Scores ``[n, K]`` of a ridge regression onto one-hot labels."""
    mean = train.mean(0)
    x, y = train - mean, functional.one_hot(labels).float()
    gram = x.T @ x / len(x) + penalty * torch.eye(x.shape[1]) / x.shape[1]
    weight = torch.linalg.solve(gram, x.T @ (y - y.mean(0)) / len(x))
    return (test - mean) @ weight + y.mean(0)


def _recall(learner: "ImageLearner", curriculum: "Curriculum", k: int) -> float:
    """Share of watched Flickr photos with one of their own captions among the k nearest."""
    source = curriculum.sources["flickr"]
    images = embed(learner, source, source.watch)
    captions = [source.captions[i] for i in source.watch.tolist()]
    owner = torch.tensor([i for i, group in enumerate(captions) for _ in group])
    texts = learner.texts(curriculum.watch_captions)
    nearest = (images @ texts.T).topk(k, 1).indices
    return float((owner[nearest] == torch.arange(len(images))[:, None]).any(1).float().mean())
