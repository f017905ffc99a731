"""Print, for a human reader, the words nearest to class means and to single photos.

    python examples/mini/nearest_words.py --data ../shared/data --words vocab/words.txt

Class means are taken minus the mean of all photos of the source, words minus the mean of all
words: what is left is a direction such as the ones that a dictionary's concepts are.
"""

import argparse
import logging
from pathlib import Path

import torch
from evaluate import Encoder, folder_photos
from torch import Tensor
from torch.nn import functional

NUM_NEAREST = 10
PHOTOS_PER_CLASS = 40


def nearest(direction: Tensor, words: Tensor, texts: list[str]) -> str:
    """The nearest texts with their cosines, best first."""
    cosine = words @ functional.normalize(direction, dim=0)
    best = cosine.topk(NUM_NEAREST)
    return ", ".join(f"{texts[i]} {v:.2f}" for v, i in zip(best.values, best.indices, strict=True))


def main() -> None:
    """Print one line for each class and a few single photos."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--words", type=Path, required=True, help="one word or phrase a line")
    parser.add_argument("--model", type=Path, default=Path("dncbm/encoders/mini"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    encoder = Encoder(arguments.model)
    lines = arguments.words.read_text().splitlines()
    texts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    raw = encoder.texts(texts)
    centred = functional.normalize(raw - raw.mean(0), dim=1)
    for archive in ("cifar10.zip", "clothing.zip"):
        photos = folder_photos(arguments.data / archive, "test/")
        groups: dict[str, list[int]] = {}
        for index, photo in enumerate(photos):
            if len(groups.setdefault(photo.label, [])) < PHOTOS_PER_CLASS:
                groups[photo.label].append(index)
        chosen = {
            label: encoder.images([photos[i] for i in rows]) for label, rows in groups.items()
        }
        mean = torch.cat(list(chosen.values())).mean(0)
        for label, images in chosen.items():
            print(f"{label:12s} {nearest(images.mean(0) - mean, centred, texts)}")
        for label, images in list(chosen.items())[::3]:
            print(f"one {label:8s} {nearest(images[0], raw, texts)}")


if __name__ == "__main__":
    main()
