"""Removing what a classifier should not use: a background that gave the class away in training.

The protocol is that of Waterbirds (Rao et al., ECCV 2024, section on interventions) on rendered
scenes: two classes, told apart by their object, each always on its own ground in training and on
either ground in test. The largest weights per class are kept; each concept they use is labelled;
then the weights of some are set to zero, without any fitting.

The heads of the paper have no bias; ours do, and it makes up for the average of every concept. So
the worst group is measured with the bias as fitted (the paper's rule), with the average of the
removed concepts kept in it, and by a measure that knows no bias (`worst_pair`).

A person labels concepts in the paper. Here scenes in which object and ground are independent do
it: the area under the ROC curve of a concept's code for the object, within scenes of equal
ground, against that for the ground, within scenes of equal object. A concept that tells apart
neither is about neither, and stays where ground concepts are removed.

Every pair of objects and grounds is done with several seeds (dictionary, scenes and head); the
table has means and ranges over all of them.

    python -m benchmarks.intervention --json
"""

import argparse
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from benchmarks._harness import Row, finish, parser, table
from dncbm.data.concept_world import RECIPES, Recipe, Scene, render_recipe, render_scene
from dncbm.encoders.clip import Encoder, load_encoder
from dncbm.probe.interventions import without
from dncbm.probe.metrics import probe_logits
from dncbm.probe.model import Probe
from dncbm.probe.train import ProbeConfig, train_probe
from dncbm.sae.encode import encode_rows
from dncbm.sae.model import SaeModel
from dncbm.sae.presets import preset
from dncbm.sae.train import train_sae

WORLDS = (
    (("building", "mountain"), ("grass", "field")),
    (("building", "tree"), ("road", "quay")),
    (("building", "tree"), ("grass", "field")),
    (("building", "snowy peak"), ("sand", "grass")),
)
"""Objects of the two classes, and the grounds that go with them in training."""
NEITHER = 0.05
"""An area under the curve this near to one half tells nothing apart."""
_BATCH = 256


@dataclass(frozen=True)
class World:
    """Objects of the two classes, their grounds, and the seed of everything drawn."""

    objects: tuple[str, str]
    grounds: tuple[str, str]
    seed: int

    def __str__(self) -> str:
        return f"{' or '.join(self.objects)}, {' or '.join(self.grounds)}"


Encode = Callable[[Sequence[Scene]], Any]
"""Codes of scenes, as a CSR array."""


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
    options: argparse.Namespace, world: World, encode: Encode, at: int, *, mixed: bool
) -> Scenes:
    """Scenes whose ground follows the object, or not; `at` seeds them."""
    count = options.test if mixed else options.train
    objects = np.arange(count) % 2
    grounds = np.arange(count) // 2 % 2 if mixed else objects
    scenes = [
        render_recipe(
            np.random.default_rng([world.seed, at, i]),
            options.size,
            recipe(world.objects[o], world.grounds[g], options.copies),
            world.objects[o],
        )
        for i, (o, g) in enumerate(zip(objects, grounds, strict=True))
    ]
    return Scenes(encode(scenes), objects, grounds)


def dictionary(options: argparse.Namespace, encoder: Encoder, seed: int) -> SaeModel:
    """An autoencoder of scenes of all kinds, as one trained beforehand on other data."""
    scenes = [
        render_scene(
            np.random.default_rng([seed, 0, i]),
            options.size,
            list(RECIPES)[i % len(RECIPES)],
        )
        for i in range(options.scenes)
    ]
    embeddings = embed(encoder, scenes)
    config = preset("default", embed_dim=embeddings.shape[1], num_rows=len(embeddings), seed=seed)
    return train_sae(embeddings, config).model


