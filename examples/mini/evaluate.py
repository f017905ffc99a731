"""Measure the bundled encoder on photos that it was not trained on, through plain open_clip.

    python examples/mini/evaluate.py --data ../shared/data --model dncbm/encoders/mini

CIFAR-10 test and clothing test: zero-shot and linear probe. Flickr photos held out with their
captions: recall at 1, 5, 10 both ways. Words held out from every loss: see ``words`` below.
Deterministic on one machine: the same files give the same numbers.
"""

import argparse
import json
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

import measure
import numpy as np
import open_clip
import sources
import torch
import words
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

LOGGER = logging.getLogger("mini.evaluate")
BATCH = 64


class Encoder:
    """The bundled files as any user of open_clip would load them."""

    def __init__(self, folder: Path) -> None:
        open_clip.add_model_config(folder / "dncbm-mini.json")
        self.model: nn.Module
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(
            "dncbm-mini", pretrained=str(folder / "model.safetensors")
        )
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(
            "dncbm-mini", bpe_path=str(folder / "merges.txt.gz")
        )

    @torch.inference_mode()
    def images(self, photos: Sequence[sources.Photo]) -> Tensor:
        """Unit embeddings ``[n, 256]`` of encoded photos."""
        parts = []
        for first in range(0, len(photos), BATCH):
            batch = [
                self.preprocess(Image.open(sources.as_bytes_io(photo)).convert("RGB"))
                for photo in photos[first : first + BATCH]
            ]
            parts.append(self.model.encode_image(torch.stack(batch)))
        return functional.normalize(torch.cat(parts).float(), dim=1)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings ``[n, 256]`` of texts."""
        parts = [
            self.model.encode_text(self.tokenizer(list(texts[first : first + 256])))
            for first in range(0, len(texts), 256)
        ]
        return functional.normalize(torch.cat(parts).float(), dim=1)

    def classes(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Unit class embeddings ``[K, 256]``: the mean over templates."""
        each = [self.texts([template.format(name) for name in names]) for template in templates]
        return functional.normalize(torch.stack(each).mean(0), dim=1)


def folder_photos(archive: Path, prefix: str) -> list[sources.Photo]:
    """The photos of ``prefix/<class>/`` in a zip, in name order."""
    with zipfile.ZipFile(archive) as file:
        names = sorted(n for n in file.namelist() if n.startswith(prefix) and n.endswith(".jpg"))
        return [sources.Photo("", "", n.split("/")[1], (), file.read(n), n) for n in names]


def classification(encoder: Encoder, archive: Path, train: str, test: str) -> dict[str, float]:
    """Zero-shot (bare folder name, one template, all templates) and linear probe accuracy."""
    photos = {part: folder_photos(archive, f"{part}/") for part in (train, test)}
    labels = sorted({photo.label for photo in photos[test]})
    images = {part: encoder.images(rows) for part, rows in photos.items()}
    truth = {
        part: torch.tensor([labels.index(p.label) for p in rows]) for part, rows in photos.items()
    }
    out = {}
    for key, templates in (
        ("zero_shot_bare", ("{}",)),
        ("zero_shot", ("a photo of a {}",)),
        ("zero_shot_templates", words.TEMPLATES),
    ):
        scores = images[test] @ encoder.classes(labels, templates).T
        out[key] = measure.accuracy(scores, truth[test])
    out["linear_probe"] = measure.linear_probe(
        images[train], truth[train], images[test], truth[test]
    )
    return out


def retrieval(encoder: Encoder, root: Path) -> dict[str, float]:
    """Recall at k among the held-out Flickr photos and their captions (five each)."""
    photos = [photo for photo in sources.flickr(root) if photo.split == "watch"]
    captions = [caption for photo in photos for caption in photo.captions]
    owner = torch.tensor([i for i, photo in enumerate(photos) for _ in photo.captions])
    similarity = encoder.images(photos) @ encoder.texts(captions).T
    out: dict[str, float] = {"photos": len(photos), "captions": len(captions)}
    for k in (1, 5, 10):
        out[f"image_to_text_r{k}"] = measure.recall_image_to_text(similarity, owner, k)
        out[f"text_to_image_r{k}"] = measure.recall_text_to_image(similarity, owner, k)
    return out


def unseen_names(encoder: Encoder, root: Path) -> dict[str, float]:
    """Rank correlation with true CLIP text similarities, for names in and held out of training."""
    names, vectors = words.clip_names(root)
    protected = words.protected_names(root)
    held = np.array([words.is_held_out(n) and n not in protected for n in names])
    centred = torch.from_numpy(vectors - vectors[~held].mean(0)).float()
    own = encoder.texts([f"a photo of a {name}" for name in names])
    own = own - own[torch.from_numpy(~held)].mean(0)
    seen_rows, held_rows = np.flatnonzero(~held), np.flatnonzero(held)
    return {
        "held_out_names": int(held.sum()),
        "seen_names_spearman": measure.similarity_spearman(own, centred, seen_rows[::8], seen_rows),
        "held_out_names_spearman": measure.similarity_spearman(own, centred, held_rows, seen_rows),
        "held_out_neighbour_overlap": measure.neighbour_overlap(own, centred, held_rows, seen_rows),
    }


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("dncbm/encoders/mini"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    encoder = Encoder(arguments.model)
    root: Path = arguments.data
    results = {
        "cifar10": classification(encoder, root / "cifar10.zip", "train", "test"),
        "clothing": classification(encoder, root / "clothing.zip", "train", "test"),
        "flickr_held_out": retrieval(encoder, root),
        "unseen_names": unseen_names(encoder, root),
    }
    text = json.dumps(results, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
