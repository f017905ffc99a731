"""Stage 5: everything a person wants to see of a model, as one HTML file."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from dncbm.artifacts import load_manifest, require_input
from dncbm.encoders.cache import EmbeddingsArtifact, load_embeddings
from dncbm.encoders.labelled import labelled_rows
from dncbm.predictor import Predictor
from dncbm.probe.metrics import confusion, probe_logits
from dncbm.report.build import build_report
from dncbm.report.data import Confusion, ReportData
from dncbm.sae.encode import encode_rows
from dncbm.sae.rows import ShardRows
from dncbm.training.progress import Progress, no_progress
from pipelines import report_parts as parts
from pipelines.recipes import Recipe
from pipelines.report_quality import quality_rows
from pipelines.workspace import Workspace


def report_stage(
    recipe: Recipe,
    workspace: Workspace,
    predictor: Predictor | None,
    progress: Progress = no_progress,
) -> Path:
    """Write the report of a finished model; returns the path of the HTML file."""
    predictor = predictor or Predictor.load(workspace.root, device=recipe.device)
    progress("report", 0, 2)
    data = collect(recipe, workspace, predictor)
    progress("report", 1, 2)
    path = build_report(data, workspace.report)
    progress("report", 2, 2)
    return path


def collect(recipe: Recipe, workspace: Workspace, predictor: Predictor) -> ReportData:
    """The plain values that the report shows."""
    embeddings = load_embeddings(workspace.embeddings)
    require_input(
        predictor.cbm.manifest,
        "embeddings",
        embeddings.manifest.fingerprint,
        artifact=f"The classifier {workspace.cbm}",
        remedy="Run `dncbm discover`, `name` and `bottleneck` again.",
    )
    splits = labelled_rows(embeddings, predictor.classes)
    train, judged = splits["train"], splits["test"] if len(splits["test"][0]) else splits["train"]
    train_codes, codes = (_encode(predictor, embeddings, rows) for rows, _ in (train, judged))
    logits = probe_logits(predictor.cbm.probe, codes)
    naming = predictor.dictionary.manifest.metrics["naming"]
    return ReportData(
        dataset=_describe(recipe, embeddings, predictor),
        encoder=predictor.encoder.spec,
        created=datetime.now(UTC).isoformat(timespec="minutes"),
        recipe=parts.recipe_rows(recipe),
        fingerprints=predictor.cbm.manifest.inputs | {"cbm": predictor.cbm.manifest.fingerprint},
        splits={split: len(rows) for split, (rows, _) in splits.items()},
        accuracies=parts.accuracy_rows(predictor, len(judged[0])),
        nec_curve=parts.nec_curve(predictor),
        sae_metrics=quality_rows(
            load_manifest(workspace.sae, "sae").metrics, predictor.cbm.metrics.get("sae", {})
        ),
        densities=predictor.dictionary.statistics["density"].to_pylist(),
        naming=parts.naming_rows(naming),
        scores=[name.score for name in predictor.dictionary.names],
        score_threshold=naming.get("threshold"),
        concepts=parts.gallery(predictor, train_codes, train[1]),
        num_concepts=len(predictor.dictionary.names),
        classes=parts.class_explanations(predictor, train_codes, train[1]),
        explanations=parts.local_explanations(recipe, predictor, embeddings, judged, codes),
        confusion=Confusion(
            classes=predictor.classes, counts=confusion(logits, judged[1]).tolist()
        ),
    )


def _encode(predictor: Predictor, embeddings: EmbeddingsArtifact, rows: np.ndarray) -> csr_matrix:
    return encode_rows(predictor.sae, ShardRows(embeddings.shards, rows))


def _describe(recipe: Recipe, embeddings: EmbeddingsArtifact, predictor: Predictor) -> str:
    name = Path(recipe.data).name if recipe.data else recipe.dataset
    return f"{name} ({len(embeddings):,} photos, {len(predictor.classes)} classes)"
