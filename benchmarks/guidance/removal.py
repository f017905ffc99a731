"""A bottleneck before and after concepts of the background are taken out of its decisions.

    python -m benchmarks.spurious.build tiny_imagenet.zip SET
    python -m benchmarks.guidance.removal SET --out OUT

The protocol of Waterbirds-100 as in `benchmarks.guidance.waterbirds`, on a bottleneck: in training
each class has its own background, in validation and test it has both. Concepts are labelled on
validation photos by the rule of `benchmarks.intervention`: those that tell the background apart
better than the class, by the area under the ROC curve within the other, are about it. The head is
fitted again without them, without the `--most` that tell the background apart best, whatever they
say of the class, and as controls without as many others. A dictionary per seed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from benchmarks._harness import Row, finish, parser
from benchmarks.guidance._runs import once, spread
from benchmarks.intervention import Scenes, label, tells_apart
from dncbm.artifacts import slug
from dncbm.data.sources import groups_of, open_source
from dncbm.encoders.cache import EmbedConfig, embed
from dncbm.encoders.clip import load_encoder
from dncbm.errors import InvalidInput
from dncbm.guidance.metrics import group_accuracy
from dncbm.probe.interventions import trained_without
from dncbm.probe.metrics import probe_logits
from dncbm.probe.train import ProbeConfig
from dncbm.sae.encode import encode_rows
from dncbm.sae.presets import preset
from dncbm.sae.train import train_sae
from pipelines.embed import split_records

_FIGURES = ("worst_group", "accuracy")


class Photos:
    """Embeddings of the set, with class, background, group and split of each row."""

    def __init__(self, options: argparse.Namespace) -> None:
        source = open_source(str(options.data))
        groups = groups_of(source)
        labels = [record.label or "" for record in source.records]
        if groups is None or None in groups or "" in labels:
            raise InvalidInput(
                f"{options.data} has no groups of class and background. Give a folder of "
                "benchmarks.spurious.build, or Waterbirds."
            )
        splits = split_records(source, 0)
        encoder = load_encoder(options.encoder, device="cpu")
        folder = options.out / "removal" / "embeddings"
        stored = embed(source, encoder, folder, splits=splits, config=EmbedConfig())
        self.embeddings = stored.load()
        self.groups = [str(group) for group in groups]
        self.classes = tuple(sorted(set(labels)))
        self.truth = np.array([self.classes.index(name) for name in labels])
        places = [group.removeprefix(name) for group, name in zip(self.groups, labels, strict=True)]
        self.places = np.unique(places, return_inverse=True)[1]
        self.rows = {
            split: np.flatnonzero(np.array(splits) == split)
            for split in ("train", "validation", "test")
        }

    def codes(self, seed: int) -> csr_array:
        """Codes of a dictionary that is trained on the training photos."""
        train = self.embeddings[self.rows["train"]]
        config = preset("default", embed_dim=train.shape[1], num_rows=len(train), seed=seed)
        return csr_array(encode_rows(train_sae(train, config).model, self.embeddings))

    def of_background(self, codes: csr_array, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Concepts about the background, and those that tell it apart best, by validation."""
        rows = self.rows["validation"]
        scenes = Scenes(codes[rows], self.truth[rows], self.places[rows])
        apart = tells_apart(codes[rows].toarray(), scenes.grounds, scenes.objects)
        return np.flatnonzero(label(scenes) == "ground"), np.argsort(-apart)[:most]

    def figures(self, codes: csr_array, removed: Sequence[int], seed: int) -> Row:
        """Test figures of a head that is fitted without some concepts."""
        trained = trained_without(
            removed, {s: codes[r] for s, r in self.rows.items()},
            {s: self.truth[r] for s, r in self.rows.items()}, self.classes,
            ProbeConfig(necs=(), seed=seed),
        )  # fmt: skip
        test = self.rows["test"]
        right = probe_logits(trained.probe, codes[test]).argmax(1) == self.truth[test]
        scored = group_accuracy(right, [self.groups[row] for row in test])
        return {"worst_group": scored.worst, "accuracy": scored.overall}


def run(photos: Photos, seed: int, most: int) -> Row:
    """All heads of one dictionary."""
    codes = photos.codes(seed)
    about, best = photos.of_background(codes, most)
    draw = np.random.default_rng(seed)

    def others(removed: np.ndarray) -> np.ndarray:
        rest = np.setdiff1d(np.arange(codes.shape[1]), removed)
        return draw.choice(rest, len(removed), replace=False)

    without = {
        "all concepts": np.array([], dtype=int), "without those about the background": about,
        "without as many others": others(about), f"without {most} that tell it best": best,
        f"without {most} others": others(best),
    }  # fmt: skip
    heads = {what: photos.figures(codes, w.tolist(), seed) for what, w in without.items()}
    return {"concepts": codes.shape[1], "about": len(about), "heads": heads}


def main() -> None:
    """Run what is missing, print all, write."""
    made = parser(__doc__)
    made.add_argument("data", type=Path, help="folder of benchmarks.spurious.build, or Waterbirds")
    made.add_argument("--encoder", default="mini")
    made.add_argument("--seeds", type=int, default=4)
    made.add_argument("--most", type=int, default=64)
    options = made.parse_args()
    photos = Photos(options)
    runs = [
        once(
            options.out / "removal",
            f"{slug(f'{options.data.name}-{options.encoder}')}-{seed}-{options.most}",
            lambda seed=seed: run(photos, seed, options.most),
        )
        for seed in range(options.seeds)
    ]
    rows: list[Row] = []
    for head in runs[0]["heads"]:
        values = {name: [one["heads"][head][name] for one in runs] for name in _FIGURES}
        rows.append({"head": head} | {name: spread(found) for name, found in values.items()})
    ratios: dict[str, float | None] = {
        f"{head}: {name} gained": float(
            np.mean([one["heads"][head][name] - one["heads"]["all concepts"][name] for one in runs])
        )
        for head in list(runs[0]["heads"])[1:]
        for name in _FIGURES
    }
    counts = [f"{one['about']} of {one['concepts']}" for one in runs]
    finish(
        "guidance-removal", rows, ratios, options, notes={"concepts about the background": counts}
    )


if __name__ == "__main__":
    main()
