"""Small vocabularies and a fake text encoder."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from dncbm.naming import exact
from dncbm.naming.vocabulary import Vocabulary

WORDS = ("dog", "cat", "red car", "tree", "striped shirt", "river", "lamp", "Eiffel Tower")


def fake_texts(texts: Sequence[str], *, templates: Sequence[str] = ("{}",)) -> Tensor:
    """Embeddings that depend on nothing but the text."""
    rows = []
    for text in texts:
        filled = "|".join(template.format(text) for template in templates)
        seed = int.from_bytes(hashlib.sha256(filled.encode()).digest()[:4], "big")
        rows.append(np.random.default_rng(seed).normal(size=16))
    return torch.from_numpy(np.array(rows)).float() + 0.5


@pytest.fixture
def encode_texts() -> Callable[..., Tensor]:
    return fake_texts


def make_vocabulary(words: Sequence[str], embeddings: Tensor | np.ndarray) -> Vocabulary:
    rows = torch.as_tensor(np.asarray(embeddings), dtype=torch.float32)
    return Vocabulary(
        words=tuple(words),
        embeddings=rows / rows.norm(dim=1, keepdim=True),
        templates=("{}",),
        encoder_fingerprint="e" * 64,
    )


@pytest.fixture
def vocabulary(rng: np.random.Generator) -> Vocabulary:
    return make_vocabulary([f"word {i}" for i in range(40)], rng.normal(size=(40, 12)) + 1.0)


def unit(rng: np.random.Generator, rows: int, width: int) -> torch.Tensor:
    values = torch.from_numpy(rng.normal(size=(rows, width)).astype(np.float32))
    return values / values.norm(dim=1, keepdim=True)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact search in so small pieces that every border is met."""
    monkeypatch.setattr(exact, "BLOCK", 64)
    monkeypatch.setattr(exact, "_TILE", 7)
    monkeypatch.setattr(exact, "_REACH", 3)
    monkeypatch.setattr(exact, "_FOLD", 4)
    monkeypatch.setattr(exact, "_SHAPES", 5)
    monkeypatch.setattr(exact, "_HELD", 16)
