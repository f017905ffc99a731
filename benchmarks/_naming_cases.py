"""Sets of concepts whose names can be judged, and the judge.

A concept is *class-like* if at least 60 % of its code mass on half of the labelled images lies in
one class; the other half makes its prototype. Its name is right if it, or its head noun, is a word
for that class in `class_words.json`: names of the class and their hyponyms in WordNet 3.1, without
words that mostly mean something else (a "crane", a "toy"). Concepts that several classes share are
not judged.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from dncbm.data.planted import planted_dictionary, planted_embeddings
from dncbm.encoders.artifact import load_embeddings
from dncbm.naming.assign import Naming
from dncbm.naming.trust import class_owners, precision_at_coverage
from dncbm.naming.vocabulary import Vocabulary, load_vocabulary
from dncbm.sae.encode import encode_rows
from dncbm.sae.store import load_sae
from dncbm.types import ConceptName

HERE = Path(__file__).parent
_SEPARATORS = (" in ", " on ", " with ", " under ", " at ")
_WEARERS = ("person", "woman", "man")


@dataclass(frozen=True, slots=True)
class Case:
    """Labelled images, their codes, and words; `classes` maps a name to the class it means."""

    name: str
    images: Tensor
    codes: sp.csr_matrix
    labels: np.ndarray
    """(n,) class index or -1."""
    classes: Sequence[str]
    dictionary: Tensor
    vocabulary: Vocabulary
    class_texts: Tensor
    meaning: Callable[[str], str | None]
    """The class that a name means, or None."""


def class_words() -> dict[str, set[str]]:
    """Class → words that name it."""
    table = json.loads((HERE / "class_words.json").read_text())
    return {name: set(words.split(", ")) for name, words in table.items()}


def plain(name: str) -> str:
    """Without what stands in brackets: "car (automobile)" is a car, "pug-dog" a pug dog."""
    bare = re.sub(r"\s*\(.*?\)", "", name).strip()
    return bare if bare == "t-shirt" else bare.replace("-", " ").replace("t shirt", "t-shirt")


def head_noun(name: str) -> str:
    """The last word before a preposition: "wild deer in a field" is about a deer.

    Of "woman in red dress" it is the dress: the classes are garments.
    """
    for separator in _SEPARATORS:
        first, _, rest = name.partition(separator)
        name = rest if rest and first in _WEARERS else first
    return name.split()[-1]


def _meaning(classes: Sequence[str]) -> Callable[[str], str | None]:
    words = {name: some for name, some in class_words().items() if name in set(classes)}

    def means(name: str) -> str | None:
        spelt = plain(name)
        forms = {spelt, head_noun(spelt)} if spelt else set()
        return next((cls for cls, known in words.items() if forms & known), None)

    return means


def _numbered(labels: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Classes that can be judged, and the index of each image's class (-1 for others)."""
    classes = sorted(set(class_words()) & set(labels))
    return classes, np.array([classes.index(x) if x in classes else -1 for x in labels])


def quickstart_case(folder: Path) -> Case:
    """The train photos of a model directory that `dncbm quickstart` left."""
    from dncbm.encoders.clip import load_encoder

    embeddings = load_embeddings(folder / "embeddings")
    rows = embeddings.rows("train")
    known = embeddings.labels()
    classes, labels = _numbered([str(known[row]) for row in rows])
    images, model = torch.from_numpy(embeddings.load(rows)), load_sae(folder / "sae").model.eval()
    return Case(
        folder.name.removeprefix("f_"),
        images,
        encode_rows(model, images),
        labels,
        classes,
        model.dictionary.detach(),
        load_vocabulary(folder / "vocabulary"),
        load_encoder("mini").encode_texts(classes, templates=("a photo of a {}.", "{}")),
        _meaning(classes),
    )


def clip_case(folder: Path) -> Case:
    """True CLIP embeddings of 864 photos, of which 500 are labelled; 1,612 names."""
    sys.path.insert(0, str(HERE.parent / "examples"))
    import true_clip_names as source

    images, names = source.read_images(folder)
    model, vocabulary = source.train(images, 600, "default"), source.read_vocabulary(folder)
    classes, labels = _numbered(list(names))
    texts = [vocabulary.words.index(source.PLAIN[name]) for name in classes]
    return Case(
        "true CLIP",
        images,
        encode_rows(model, images),
        labels,
        classes,
        model.dictionary.detach(),
        vocabulary,
        vocabulary.embeddings[texts],
        _meaning(classes),
    )


