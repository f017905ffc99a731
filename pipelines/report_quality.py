"""The measures of a dictionary for the report: all of them, each with its reading."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dncbm.report.data import QualityRow


def _reading(name: str, says: str, good: str, misleads: str, unit: str = "") -> QualityRow:
    return QualityRow(name=name, says=says, good=good, misleads=misleads, unit=unit)


_READINGS = {
    "unexplained_variance": _reading(
        "unexplained variance",
        "share of the embeddings' variance that the reconstruction loses",
        "near 0",
        "falls with every further active concept, meaningful or not",
    ),
    "cosine": _reading(
        "cosine",
        "mean cosine of an embedding and its reconstruction",
        "near 1",
        "embeddings of one encoder are alike: the mean embedding alone scores high",
    ),
    "accuracy_kept": _reading(
        "accuracy kept",
        "share of a linear readout's test accuracy that reconstructions keep",
        "near 100\u202f%",
        "easy classes survive a poor reconstruction",
        "%",
    ),
    "cknna": _reading(
        "CKNNA",
        "whether images with near embeddings have near codes (10 nearest of a sample)",
        "towards 1",
        "a mere rotation of the embeddings scores 1; falls as the sample grows",
    ),
    "l0": _reading(
        "L0",
        "concepts active per image",
        "tens: few enough to read",
        "TopK dictates it; says nothing about which concepts are active",
    ),
    "dead_fraction": _reading(
        "dead",
        "concepts active in none of these images",
        "near 0\u202f%",
        "rare concepts look dead where images are few",
        "%",
    ),
    "dense_fraction": _reading(
        "dense",
        "concepts active in more than a tenth of the images",
        "near 0\u202f%",
        "some things do appear in every tenth image",
        "%",
    ),
    "monosemanticity": _reading(
        "MonoSemanticity",
        "mean cosine of the images that share a concept, weighted by its codes",
        "far above the next line",
        "judged by the same encoder: what it confuses counts as alike; two near-duplicate "
        "images make a perfect concept",
    ),
    "monosemanticity_baseline": _reading(
        "… of any two images",
        "what a concept that tells nothing would score",
        "the level to beat",
        "differs between encoders, so MonoSemanticity alone does not compare them",
    ),
    "coherence_max": _reading(
        "largest coherence",
        "largest |cosine| of two concepts' directions",
        "clearly under 1",
        "one pair of duplicates among thousands suffices for 1",
    ),
    "coherence_mean": _reading(
        "mean coherence",
        "mean |cosine| of two concepts' directions",
        "as small as random directions have, about 0.8 / √width",
        "related things have related directions; dead concepts count too",
    ),
}
_STABILITY = {
    "matched_cosine": _reading(
        "stability",
        "mean cosine of concepts matched one to one with those of other seeds",
        "near 1, far above chance",
        "a stable concept need not mean anything; dead ones count, and look stable where they were "
        "restarted at the same images",
    ),
    "chance": _reading(
        "… by chance",
        "the same with random directions of the space that the concepts span",
        "the level to beat",
        "does not know how often a concept is active",
    ),
    "matched_fraction": _reading(
        "stable concepts",
        "concepts whose partner under another seed has a cosine above 0.9",
        "near 100\u202f%",
        "hangs on the threshold",
        "%",
    ),
    "nearest_cosine": _reading(
        "nearest under another seed",
        "mean cosine with the most similar concept, which several may share",
        "near 1, far above chance",
        "large dictionaries always have something near",
    ),
}


def quality_rows(metrics: Mapping[str, Any], readout: Mapping[str, float]) -> list[QualityRow]:
    """Every measure that was taken, on train photos and on held-out ones, side by side.

    Args:
        metrics: of the autoencoder's manifest; one of an older dncbm may lack some.
        readout: of `pipelines.bottleneck.kept_by_the_sae`, which judges test photos.
    """
    held_out = {**(metrics.get("held_out") or {}), **readout}
    judged = {name: held_out[name] for name in held_out if not name.startswith("coherence")}
    return [
        *_rows(_READINGS, metrics, judged),
        *_rows(_STABILITY, metrics.get("stability") or {}, {}),
    ]


def _rows(
    readings: Mapping[str, QualityRow], train: Mapping[str, Any], held_out: Mapping[str, Any]
) -> list[QualityRow]:
    rows = [
        replace(row, train=train.get(name), held_out=held_out.get(name))
        for name, row in readings.items()
    ]
    return [row for row in rows if (row.train, row.held_out) != (None, None)]
