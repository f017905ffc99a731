"""Removing what a classifier should not use: a background that gave the class away in training.

The protocol is that of Waterbirds (Rao et al., ECCV 2024, section on interventions) on rendered
scenes: two classes, told apart by their object, each always on its own ground in training and on
either ground in test. The five largest weights per class are kept; each concept they use is
labelled as object or background by what it correlates with in scenes where object and ground are
independent; then the weights of one group are set to zero, without any fitting.

    python -m benchmarks.intervention --json
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks._harness import Row, finish, parser
from dncbm.data.concept_world import RECIPES, Recipe, Scene, render_recipe, render_scene
from dncbm.encoders.clip import Encoder, load_encoder
from dncbm.probe.metrics import probe_logits
from dncbm.probe.model import Probe
from dncbm.probe.train import ProbeConfig, train_probe
from dncbm.sae.encode import encode_rows
from dncbm.sae.model import SaeModel
from dncbm.sae.presets import preset
from dncbm.sae.train import train_sae

NEC = 5
_BATCH = 256


@dataclass(frozen=True, eq=False)
class Scenes:
    """Codes with the object (the class) and the ground of each scene, as 0 or 1."""

    codes: Any
    objects: np.ndarray
    grounds: np.ndarray


def recipe(noun: str, ground: str, copies: int) -> Recipe:
    """Scenes by day that always show the object, up to so many times, on the ground."""
    return Recipe({"day": 1.0}, {ground: 1.0}, {noun: (1.0, copies)})


def embed(encoder: Encoder, scenes: Sequence[Scene]) -> torch.Tensor:
    """Embeddings (n, d) in float32."""
    starts = range(0, len(scenes), _BATCH)
    parts = [encoder.embed_pil([s.image for s in scenes[i : i + _BATCH]]) for i in starts]
    return torch.cat(parts).float()


def make(
    options: argparse.Namespace, encoder: Encoder, sae: SaeModel, at: int, *, mixed: bool
) -> Scenes:
    """Scenes whose ground follows the object, or not; `at` seeds them."""
    count = options.test if mixed else options.train
    objects = np.arange(count) % 2
    grounds = np.arange(count) // 2 % 2 if mixed else objects
    scenes = [
        render_recipe(
            np.random.default_rng([options.seed, at, i]),
            options.size,
            recipe(options.objects[o], options.grounds[g], options.copies),
            options.objects[o],
        )
        for i, (o, g) in enumerate(zip(objects, grounds, strict=True))
    ]
    return Scenes(encode_rows(sae, embed(encoder, scenes)), objects, grounds)


def dictionary(options: argparse.Namespace, encoder: Encoder) -> SaeModel:
    """An autoencoder of scenes of all kinds, as one trained beforehand on other data."""
    scenes = [
        render_scene(
            np.random.default_rng([options.seed, 0, i]),
            options.size,
            list(RECIPES)[i % len(RECIPES)],
        )
        for i in range(options.scenes)
    ]
    embeddings = embed(encoder, scenes)
    config = preset(
        "default", embed_dim=embeddings.shape[1], num_rows=len(embeddings), seed=options.seed
    )
    return train_sae(embeddings, config).model


def about_objects(scenes: Scenes) -> np.ndarray:
    """Per concept (c,), whether its code goes with the object rather than with the ground."""
    codes = scenes.codes.toarray()  # a few hundred rows
    centred = codes - codes.mean(axis=0)

    def pull(signs: np.ndarray) -> np.ndarray:
        return np.abs((2.0 * signs - 1.0) @ centred)

    return pull(scenes.objects) > pull(scenes.grounds)


def kept(probe: Probe, concepts: np.ndarray) -> Probe:
    """The probe with the weights of all other concepts at zero."""
    return Probe(probe.weights * torch.from_numpy(concepts), probe.bias, probe.classes)


def measure(probe: Probe, test: Scenes) -> dict[str, float]:
    """Accuracy overall and in the worst of the four groups of object and ground."""
    right = probe_logits(probe, test.codes).argmax(axis=1) == test.objects
    groups = test.objects * 2 + test.grounds
    return {
        "accuracy": float(right.mean()),
        "worst_group": min(float(right[groups == g].mean()) for g in range(4)),
    }


def main() -> None:
    """Render, train, intervene, measure."""
    made = parser(__doc__)
    made.add_argument("--objects", nargs=2, default=["building", "mountain"])
    made.add_argument("--grounds", nargs=2, default=["grass", "field"])
    made.add_argument("--copies", type=int, default=7, help="most objects in a scene")
    made.add_argument("--scenes", type=int, default=2000, help="to train the dictionary on")
    made.add_argument("--train", type=int, default=800)
    made.add_argument("--test", type=int, default=800)
    made.add_argument("--size", type=int, default=64, help="pixels")
    made.add_argument("--seed", type=int, default=0)
    options = made.parse_args()
    encoder = load_encoder()
    sae = dictionary(options, encoder)
    train = make(options, encoder, sae, 1, mixed=False)
    known = make(options, encoder, sae, 2, mixed=True)
    test = make(options, encoder, sae, 3, mixed=True)
    trained = train_probe(
        train.codes, train.objects, options.objects, ProbeConfig(necs=(NEC,), seed=options.seed)
    )
    head, objects = trained.nec_probes[NEC], about_objects(known)
    used = (head.weights != 0).any(dim=0).numpy()
    heads = {
        "dense": trained.probe,
        f"NEC {NEC}": head,
        f"NEC {NEC}, object concepts only": kept(head, objects),
        f"NEC {NEC}, object concepts removed": kept(head, ~objects),
    }
    rows: list[Row] = [{"head": name, **measure(probe, test)} for name, probe in heads.items()]
    before, only, without = (row["worst_group"] for row in rows[1:])
    ratios = {
        "object_only_over_before": only / before if before > 0 else None,
        "object_removed_over_before": without / before if before > 0 else None,
    }
    notes = {
        "used concepts": int(used.sum()),
        "of them about the object": int((used & objects).sum()),
        "options": {key: str(value) for key, value in vars(options).items()},
    }
    finish("intervention", rows, ratios, options, notes=notes)


if __name__ == "__main__":
    main()
