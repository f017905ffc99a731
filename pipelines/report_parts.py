"""The parts of a report, each from a predictor and codes to plain values."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from dncbm.encoders.cache import EmbeddingsArtifact
from dncbm.predictor import Predictor
from dncbm.probe.decisions import LISTED
from dncbm.probe.metrics import class_mean_codes, top_class_concepts
from dncbm.report.data import (
    AccuracyRow,
    ClassExplanation,
    ConceptCard,
    LocalExplanation,
    Metric,
    Thumbnail,
    WeightedConcept,
)
from dncbm.report.pictures import preview
from dncbm.types import ConceptName, Prediction
from pipelines.bottleneck import test_accuracy
from pipelines.photos import embedded_source, read_photo, records_by_row, sample_photos
from pipelines.recipes import Recipe

GALLERY = 48
THUMBNAILS = 6
CLASSES_SHOWN = 20
BARS = 8
RIGHT_SHOWN, WRONG_SHOWN = 6, 4

_BASELINES = {
    "zero_shot": ("Zero-shot", "class names as text, no training"),
    "linear_probe": ("Linear probe", "on the embeddings; what the encoder allows"),
}


def accuracy_rows(predictor: Predictor, total: int) -> list[AccuracyRow]:
    """The baselines, the dense head and the heads of few concepts, by test accuracy."""
    metrics = predictor.cbm.metrics
    rows = []
    for key, value in test_accuracy(predictor.cbm).items():
        if value is None:
            continue
        head = "dense" if key == "dncbm" else key
        used = metrics["nec"].get(head)
        name, note = _BASELINES[key] if key in _BASELINES else _head_title(key, used)
        rows.append(
            AccuracyRow(
                name=name,
                note="; ".join(filter(None, (note, short_note(metrics, head)))),
                correct=round(value * total),
                total=total,
                effective_concepts=used,
                baseline=key in _BASELINES,
            )
        )
    return rows


def _head_title(key: str, used: float | None) -> tuple[str, str]:
    if key == "dncbm":
        return "DN-CBM, all concepts", "the dense head"
    allowed = int(key.removeprefix("nec"))
    fewer = used is not None and used < 0.95 * allowed
    note = f"the best such head uses {used:.3g}" if fewer else ""
    return f"DN-CBM, ≤ {allowed} concepts per class", note


def short_note(metrics: dict[str, Any], head: str) -> str:
    """How often the listed contributions alone decide as all do; empty where not measured."""
    found = metrics.get("short_decisions", {}).get(head, {}).get(str(LISTED))
    if found is None:
        return ""
    return f"the {LISTED} largest contributions alone decide the same in {found['agreement']:.0%}"


def nec_curve(predictor: Predictor) -> list[tuple[float, float]]:
    """Test accuracy of each sparse head by the concepts per class that it does use."""
    accuracy, used = test_accuracy(predictor.cbm), predictor.cbm.metrics["nec"]
    points = {
        round(used[f"nec{nec}"], 1): accuracy.get(f"nec{nec}") for nec in predictor.cbm.nec_probes
    }
    return [(nec, value) for nec, value in sorted(points.items()) if value is not None]


def recipe_rows(recipe: Recipe) -> dict[str, str]:
    """What was chosen, in words; overrides as `num_concepts = 64`."""
    values = recipe.as_dict()
    if recipe.data is not None or recipe.dataset is not None:
        del values["world_images"]
    rows = {}
    for name, value in values.items():
        if isinstance(value, dict):
            rows[name] = ", ".join(f"{key} = {json.dumps(item)}" for key, item in value.items())
        elif isinstance(value, list):
            rows[name] = ", ".join(value)
        elif value is not None:
            rows[name] = str(value)
    return {name: text for name, text in rows.items() if text}


def naming_rows(metrics: dict[str, Any]) -> list[Metric]:
    """What the names are worth."""
    rows = [
        Metric(name="named", value=metrics["named_fraction"], unit="%",
               meaning="concepts whose best word beats the calibrated threshold and whose name "
               "promises enough"),
        Metric(name="rejected", value=1.0 - metrics["named_fraction"], unit="%",
               meaning="concepts that are shown with a number and a question instead"),
        Metric(name="different names", value=metrics["unique_names"]),
        Metric(name="shared names", value=metrics["shared_fraction"], unit="%",
               meaning="named concepts whose name another concept has too"),
        Metric(name="mean score", value=metrics["mean_score"],
               meaning="cosine of a concept and its best word"),
        Metric(name="mean margin", value=metrics["mean_margin"],
               meaning="distance to the second best word"),
    ]  # fmt: skip
    if "unique_groups" in metrics:
        meaning = "names without what tells them apart, synonyms as one"
        groups = Metric(name="different meanings", value=metrics["unique_groups"], meaning=meaning)
        rows.insert(3, groups)
    return rows + _trust_rows(metrics.get("trust") or {}) + _hub_rows(metrics.get("hubness") or {})


def _trust_rows(trust: dict[str, Any]) -> list[Metric]:
    """Precision by labels, where enough concepts stand for a class."""
    if trust.get("precision") is None:
        return []
    low, high = trust["interval"]
    curve = ", ".join(f"{value:.0%} at {share:.0%}" for share, value in trust["at_coverage"])
    return [
        Metric(name="precision", value=trust["precision"], unit="%",
               meaning=f"names that mean the class of their concept, of {trust['judged']} concepts "
               f"that stand for one and took no part in the rule (95 %: {low:.0%} to {high:.0%})"),
        Metric(name="precision at coverage", value=curve,
               meaning="of the most trusted names of those concepts"),
    ]  # fmt: skip


def _hub_rows(hubness: dict[str, Any]) -> list[Metric]:
    if not hubness:
        return []
    largest = ", ".join(f"{word} ({count})" for word, count in hubness["largest"])
    return [
        Metric(name="hubs", value=largest, meaning="words nearest to most concepts, among their 10 "
               f"best; skewness {hubness['skewness']:.1f}"),
    ]  # fmt: skip


def gallery(predictor: Predictor, codes: csr_matrix, labels: np.ndarray) -> list[ConceptCard]:
    """The concepts that matter most for the decisions, named ones first."""
    dictionary, classes = predictor.dictionary, len(predictor.classes)
    weights = predictor.cbm.probe.weights.double().numpy()
    mattering = np.abs(class_mean_codes(codes, labels, classes) * weights).sum(axis=0)
    shown = [name for name in dictionary.names if name.status != "blocked"]
    shown.sort(key=lambda name: (name.status != "named", -mattering[name.concept]))
    density = dictionary.statistics["density"].to_pylist()
    return [
        ConceptCard(
            name=name, density=density[name.concept], thumbnails=_pictures(predictor, name.concept)
        )
        for name in shown[:GALLERY]
    ]


def _pictures(predictor: Predictor, concept: int) -> list[Thumbnail]:
    table = predictor.dictionary.examples
    mine = table.filter(np.asarray(table["concept"]) == concept).slice(0, THUMBNAILS)
    found = [
        (predictor.dictionary.thumbnail(row), item)
        for row, item in zip(mine["row"].to_pylist(), mine["item_id"].to_pylist(), strict=True)
    ]
    return [Thumbnail(image=path.read_bytes(), caption=item) for path, item in found if path]


def class_explanations(
    predictor: Predictor, codes: csr_matrix, labels: np.ndarray
) -> list[ClassExplanation]:
    """Per class: its largest class-mean centred codes, and the weights of a sparse head."""
    heads = predictor.cbm.nec_probes
    head = heads.get(10) or predictor.cbm.probe
    weights = head.weights.double().numpy()
    means = top_class_concepts(codes, labels, len(predictor.classes), top=BARS)
    return [
        ClassExplanation(
            name=name,
            images=int((labels == index).sum()),
            concepts=_weighted(predictor, means[index].concepts, means[index].values),
            weights=_largest(predictor, weights[index]),
        )
        for index, name in enumerate(predictor.classes[:CLASSES_SHOWN])
    ]


def _largest(predictor: Predictor, weights: np.ndarray) -> list[WeightedConcept]:
    order = np.argsort(-np.abs(weights), kind="stable")[:BARS]
    order = order[weights[order] != 0]
    return _weighted(predictor, order, weights[order])


def guessed(name: ConceptName) -> str:
    """The name, or for an unnamed concept its number and the best word with a question mark."""
    if name.status != "unnamed" or not name.alternatives:
        return name.name
    return f"{name.name} ({name.alternatives[0][0]}?)"


def _with_guesses(predictor: Predictor, prediction: Prediction) -> Prediction:
    names = predictor.dictionary.names
    return replace(
        prediction,
        contributions=tuple(
            part if part.concepts else replace(part, name=guessed(names[part.concept]))
            for part in prediction.contributions
        ),
    )


def _weighted(
    predictor: Predictor, concepts: np.ndarray, values: np.ndarray
) -> list[WeightedConcept]:
    names = predictor.dictionary.names
    return [
        WeightedConcept(concept=int(concept), name=guessed(names[concept]), value=float(value))
        for concept, value in zip(concepts, values, strict=True)
    ]


def local_explanations(
    recipe: Recipe,
    predictor: Predictor,
    embeddings: EmbeddingsArtifact,
    judged: tuple[np.ndarray, np.ndarray],
    codes: csr_matrix,
) -> list[LocalExplanation]:
    """Right and wrong decisions on held-out photos, then the sample photos."""
    rows, labels = judged
    source = embedded_source(recipe, embeddings)
    shown = []
    if source is not None:
        records = records_by_row(embeddings)
        ids = embeddings.items["id"].to_pylist()
        for position in _selection(predictor, codes, labels):
            dense = torch.from_numpy(codes[position].toarray().astype(np.float32))
            ((best, others),) = _decisions(predictor, dense)
            record = records[int(rows[position])]
            shown.append(
                LocalExplanation(
                    image=preview(read_photo(source, record)),
                    title=ids[record],
                    prediction=best,
                    true_class=predictor.classes[labels[position]],
                    alternatives=others,
                )
            )
    return shown + _sample_explanations(predictor)


def _decisions(
    predictor: Predictor, codes: torch.Tensor
) -> list[tuple[Prediction, list[Prediction]]]:
    """Per photo the best class, its concepts of one name added up, and the next two."""
    ranked = predictor.predict_codes(codes, top_classes=3, by="name")
    return [(_with_guesses(predictor, best), others) for best, *others in ranked]


def _selection(predictor: Predictor, codes: csr_matrix, labels: np.ndarray) -> list[int]:
    """Some right decisions, of different classes, and some wrong ones."""
    guesses = _guesses(predictor, codes)
    right = np.flatnonzero(guesses == labels)
    _, first = np.unique(labels[right], return_index=True)
    wrong = np.flatnonzero(guesses != labels)
    return [*right[first][:RIGHT_SHOWN].tolist(), *wrong[:WRONG_SHOWN].tolist()]


def _guesses(predictor: Predictor, codes: csr_matrix) -> np.ndarray:
    weights = predictor.cbm.probe.weights.double().numpy()
    return (codes @ weights.T + predictor.cbm.probe.bias.double().numpy()).argmax(axis=1)


def _sample_explanations(predictor: Predictor) -> list[LocalExplanation]:
    photos = sample_photos()
    codes = predictor.encode(predictor.embed([image for _, image in photos]))
    return [
        LocalExplanation(
            image=preview(image),
            title=f"{name} (a photo that is not of this data set)",
            prediction=best,
            alternatives=others,
        )
        for (name, image), (best, others) in zip(photos, _decisions(predictor, codes), strict=True)
    ]
