"""Accuracy of a finished model: on its held-out photos, or on photos it has never met."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dncbm.artifacts import require_input
from dncbm.data.images import decode_image
from dncbm.data.sources import ImageSource
from dncbm.encoders.cache import load_embeddings
from dncbm.encoders.labelled import labelled_rows
from dncbm.errors import InvalidInput
from dncbm.predictor import Predictor
from dncbm.probe.decisions import LISTED, ShortDecisions, plain, short_decisions
from dncbm.probe.matrix import Codes
from dncbm.probe.metrics import accuracy, per_class_accuracy, probe_logits
from dncbm.probe.store import Cbm
from dncbm.sae.encode import encode_rows
from dncbm.sae.rows import ShardRows
from dncbm.sae.store import load_sae
from dncbm.training.progress import Progress, no_progress
from pipelines.workspace import Workspace

logger = logging.getLogger(__name__)

_BATCH = 64


def evaluate_test_split(workspace: Workspace, cbm: Cbm) -> dict[str, Any]:
    """Accuracy per head and per class on the test rows of the model's own embeddings.

    Args:
        workspace: of the model.
        cbm: its heads, as they are or edited.
    """
    embeddings = load_embeddings(workspace.embeddings)
    sae = load_sae(workspace.sae)
    for role, manifest in (("embeddings", embeddings.manifest), ("sae", sae.manifest)):
        require_input(
            cbm.manifest,
            role,
            manifest.fingerprint,
            artifact=f"The classifier {workspace.cbm}",
            remedy="Run `dncbm name` and `dncbm bottleneck` again.",
        )
    rows, labels = labelled_rows(embeddings, tuple(cbm.classes))["test"]
    if not len(rows):
        raise InvalidInput(
            f"{workspace.root} holds out no test photos. Give photos of your own with --data."
        )
    return _score(cbm, encode_rows(sae.model, ShardRows(embeddings.shards, rows)), labels)


def evaluate_photos(
    predictor: Predictor, source: ImageSource, progress: Progress = no_progress
) -> dict[str, Any]:
    """Accuracy per head and per class on labelled photos; broken ones are counted and skipped.

    Raises:
        InvalidInput: no photo has a label that the model knows.
    """
    codes, labels, skipped = [], [], 0
    for batch in _labelled_batches(predictor, source):
        images = []
        for index, label in batch:
            try:
                images.append(decode_image(source.read(index)))
                labels.append(label)
            except InvalidInput as error:
                logger.warning("Skipped %s: %s", source.records[index].path, error)
                skipped += 1
        if images:
            codes.append(predictor.encode(predictor.embed(images)))
        progress("evaluate", len(labels) + skipped, len(source.records))
    if not codes:
        raise InvalidInput(
            "No readable photo has a label of this model. Its classes are: "
            f"{', '.join(predictor.classes[:20])}."
        )
    result = _score(predictor.cbm, torch.cat(codes).numpy(), np.array(labels))
    return result | {"skipped": skipped}


def _labelled_batches(predictor: Predictor, source: ImageSource) -> Iterator[list[tuple[int, int]]]:
    known = {name: index for index, name in enumerate(predictor.classes)}
    wanted = [
        (position, known[record.label])
        for position, record in enumerate(source.records)
        if record.label in known
    ]
    for start in range(0, len(wanted), _BATCH):
        yield wanted[start : start + _BATCH]


def _score(cbm: Cbm, codes: Codes, labels: np.ndarray) -> dict[str, Any]:
    heads = {"dncbm": cbm.probe, **{f"nec{n}": cbm.nec_probes[n] for n in sorted(cbm.nec_probes)}}
    logits = {name: probe_logits(head, codes) for name, head in heads.items()}
    per_class = per_class_accuracy(logits["dncbm"], labels)
    short = {name: short_decisions(head, codes, labels) for name, head in heads.items()}
    return {
        "images": len(labels),
        "accuracy": {name: accuracy(values, labels) for name, values in logits.items()},
        "per_class": {
            name: float(share)
            for name, share in zip(cbm.classes, per_class, strict=True)
            if not np.isnan(share)
        },
        f"agreement_of_{LISTED}": {name: rows[LISTED].agreement for name, rows in short.items()},
        "short_decisions": _rows(short),
    }


def _rows(short: dict[str, dict[int, ShortDecisions]]) -> list[dict[str, Any]]:
    return [
        {"head": name, "top": int(top), **measures}
        for name, found in short.items()
        for top, measures in plain(found).items()
    ]