def area(codes: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each column (n, c) for rows whose sign is 1: (c,).

    The probability that a row of sign 1 has the larger code, ties counting half.
    """
    positive = signs == 1
    count, others = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(codes, axis=0)[positive].sum(axis=0)
    return (ranks - count * (count + 1) / 2) / (count * others)


def tells_apart(codes: np.ndarray, signs: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Per concept (c,), how well its code tells signs apart among rows of one stratum, 0 to 1/2.

    Areas are averaged over strata before the distance to one half is taken: a concept that goes
    with one sign here and with the other there is about neither.
    """
    parts = [area(codes[strata == s], signs[strata == s]) for s in np.unique(strata)]
    return np.abs(np.mean(parts, axis=0) - 0.5)


def label(scenes: Scenes) -> np.ndarray:
    """Per concept (c,) what it is about: `object`, `ground` or `neither`."""
    codes = scenes.codes.toarray()  # a few hundred rows
    by_object = tells_apart(codes, scenes.objects, scenes.grounds)
    by_ground = tells_apart(codes, scenes.grounds, scenes.objects)
    names = np.where(by_object > by_ground, "object", "ground")
    return np.where(np.maximum(by_object, by_ground) < NEITHER, "neither", names)


def interventions(labels: np.ndarray) -> dict[str, list[int]]:
    """The concepts that each intervention removes."""
    removed = {
        "none": np.zeros(len(labels), dtype=bool),
        "object concepts only": labels != "object",
        "ground concepts removed": labels == "ground",
        "object concepts removed": labels == "object",
    }
    return {name: np.flatnonzero(mask).tolist() for name, mask in removed.items()}


def measure(probe: Probe, test: Scenes) -> dict[str, float]:
    """Accuracy overall and in the worst of the four groups of object and ground.

    `worst_pair` knows no bias: of a scene of each class, the chance that the logits rank them
    right, on the two grounds where it is lowest.
    """
    logits = probe_logits(probe, test.codes)
    right = logits.argmax(axis=1) == test.objects
    groups = test.objects * 2 + test.grounds
    margin = (logits[:, 1] - logits[:, 0])[:, None]
    pairs = [np.isin(groups, (first, second)) for first in (0, 1) for second in (2, 3)]
    return {
        "accuracy": float(right.mean()),
        "worst_group": min(float(right[groups == g].mean()) for g in range(4)),
        "worst_pair": min(float(area(margin[two], test.objects[two])[0]) for two in pairs),
    }


def run(options: argparse.Namespace, world: World, encode: Encode) -> list[Row]:
    """All heads of one world with all interventions."""
    train = make(options, world, encode, 1, mixed=False)
    known = make(options, world, encode, 2, mixed=True)
    test = make(options, world, encode, 3, mixed=True)
    config = ProbeConfig(necs=options.necs, seed=world.seed)
    trained = train_probe(train.codes, train.objects, world.objects, config)
    labels = label(known)
    means = torch.from_numpy(np.asarray(train.codes.mean(axis=0)).ravel())
    rows = []
    for head, probe in trained.heads().items():
        used = (probe.weights != 0).any(dim=0).numpy()
        counts = {name: int((labels[used] == name).sum()) for name in ("object", "ground")}
        for name, removed in interventions(labels).items():
            kept = measure(without(probe, removed, means=means), test)
            rows.append(
                {"world": str(world), "seed": world.seed, "head": head,
                 "intervention": name, **measure(without(probe, removed), test),
                 "worst_group_average_kept": kept["worst_group"], "used": int(used.sum()), **counts}
            )  # fmt: skip
    return rows


_WORST = ("worst_group", "worst_group_average_kept")
_MEANS = ("accuracy", *_WORST, "worst_pair", "used", "object", "ground")


def summary(rows: Sequence[Row]) -> list[Row]:
    """Means over worlds and seeds, and in how many of them the worst group rose."""
    before = {_case(row): row["worst_group"] for row in rows if row["intervention"] == "none"}
    together: Mapping[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        together[row["head"], row["intervention"]].append(row)
    made = []
    for (head, name), of in together.items():
        means = {key: float(np.mean([row[key] for row in of])) for key in _MEANS}
        ranges = {f"{key}_range": _range([row[key] for row in of]) for key in _WORST}
        rose = {f"{key}_rose": sum(row[key] > before[_case(row)] for row in of) for key in _WORST}
        made.append({"head": head, "intervention": name, **means, **ranges, **rose, "of": len(of)})
    return made


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _case(row: Row) -> tuple[str, int, str]:
    return row["world"], row["seed"], row["head"]


def ratios(means: Sequence[Row], head: str) -> dict[str, float | None]:
    """Mean worst group after an intervention over that before it."""
    found = {row["intervention"]: row for row in means if row["head"] == head}
    before = found["none"]["worst_group"]
    wanted = {
        "object_only_over_before": ("object concepts only", "worst_group"),
        "object_only_average_kept_over_before": ("object concepts only", _WORST[1]),
        "object_removed_over_before": ("object concepts removed", "worst_group"),
    }
    return {
        key: found[name][column] / before if before > 0 else None
        for key, (name, column) in wanted.items()
    }


def draw(figure: Any, rows: Sequence[Row], head: str) -> None:
    """The worst group of every world and seed, before and after, with its mean."""
    chosen = {
        "as trained": ("none", "worst_group"),
        "object concepts only": ("object concepts only", "worst_group"),
        "object concepts only,\naverage kept": ("object concepts only", _WORST[1]),
        "object concepts\nremoved": ("object concepts removed", "worst_group"),
    }
    axes = figure.subplots()
    for place, (name, column) in enumerate(chosen.values()):
        values = [r[column] for r in rows if r["head"] == head and r["intervention"] == name]
        offsets = np.linspace(-0.12, 0.12, len(values))
        axes.plot(place + offsets, values, "o", color="#4c72b0", alpha=0.7)
        axes.hlines(np.mean(values), place - 0.25, place + 0.25, color="black")
    axes.set_xticks(range(len(chosen)), list(chosen))
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("accuracy in the worst group")
    axes.set_title(f"{head}: one point per world and seed, line at the mean")
    axes.grid(axis="y", alpha=0.3)


def main() -> None:
    """Render, train, intervene, measure."""
    made = parser(__doc__)
    made.add_argument("--worlds", type=int, default=2, help="pairs of objects and grounds, <= 4")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--necs", type=int, nargs="+", default=[5, 10])
    made.add_argument("--copies", type=int, default=7, help="most objects in a scene")
    made.add_argument("--scenes", type=int, default=1500, help="to train the dictionary on")
    made.add_argument("--train", type=int, default=400)
    made.add_argument("--test", type=int, default=400, help="and as many to label concepts")
    made.add_argument("--size", type=int, default=64, help="pixels")
    options = made.parse_args()
    logging.disable(logging.WARNING)
    encoder = load_encoder()
    rows: list[Row] = []
    for seed in range(options.seeds):
        sae = dictionary(options, encoder, seed)
        for objects, grounds in WORLDS[: options.worlds]:
            found = run(
                options,
                World(objects, grounds, seed),
                lambda scenes, sae=sae: encode_rows(sae, embed(encoder, scenes)),
            )
            rows += found
            print(table(found), flush=True)
    means = summary(rows)
    head = f"nec{min(options.necs)}"
    notes = {"each": rows, "options": {key: str(value) for key, value in vars(options).items()}}
    finish(
        "intervention",
        means,
        ratios(means, head),
        options,
        draw=lambda figure: draw(figure, rows, head),
        notes=notes,
    )


if __name__ == "__main__":
    main()
