"""Stage 4: codes to classes, measured beside its baselines on the same embeddings."""

from dataclasses import asdict

import numpy as np
import torch

from dncbm.encoders.cache import EmbeddingsArtifact
from dncbm.encoders.clip import Encoder
from dncbm.encoders.labelled import labelled_rows
from dncbm.errors import InvalidInput
from dncbm.naming.dictionary import Dictionary
from dncbm.probe.baselines import linear_probe_accuracy, zero_shot_accuracy
from dncbm.probe.store import Cbm, load_cbm, save_cbm
from dncbm.probe.train import DENSE, TrainedProbe, train_probe
from dncbm.recipes import Recipe, probe_config
from dncbm.sae.encode import encode_rows
from dncbm.sae.metrics import Labelled, accuracy_kept
from dncbm.sae.model import SaeModel
from dncbm.sae.rows import CHUNK, ShardRows
from dncbm.sae.store import LoadedSae
from dncbm.training.progress import Progress, no_progress
from pipelines.control import random_control
from pipelines.origin import require_one_origin
from pipelines.workspace import Workspace, is_current

_READOUT_ROWS = 10_000
"""A readout of a few hundred numbers needs no more photos than this to be compared."""


def readable(label: str) -> str:
    """A class name as a person, and a text encoder, would write it."""
    return label.replace("_", " ").strip()


def class_names(embeddings: EmbeddingsArtifact) -> tuple[str, ...]:
    """The distinct labels of the images, sorted."""
    return tuple(sorted({label for label in embeddings.labels() if label}))


def bottleneck_stage(
    recipe: Recipe,
    embeddings: EmbeddingsArtifact,
    sae: LoadedSae,
    dictionary: Dictionary,
    encoder: Encoder,
    workspace: Workspace,
    progress: Progress = no_progress,
) -> Cbm:
    """Train the probe on the train codes and measure it, or read the one already made.

    Raises:
        InvalidInput: fewer than two classes, or a class without a train image.
        ArtifactMismatch: autoencoder, dictionary and embeddings do not belong together.
    """
    classes = class_names(embeddings)
    if len(classes) < 2:
        raise InvalidInput(
            f"The images have {len(classes)} class labels; a classifier needs at least two."
        )
    require_one_origin(embeddings, sae, dictionary, encoder)
    config = probe_config(recipe)
    recorded = {"encoder": encoder.spec, "templates": list(recipe.templates), **asdict(config)}
    inputs = {
        "embeddings": embeddings.manifest.fingerprint,
        "encoder": encoder.fingerprint,
        "sae": sae.manifest.fingerprint,
        "dictionary": dictionary.manifest.fingerprint,
    }
    if not is_current(workspace.cbm, "cbm", recorded, inputs):
        data = labelled_rows(embeddings, classes)
        used = {split: pair for split, pair in data.items() if len(pair[0])}
        codes = {
            split: encode_rows(sae.model, ShardRows(embeddings.shards, rows))
            for split, (rows, _) in used.items()
        }
        trained = train_probe(
            codes,
            {split: labels for split, (_, labels) in used.items()},
            classes,
            config,
            checkpoint=workspace.checkpoint("bottleneck").with_suffix(""),
            progress=progress,
        )
        accuracy = baselines(recipe, embeddings, data, encoder) | head_accuracy(trained)
        kept = kept_by_the_sae(embeddings, sae.model, data, recipe.seed)
        control = random_control(embeddings, sae.model, used, codes, trained, config)
        save_cbm(
            workspace.cbm,
            trained,
            config=recorded,
            inputs=inputs,
            metrics=trained.metrics
            | {"test_accuracy": accuracy, "sae": kept, "random_control": control},
        )
        workspace.discard("bottleneck")
    return load_cbm(workspace.cbm)


def kept_by_the_sae(
    embeddings: EmbeddingsArtifact,
    sae: SaeModel,
    data: dict[str, tuple[np.ndarray, np.ndarray]],
    seed: int,
) -> dict[str, float]:
    """How much of a linear readout's test accuracy the reconstructions keep; {} without a test."""
    parts = {}
    for split in ("train", "test"):
        rows, labels = data[split]
        if not len(rows):
            return {}
        chosen = np.random.default_rng(seed).permutation(len(rows))[:_READOUT_ROWS]
        vectors = torch.from_numpy(embeddings.load(rows[chosen]).astype(np.float32))
        parts[split] = Labelled(vectors, torch.from_numpy(labels[chosen]))
    with torch.inference_mode():  # in chunks: the codes of all rows would be a dense table
        chunks = parts["test"].embeddings.split(CHUNK)
        rebuilt = torch.cat([sae(chunk).reconstruction for chunk in chunks])
    return accuracy_kept(parts["train"], parts["test"], rebuilt)


def baselines(
    recipe: Recipe,
    embeddings: EmbeddingsArtifact,
    data: dict[str, tuple[np.ndarray, np.ndarray]],
    encoder: Encoder,
) -> dict[str, float | None]:
    """Test accuracy of zero-shot and of a linear probe on the same embeddings."""
    classes = class_names(embeddings)
    vectors = {split: embeddings.load(rows) for split, (rows, _) in data.items() if len(rows)}
    labels = {split: indices for split, (_, indices) in data.items() if len(indices)}
    if "test" not in vectors:
        return {"zero_shot": None, "linear_probe": None}
    linear = linear_probe_accuracy(vectors, labels, classes, probe_config(recipe))
    if not encoder.has_texts:
        return {"zero_shot": None, "linear_probe": linear["test"]}
    texts = encoder.encode_texts(
        [readable(name) for name in classes], templates=list(recipe.templates)
    )
    return {
        "zero_shot": zero_shot_accuracy(vectors["test"], texts, labels["test"]),
        "linear_probe": linear["test"],
    }


def test_accuracy(cbm: Cbm) -> dict[str, float | None]:
    """Test accuracy by classifier: baselines, then the dense head, then by NEC."""
    stored = cbm.metrics["test_accuracy"]
    order = ["zero_shot", "linear_probe", "dncbm", *(f"nec{n}" for n in sorted(cbm.nec_probes))]
    return {name: stored[name] for name in order if name in stored}


def head_accuracy(trained: TrainedProbe) -> dict[str, float | None]:
    """Test accuracy of the dense head (`dncbm`) and of each sparse one (`nec5`, ...)."""
    tested = trained.metrics["accuracy"].get("test", {})
    return {"dncbm" if name == DENSE else name: tested.get(name) for name in trained.heads()}
