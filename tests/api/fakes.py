"""A small model with the interface of `dncbm.predictor.Predictor`, made of real formulas."""

import io
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from dncbm.types import ConceptName, Contribution, Prediction

CLASSES = ("Dress", "Shoes", "T-Shirt/Top & Co")
HOSTILE = '<img src=x onerror="alert(1)">'
NUM_CONCEPTS = 12


def make_names() -> list[ConceptName]:
    names = ["red", "striped", HOSTILE, "lace", "sneaker", "sleeve", "red", "denim", "button"]
    named = [
        ConceptName(
            concept=index,
            name=name,
            score=0.9 - index / 20,
            margin=0.01,
            alternatives=(("other", 0.2), ("another", 0.1)),
            status="named",
            group=0 if name == "red" else index,
        )
        for index, name in enumerate(names)
    ]
    rest = [
        ConceptName(
            concept=index,
            name=f"concept {index}",
            score=0.1,
            margin=0.0,
            alternatives=(),
            status="blocked" if index == 11 else "unnamed",
            group=index,
        )
        for index in range(9, NUM_CONCEPTS)
    ]
    return named + rest


def make_dictionary() -> SimpleNamespace:
    density = np.linspace(0.5, 0.0, NUM_CONCEPTS)
    statistics = pa.table(
        {
            "concept": np.arange(NUM_CONCEPTS),
            "density": density,
            "mean_code": density * 2,
            "max_code": np.where(density > 0, 5 - density, np.nan),
        }
    )
    examples = pa.table(
        {
            "concept": [1, 0, 0, 0],
            "rank": [0, 1, 0, 2],
            "item_id": ["a/4.jpg", "b/2.jpg", "c/9.jpg", "../../etc/passwd"],
            "row": [4, 2, 9, 7],
            "code": np.array([3.0, 2.0, 2.5, 1.0], dtype=np.float32),
        }
    )
    directions = torch.nn.functional.normalize(
        torch.randn(NUM_CONCEPTS, 12, generator=torch.Generator().manual_seed(5)), dim=1
    )
    return SimpleNamespace(
        names=make_names(), statistics=statistics, examples=examples, directions=directions
    )


class FakePredictor:
    """Codes are colour statistics of the image; everything after them is the true formula."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(3)
        weights = torch.randn(len(CLASSES), NUM_CONCEPTS, generator=draw)
        weights[:, 10:] = 0
        probe = SimpleNamespace(weights=weights, bias=torch.tensor([0.25, -0.5, 0.125]))
        sparse = weights * (weights.abs() >= weights.abs().topk(5, dim=1).values[:, -1:])
        self.classes = CLASSES
        self.dictionary = make_dictionary()
        self.sae = None  # the true one is asked in test_browse
        self.cbm = SimpleNamespace(
            probe=probe,
            nec_probes={5: SimpleNamespace(weights=sparse, bias=probe.bias)},
            metrics={"accuracy": {"test": {"dense": 0.5, "nec5": 0.25}}},
        )
        self.gate: threading.Event | None = None
        self.entered = threading.Semaphore(0)
        self.running = 0
        self.most_running = 0
        self.calls: list[int] = []
        self._lock = threading.Lock()

    def predict(
        self,
        images: Sequence[Image.Image],
        *,
        top_contributions: int = 5,
        top_classes: int = 1,
        nec: int | None = None,
        by: str = "concept",  # the true predictor is asked by name in test_real_model
    ) -> list[list[Prediction]]:
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            self.calls.append(len(images))
        self.entered.release()
        if self.gate is not None:
            assert self.gate.wait(20)
        probe = self.cbm.probe if nec is None else self.cbm.nec_probes[nec]
        rows = [codes_of(image) for image in images]
        answer = [_ranking(row, probe, top_contributions)[:top_classes] for row in rows]
        with self._lock:
            self.running -= 1
        return answer

    def embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return torch.stack([codes_of(image) for image in images])

    def encode(self, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings

    def predict_codes(
        self, codes: torch.Tensor, *, top_contributions: int, top_classes: int, nec: int | None
    ) -> list[list[Prediction]]:
        probe = self.cbm.probe if nec is None else self.cbm.nec_probes[nec]
        return [_ranking(row, probe, top_contributions)[:top_classes] for row in codes]

    def explain(self, images: Sequence[Image.Image], **_: Any) -> list[list[Any]]:
        raise NotImplementedError  # the true predictor is asked in test_real_model

    def seen(self, image: Image.Image) -> np.ndarray:
        raise NotImplementedError

    def search(self, text: str, *, limit: int) -> list[tuple[int, float]]:
        if text == "boom":
            raise RuntimeError("secret internals")
        scored = [(item.concept, item.score) for item in self.dictionary.names]
        return sorted(scored, key=lambda pair: (text not in make_names()[pair[0]].name, -pair[1]))[
            :limit
        ]

    def describe(self) -> dict[str, Any]:
        return {"encoder": "mini", "metrics": {"accuracy": 0.5}, "nec": [5]}


def codes_of(image: Image.Image) -> torch.Tensor:
    pixels = np.asarray(image.convert("RGB").resize((2, 2)), dtype=np.float32) / 255
    return torch.from_numpy(pixels.reshape(-1).copy())


def _ranking(codes: torch.Tensor, probe: Any, top: int) -> list[Prediction]:
    logits = probe.weights @ codes + probe.bias
    order = torch.argsort(-logits).tolist()
    return [_prediction(k, codes, logits, probe, top) for k in order]


def _prediction(k: int, codes: torch.Tensor, logits: torch.Tensor, probe: Any, top: int) -> Any:
    parts = codes * probe.weights[k]
    chosen = torch.argsort(-parts.abs(), stable=True)[:top].tolist()
    names = make_names()
    listed = tuple(
        Contribution(
            concept=c,
            name=names[c].name,
            code=float(codes[c]),
            weight=float(probe.weights[k, c]),
            contribution=float(codes[c]) * float(probe.weights[k, c]),
        )
        for c in chosen
    )
    partial = float(probe.bias[k])
    for part in listed:
        partial += part.contribution
    logit = float(logits[k])
    return Prediction(
        class_name=CLASSES[k],
        class_index=k,
        probability=float(torch.softmax(logits, 0)[k]),
        logit=logit,
        bias=float(probe.bias[k]),
        remainder=logit - partial,
        contributions=listed,
    )


def png(colour: tuple[int, ...] = (200, 30, 30), size: tuple[int, int] = (24, 16)) -> bytes:
    return save(Image.new("RGB", size, colour[:3]), "PNG")


def photo(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return save(Image.fromarray(pixels), "PNG")


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def make_model_directory(root: Path, *, report: bool = True) -> Path:
    """The files that the service itself reads; the rest is the predictor's business."""
    (root / "cbm").mkdir(parents=True)
    (root / "cbm" / "manifest.json").write_text("{}")
    thumbnails = root / "dictionary" / "thumbnails"
    thumbnails.mkdir(parents=True)
    (thumbnails / "4.jpg").write_bytes(save(Image.new("RGB", (8, 8), "red"), "JPEG"))
    if report:
        (root / "report").mkdir()
        (root / "report" / "report.html").write_text("<!doctype html><title>report</title>")
    (root / "secret.txt").write_text("top secret")
    return root
