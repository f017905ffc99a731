"""Names of the top concepts of CIFAR-10 classes, on true CLIP ViT-B/32 embeddings.

    python examples/true_clip_names.py DIRECTORY [--steps 600] [--preset NAME] [--direction KIND]
    [--all-centrings]

DIRECTORY holds `image_embeddings.npz` (vectors, label, source) and `text_vocab.npz` (vectors,
names) of CLIP ViT-B/32, prompt "a {name}". Prints zero-shot accuracy from the embeddings alone,
trains an SAE on all images and prints the names of the concepts that stand out in each class.
"""

import argparse
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn.functional import normalize

from dncbm.naming.assign import Naming, name_dictionary
from dncbm.naming.config import DIRECTIONS, NamingConfig
from dncbm.naming.prototypes import naming_directions
from dncbm.naming.quality import naming_metrics
from dncbm.naming.vocabulary import Vocabulary
from dncbm.sae.model import SaeModel
from dncbm.sae.presets import preset
from dncbm.sae.rows import TensorRows
from dncbm.sae.train import train_sae

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
# The vocabulary has no "automobile" and LVIS, its first source, has no "ship".
PLAIN = dict(zip(CLASSES, CLASSES, strict=True)) | {"automobile": "car"}
LVIS = PLAIN | {"automobile": "car (automobile)", "ship": "cargo ship"}


def read_images(directory: Path) -> tuple[Tensor, np.ndarray]:
    """Unit-norm image embeddings and labels; '' where the image is not of CIFAR-10."""
    data = np.load(directory / "image_embeddings.npz")
    cifar = data["source"] == "cifar10_test_first500"
    labels = np.where(cifar, data["label"], "")
    return normalize(torch.from_numpy(data["vectors"]).float(), dim=1), labels


def read_vocabulary(directory: Path) -> Vocabulary:
    """The category names as one vocabulary, each word once."""
    data = np.load(directory / "text_vocab.npz")
    rows: dict[str, int] = {}
    for row, name in enumerate(data["names"]):
        rows.setdefault(str(name).lower().replace("_", " ").strip(), row)
    vectors = torch.from_numpy(data["vectors"]).float()[list(rows.values())]
    return Vocabulary(
        words=tuple(rows),
        embeddings=normalize(vectors, dim=1),
        templates=("a {}",),
        encoder_fingerprint="openai-clip-vit-b-32",
    )


def zero_shot(
    images: Tensor, labels: np.ndarray, vocabulary: Vocabulary, mapping: dict[str, str]
) -> float:
    """Accuracy on the CIFAR-10 images when each class is called by its word in `mapping`."""
    texts = vocabulary.embeddings[[vocabulary.words.index(mapping[name]) for name in CLASSES]]
    known = labels != ""
    predicted = np.array(CLASSES)[(images[known] @ texts.T).argmax(dim=1).numpy()]
    return float((predicted == labels[known]).mean())


def top_concepts(codes: Tensor, labels: np.ndarray, count: int = 5) -> dict[str, list[int]]:
    """Per class, the concepts whose mean code is farthest above the mean over all images."""
    mean = codes.mean(dim=0)
    return {
        name: (codes[labels == name].mean(dim=0) - mean).topk(count).indices.tolist()
        for name in CLASSES
    }


def agreement(
    top: dict[str, list[int]], naming: Naming, vocabulary: Vocabulary
) -> dict[str, float]:
    """Share of top concepts whose best word is, as a text, nearest to the right class name.

    `first` counts the top concept of each class, `five` the top five, `own` the classes whose
    very word is among the best words of its top five.
    """
    texts = vocabulary.embeddings[[vocabulary.words.index(PLAIN[name]) for name in CLASSES]]
    hits = {
        name: [_nearest(naming, c, vocabulary, texts) == name for c in top[name]] for name in top
    }
    return {
        "first": float(np.mean([row[0] for row in hits.values()])),
        "five": float(np.mean([np.mean(row) for row in hits.values()])),
        "own": float(np.mean([PLAIN[c] in [best_word(naming, i) for i in top[c]] for c in top])),
    }


def _nearest(naming: Naming, concept: int, vocabulary: Vocabulary, texts: Tensor) -> str:
    word = best_word(naming, concept)
    embedding = vocabulary.embeddings[vocabulary.words.index(word)]
    return CLASSES[int((texts @ embedding).argmax())]


def best_word(naming: Naming, concept: int) -> str:
    """The name, or the best candidate of an unnamed concept."""
    name = naming.names[concept]
    return name.name if name.status == "named" else name.alternatives[0][0]


def train(images: Tensor, steps: int, name: str) -> SaeModel:
    """The SAE preset `name` on these images."""
    config = preset(name, embed_dim=images.shape[1], num_rows=len(images), max_steps=steps, seed=0)
    return train_sae(TensorRows(images), config).model.eval()


def main() -> None:
    """Print zero-shot accuracy, naming figures and the top concepts of each class."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--preset", default="default", help="of the SAE")
    parser.add_argument("--direction", choices=DIRECTIONS, default=NamingConfig().direction)
    parser.add_argument("--all-centrings", action="store_true")
    arguments = parser.parse_args()
    images, labels = read_images(arguments.directory)
    vocabulary = read_vocabulary(arguments.directory)
    print(
        f"{len(vocabulary.words)} words, {len(images)} images, {(labels != '').sum()} of CIFAR-10"
    )
    print(f"zero-shot, plain names (car, ship): {zero_shot(images, labels, vocabulary, PLAIN):.1%}")
    print(f"zero-shot, LVIS names (cargo ship): {zero_shot(images, labels, vocabulary, LVIS):.1%}")
    model = train(images, arguments.steps, arguments.preset)
    with torch.no_grad():
        codes, dictionary = model.encode(images), model.dictionary.detach()
    directions = naming_directions(
        arguments.direction, dictionary, sp.csr_matrix(codes.numpy()), [images]
    )
    top = top_concepts(codes, labels)
    centrings = ("none", "words", "words+directions") if arguments.all_centrings else ("words",)
    for centring in centrings:
        naming = name_dictionary(
            directions,
            vocabulary,
            config=NamingConfig(
                direction=arguments.direction, centring=centring, distinguish=False
            ),
            image_mean=images.mean(dim=0),
        )
        metrics = naming_metrics(naming.names)
        shares = agreement(top, naming, vocabulary)
        print(
            f"\ncentring {centring}: threshold {naming.threshold:.3f}, named "
            f"{metrics['named_fraction']:.1%}, {metrics['unique_names']} different names, mean "
            f"score {metrics['mean_score']:.3f}, margin {metrics['mean_margin']:.3f}, top concept "
            f"agrees with its class {shares['first']:.0%}, top five {shares['five']:.0%}, "
            f"own word in top five {shares['own']:.0%}"
        )
        for name, concepts in top.items():
            words = (
                f"{best_word(naming, c)} {naming.names[c].score:.2f}"
                f"{'' if naming.names[c].status == 'named' else '?'}"
                for c in concepts
            )
            print(f"  {name:>10}: {', '.join(words)}")


if __name__ == "__main__":
    main()
