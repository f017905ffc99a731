"""Are the names right? Naming rules side by side on one autoencoder, judged by image labels.

    python benchmarks/naming_precision.py MODEL_DIR... [--clip DIRECTORY] [--json results.json]

MODEL_DIR is what `dncbm quickstart` left for photos of classes listed in `class_words.json`;
DIRECTORY holds true CLIP ViT-B/32 embeddings (see `examples/true_clip_names.py`). A concept is
*class-like* if at least `--purity` of its code mass on the train photos lies in one class. Its
name is right if the name, or its head noun, is a word for that class in `class_words.json`: names
of the class and their hyponyms in WordNet 3.1, without words that mostly mean something else (a
"crane", a "toy"). Concepts that several classes share are not judged. One half of the images tells
which class a concept belongs to, the other half makes its prototype.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from dncbm.encoders.artifact import load_embeddings
from dncbm.errors import InvalidInput
from dncbm.naming.assign import name_dictionary
from dncbm.naming.config import NamingConfig, naming_preset
from dncbm.naming.prototypes import naming_directions
from dncbm.naming.vocabulary import Vocabulary, load_vocabulary
from dncbm.sae.encode import encode_rows
from dncbm.sae.model import SaeModel
from dncbm.sae.store import load_sae
from dncbm.types import ConceptName

HERE = Path(__file__).parent
RULES = {
    "paper": naming_preset("paper"),
    "dictionary row": NamingConfig(direction="dictionary"),
    "image prototype, no back-off": NamingConfig(direction="images", back_off=0.0),
    "image prototype": NamingConfig(direction="images"),
    "halfway": NamingConfig(direction="both"),
}
_SEPARATORS = (" in ", " on ", " with ", " under ", " at ")
_WEARERS = ("person", "woman", "man")
_LEAST_IMAGES = 5


@dataclass(frozen=True, slots=True)
class Case:
    """Embeddings of labelled images, the autoencoder trained on them, and words."""

    name: str
    images: Tensor
    labels: np.ndarray
    model: SaeModel
    vocabulary: Vocabulary


def quickstart_case(folder: Path) -> Case:
    """The train photos of a model directory."""
    embeddings = load_embeddings(folder / "embeddings")
    rows = embeddings.rows("train")
    labels = np.array([str(label) for label in embeddings.labels()])
    return Case(
        folder.name,
        torch.from_numpy(embeddings.load(rows)),
        labels[rows],
        load_sae(folder / "sae").model.eval(),
        load_vocabulary(folder / "vocabulary"),
    )


def clip_case(folder: Path) -> Case:
    """True CLIP embeddings of 864 photos, of which 500 are labelled; 1,612 names."""
    sys.path.insert(0, str(HERE.parent / "examples"))
    import true_clip_names

    images, labels = true_clip_names.read_images(folder)
    model = true_clip_names.train(images, 600, "default")
    return Case("true CLIP", images, labels, model, true_clip_names.read_vocabulary(folder))


def class_words() -> dict[str, set[str]]:
    """Class → words that name it."""
    table = json.loads((HERE / "class_words.json").read_text())
    return {name: set(words.split(", ")) for name, words in table.items()}


def plain(name: str) -> str:
    """Without what LVIS adds in brackets: "car (automobile)" is a car, "pug-dog" a pug dog."""
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


def class_like(codes: sp.csr_matrix, labels: np.ndarray, purity: float) -> dict[int, str]:
    """Concept → the class that holds at least `purity` of its code mass on labelled images."""
    known = sorted(set(class_words()) & set(labels))
    if not known:
        raise InvalidInput("No class of class_words.json is among the labels. Add its words there.")
    mass = np.stack([np.asarray(codes[labels == name].sum(axis=0))[0] for name in known])
    # Balanced: a class with many photos must not look like the owner of everything.
    mass /= np.array([(labels == name).sum() for name in known])[:, None]
    share = mass / np.maximum(mass.sum(axis=0), 1e-12)
    labelled = codes[np.isin(labels, known)]
    active = np.asarray((labelled > 0).sum(axis=0))[0] >= _LEAST_IMAGES
    return {
        int(concept): known[int(share[:, concept].argmax())]
        for concept in np.flatnonzero((share.max(axis=0) >= purity) & active)
    }


def judge(names: Sequence[ConceptName], truth: dict[int, str]) -> dict[str, float]:
    """Shares over the class-like concepts; `top1` counts the best word even if unnamed."""
    words = class_words()
    best = {
        concept: name.name if name.status == "named" else name.alternatives[0][0]
        for concept, name in enumerate(names)
        if concept in truth
    }
    spelt = {c: plain(best[c]) for c in truth}
    right = {c: bool({spelt[c], head_noun(spelt[c])} & words[truth[c]]) for c in truth}
    named = [c for c in truth if names[c].status == "named"]
    every = [name.name for name in names if name.status == "named"]
    return {
        "class_like": len(truth),
        "top1": float(np.mean(list(right.values()))) if truth else 0.0,
        "named": len(named) / max(len(truth), 1),
        "precision_of_named": float(np.mean([right[c] for c in named])) if named else 0.0,
        "named_of_all": len(every) / len(names),
        "unique_names": len(set(every)),
    }


def compare(case: Case, purity: float) -> list[dict[str, object]]:
    """One row per naming rule."""
    codes = encode_rows(case.model, case.images)
    truth = class_like(codes[::2], case.labels[::2], purity)
    dictionary = case.model.dictionary.detach()
    active = torch.from_numpy(np.asarray((codes > 0).sum(axis=0))[0] > 0)
    rows: list[dict[str, object]] = []
    for rule, config in RULES.items():
        directions = naming_directions(
            config.direction, dictionary, codes[1::2], case.images[1::2].split(4096)
        )
        naming = name_dictionary(directions, case.vocabulary, config=config, active=active)
        rows.append({"case": case.name, "rule": rule} | judge(naming.names, truth))
    return rows


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """The rows as a table."""
    titles = list(rows[0])
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    lines += [
        "| " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in r.values()) + " |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Print one table over all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--purity", type=float, default=0.6)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cases = [quickstart_case(folder) for folder in arguments.models]
    if arguments.clip:
        cases.append(clip_case(arguments.clip))
    if not cases:
        print("Give a model directory or --clip DIRECTORY; see --help.")
        return
    rows = [row for case in cases for row in compare(case, arguments.purity)]
    print(markdown(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
