"""Made-up content in the shapes of the API: a linear head over a few codes, so that sums hold."""

import base64
import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("Dress", "Shoes", "T-Shirt/Top & Co", "Hat")
HOSTILE = '<img src=x onerror="document.title=1">'
NAMES = ("red", "striped", HOSTILE, "lace", "sneaker", "sleeve", "red", "denim", "button")
ACTIVE = 8


@cache
def picture(seed: int) -> bytes:
    """A PNG of 32 x 32 pixels in one of a few colours."""
    colour = tuple(int(part) for part in np.random.default_rng(seed).integers(40, 220, 3))
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(stream, "PNG")
    return stream.getvalue()


def data_address(seed: int) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture(seed)).decode()}"


class Content:
    """A dictionary of `size` concepts and a model on top of it."""

    def __init__(self, size: int = 40) -> None:
        self.size = size
        self.is_laid_out = True
        draw = np.random.default_rng(3)
        self.weights = draw.normal(size=(len(CLASSES), size))
        self.bias = np.array([0.25, -0.5, 0.125, 0.0])
        self.codes = np.zeros(size)
        self.codes[:ACTIVE] = np.linspace(2.0, 0.5, ACTIVE)
        self.density = draw.beta(1, 12, size)
        self.places = draw.normal(size=(2, size))

    def name(self, concept: int) -> str:
        return NAMES[concept] if concept < len(NAMES) else f"concept {concept}"

    def status(self, concept: int) -> str:
        if concept < len(NAMES):
            return "named"
        return "blocked" if concept % 10 == 9 else "unnamed"

    def model(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "dictionary": name,
            "classes": list(CLASSES),
            "num_concepts": self.size,
            "effective_concepts": [5, 10],
        }

    def decide(
        self, changes: Mapping[int, float], listed: int, nec: int | None = None
    ) -> dict[str, Any]:
        codes = self.codes.copy()
        for concept, code in changes.items():
            codes[concept] = code
        weights = self.weights.copy()
        if nec is not None:
            weights[:, nec:] = 0
        logits = weights @ codes + self.bias
        shares = np.exp(logits - logits.max())
        shares /= shares.sum()
        order = np.argsort(-logits)
        scores = [self._score(int(k), weights, codes, logits, shares, listed) for k in order]
        return scores[0] | {"image": "photo.png", "alternatives": scores[1:]}

    def _score(
        self,
        k: int,
        weights: np.ndarray,
        codes: np.ndarray,
        logits: np.ndarray,
        shares: np.ndarray,
        listed: int,
    ) -> dict[str, Any]:
        parts = weights[k] * codes
        order = [int(c) for c in np.argsort(-np.abs(parts), kind="stable")[:listed] if parts[c]]
        return {
            "class": CLASSES[k],
            "class_index": k,
            "probability": float(shares[k]),
            "logit": float(logits[k]),
            "bias": float(self.bias[k]),
            "remainder": float(logits[k] - self.bias[k] - parts[order].sum()),
            "contributions": [
                {
                    "concept": c,
                    "name": self.name(c),
                    "code": float(codes[c]),
                    "weight": float(weights[k, c]),
                    "contribution": float(parts[c]),
                    "concepts": [],
                }
                for c in order
            ],
        }

    def by_name(self, found: dict[str, Any]) -> dict[str, Any]:
        """The account of the best class with one part for the two concepts called red."""
        parts = found["contributions"]
        red = [part for part in parts if part["name"] == "red"]
        code, total = (sum(part[key] for part in red) for key in ("code", "contribution"))
        concepts = [part["concept"] for part in red]
        whole = red[0] | {"name": "re", "code": code, "contribution": total, "concepts": concepts}
        return found | {"contributions": [whole, *(part for part in parts if part not in red)]}

    def intervene(self, changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        codes: dict[int, float] = {}
        for change in changes:
            concept = int(change["concept"])
            scaled = self.codes[concept] * change.get("scale", 0.0)
            codes[concept] = float(change.get("set", scaled))
        changed = [
            {
                "concept": concept,
                "name": self.name(concept),
                "code_before": float(self.codes[concept]),
                "code_after": code,
            }
            for concept, code in codes.items()
        ]
        return {
            "image": "photo.png",
            "before": self.decide({}, 200),
            "after": self.decide(codes, 200),
            "changed": changed,
        }

    def weights_of(self, name: str) -> list[dict[str, Any]]:
        row = self.weights[CLASSES.index(name)]
        return [
            {"concept": int(c), "name": self.name(int(c)), "weight": float(row[c])}
            for c in np.argsort(-np.abs(row))
        ]

    def concept(self, index: int) -> dict[str, Any]:
        return {
            "concept": index,
            "name": self.name(index),
            "status": self.status(index),
            "score": 0.9 - index / (2 * self.size),
            "margin": 0.01,
            "group": index,
            "density": float(self.density[index]),
            "mean_code": 1.5,
            "max_code": 4.0 if index % 7 else None,
        }

    def detail(self, index: int) -> dict[str, Any]:
        classes = [
            {"class": name, "weight": float(self.weights[k, index])}
            for k, name in enumerate(CLASSES)
        ]
        return self.concept(index) | {
            "alternatives": [{"name": "trainer", "score": 0.4}, {"name": HOSTILE, "score": 0.3}],
            "histogram": {"edges": [0.0, 1.0, 2.0, 3.0], "counts": [90, 20, 3]},
            "classes": sorted(classes, key=lambda one: -abs(one["weight"])),
        }

    def find(self, name: str, status: str, sort: str) -> list[dict[str, Any]]:
        found = [
            self.concept(index)
            for index in range(self.size)
            if name.lower() in self.name(index).lower() and status in ("", self.status(index))
        ]
        if sort != "concept":
            found.sort(key=lambda one: -(one[sort] or 0))
        return found

    def example(self, concept: int, rank: int) -> dict[str, Any]:
        row = 10 * concept + rank
        return {
            "rank": rank,
            "row": row,
            "item_id": f"photos/{row}.jpg",
            "code": 4.0 - rank / 2,
            "thumbnail": None if rank == 5 else f"/v1/dictionaries/d/thumbnails/{row}.jpg",
        }

    def evaluation(self) -> dict[str, Any]:
        counts = np.full((len(CLASSES), len(CLASSES)), 2) + 20 * np.eye(len(CLASSES), dtype=int)
        counts[3, 0] = 0
        bins = [
            {"confidence": level, "accuracy": level - 0.05, "images": 10}
            for level in (0.35, 0.55, 0.75, 0.95)
        ]
        push = {"concept": 4, "name": "sneaker", "contribution": 0.8}
        return {
            "accuracy": 0.78,
            "images": 104,
            "split": "test",
            "nec": [
                {"effective_concepts": 5, "accuracy": 0.7},
                {"effective_concepts": 10, "accuracy": 0.75},
            ],
            "calibration": {"ece": 0.08, "ece_calibrated": 0.04, "temperature": 1.3, "bins": bins},
            "random_control": {"accuracy": 0.31},
            "confusion": {"classes": list(CLASSES), "counts": counts.tolist()},
            "confused_by": [
                {"true": "Dress", "predicted": "Shoes", "images": 2, "concepts": [push]}
            ],
        }

    def plane(self) -> dict[str, Any]:
        return {
            "method": "pca+tsne" if self.is_laid_out else "pca",
            "is_final": self.is_laid_out,
            "concepts": list(range(self.size)),
            "names": [self.name(index) for index in range(self.size)],
            "x": self.places[0].tolist(),
            "y": self.places[1].tolist(),
            "density": self.density.tolist(),
        }

    def edit_evaluation(self) -> dict[str, Any]:
        classes = [
            {"class": name, "images": 26, "accuracy_before": 0.7, "accuracy_after": 0.65 + k / 20}
            for k, name in enumerate(CLASSES)
        ]
        return {
            "split": "test",
            "images": 104,
            "accuracy_before": 0.78,
            "accuracy_after": 0.76,
            "per_class": classes,
            "heads": [
                {"head": head, "accuracy_before": 0.78, "accuracy_after": 0.76}
                for head in ("dense", "nec5")
            ],
            "removals": [{"concept": 4, "name": "sneaker", "cost": 0.02}],
        }

    def job(self, name: str) -> dict[str, Any]:
        stages = [
            {
                "name": stage,
                "status": "waiting",
                "done": 0,
                "total": 100,
                "rate": None,
                "eta_seconds": None,
                "error": None,
            }
            for stage in ("embed", "discover", "name")
        ]
        return {
            "id": name,
            "status": "queued",
            "created": "2026-11-29T20:00:00Z",
            "started": None,
            "finished": None,
            "stages": stages,
            "error": None,
            "model": None,
        }

    def shift(self, index: int) -> dict[str, Any]:
        return {
            "concept": index,
            "name": self.name(index),
            "density_training": 0.1 * index,
            "density_live": 0.35 - 0.1 * index,
            "mean_training": 1.2,
            "mean_live": 0.9,
            "shift": 0.3 - 0.2 * index,
            "p_value": 0.0004,
            "examples": [self.example(index, rank) for rank in range(3)],
        }