def planted_case(*, concepts: int = 512, width: int = 128, rows: int = 8000, seed: int = 0) -> Case:
    """Planted concepts, each a class; words in a cone of their own, some near to everything.

    The dictionary rows are the planted ones under noise that images average out, as rows of an
    autoencoder that correct each other. Every concept has its word and three phrases with it.
    """
    draw = torch.Generator().manual_seed(seed)
    truth = planted_dictionary(concepts, width, seed=seed)
    images, codes = planted_embeddings(truth, rows, active=(1, 4), noise=0.3, seed=seed, offset=1.0)
    cone = torch.randn(width, generator=draw) * 2.0 / width**0.5
    others = torch.randint(concepts, (3, concepts), generator=draw)
    near = [truth + 0.35 * truth[other] for other in others]
    texts = torch.cat([truth, *near, 0.15 * torch.randn(200, width, generator=draw)])
    texts = texts + cone + 1.2 * torch.randn(texts.shape, generator=draw) / width**0.5
    labels = [f"thing{i}" for i in range(concepts)]
    phrases = [f"thing{i} kind{k}" for k in range(3) for i in range(concepts)]
    words = (*labels, *phrases, *(f"noise{i}" for i in range(200)))
    vocabulary = Vocabulary(words, texts / texts.norm(dim=1, keepdim=True), ("{}",), "planted")
    noise = torch.randn(truth.shape, generator=draw) * 2.5 / width**0.5
    top = np.asarray(codes.argmax(axis=1)).ravel()
    return Case(
        "planted", images, codes, top, labels, truth + noise, vocabulary, truth + cone,
        lambda name: name.split()[0] if name.startswith("thing") else None,
    )  # fmt: skip


def owners(case: Case) -> np.ndarray:
    """Class of each concept by the first half of the images, -1 for none."""
    return class_owners(case.codes[::2], case.labels[::2])


def best_words(names: Sequence[ConceptName]) -> list[str]:
    """The name, or the best word of a concept without one."""
    return [n.name if n.status == "named" else n.alternatives[0][0] for n in names]


def judge(case: Case, naming: Naming, truth: np.ndarray) -> dict[str, Any]:
    """Shares over the class-like concepts; `top1` counts the best word even if it is rejected.

    `cosine` and `auprc` compare a concept's codes with the presence of the class that it is named
    after, on the half of the images that made no prototype; a name of no class counts 0.
    """
    names = naming.names
    judged = np.flatnonzero(truth >= 0)
    best = best_words(names)
    meant = [case.meaning(best[c]) for c in judged]
    right = np.array([m == case.classes[truth[c]] for m, c in zip(meant, judged, strict=True)])
    named = np.array([names[c].status == "named" for c in judged])
    every = [n for n in names if n.status == "named"]
    strict = right & np.array([not _misleads(case, best[c], truth[c]) for c in judged])
    curve = precision_at_coverage(
        [n.score if n.status == "named" else n.score - 2 for n in (names[c] for c in judged)],
        right,
        (0.25, 0.5),
    )
    return {
        "class_like": len(judged),
        "top1": float(right.mean()),
        "named": float(named.mean()),
        "precision": float(right[named].mean()) if named.any() else None,
        "precision_with_details": float(strict[named].mean()) if named.any() else None,
        "precision_at_25": curve[0][1],
        "precision_at_50": curve[1][1],
        "rejected_of_all": 1 - len(every) / len(names),
        "unique_names": len({n.name for n in every}),
        "unique_right": len({best[c] for c in judged[strict & named]}),
        "meanings": len({n.group for n in every}),
        "skewness": naming.hubness["skewness"],
    } | _activation(case, judged, meant)


def _misleads(case: Case, name: str, owner: int) -> bool:
    """Whether what stands in brackets means another class than the concept's."""
    detail = re.search(r"\((.*?)\)$", name)
    meant = case.meaning(detail[1]) if detail else None
    return meant is not None and meant != case.classes[owner]


def _activation(case: Case, judged: np.ndarray, meant: Sequence[str | None]) -> Mapping[str, float]:
    """Mean cosine and AUPRC of codes and the presence of the class that the name means."""
    labels = case.labels[::2]
    codes = case.codes[::2].tocsc()
    cosine, area = [], []
    for concept, cls in zip(judged.tolist(), meant, strict=True):
        presence = labels == (case.classes.index(cls) if cls is not None else -2)
        if not presence.any():
            cosine.append(0.0)
            area.append(0.0)
            continue
        values = codes[:, [concept]].toarray().ravel()
        length = np.linalg.norm(values) * np.linalg.norm(presence)
        cosine.append(float(values @ presence / max(length, 1e-12)))
        area.append(float(average_precision_score(presence[labels >= 0], values[labels >= 0])))
    return {"cosine": float(np.mean(cosine)), "auprc": float(np.mean(area))}
