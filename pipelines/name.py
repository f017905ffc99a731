"""Stage 3: the autoencoder's concepts get names and their top images."""

import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import torch

from dncbm.artifacts import load_manifest, writing
from dncbm.data.sources import ImageSource
from dncbm.encoders.cache import EmbeddingsArtifact
from dncbm.encoders.clip import Encoder
from dncbm.errors import ArtifactError
from dncbm.naming.assign import Naming, name_dictionary
from dncbm.naming.config import NamingConfig
from dncbm.naming.dictionary import Dictionary, load_dictionary, save_dictionary
from dncbm.naming.examples import concept_statistics, top_examples
from dncbm.naming.propose import HttpProposer, extended, proposals
from dncbm.naming.prototypes import naming_directions
from dncbm.naming.quality import naming_metrics
from dncbm.naming.trust import Labelled, class_owners
from dncbm.naming.vocabulary import (
    Vocabulary,
    build_vocabulary,
    clean_words,
    load_vocabulary,
    read_words,
    save_vocabulary,
)
from dncbm.recipes import Recipe, naming_config
from dncbm.sae.encode import encode_rows
from dncbm.sae.rows import ShardRows, chunks
from dncbm.sae.store import LoadedSae
from dncbm.training.progress import Progress, no_progress
from pipelines.bottleneck import class_names, readable
from pipelines.discover import train_rows
from pipelines.origin import require_same_photos
from pipelines.photos import embedded_source, read_photo, records_by_row
from pipelines.workspace import Workspace, is_current

logger = logging.getLogger(__name__)

INDEX = ".index"
"""Folder beside the vocabulary's embeddings that keeps an approximate index of them."""
PROPOSER_KEY = "DNCBM_PROPOSER_KEY"
_PROPOSED_FROM = 4
"""Top images that a proposer sees."""

_THUMBNAIL_PIXELS = 160


def name_stage(
    recipe: Recipe,
    embeddings: EmbeddingsArtifact,
    sae: LoadedSae,
    encoder: Encoder,
    workspace: Workspace,
    progress: Progress = no_progress,
) -> Dictionary:
    """Name every concept and keep its top train images, or read the dictionary already made.

    Raises:
        ArtifactMismatch: autoencoder, embeddings and encoder do not belong together.
    """
    require_same_photos(embeddings, sae, encoder)
    vocabulary = vocabulary_stage(recipe, encoder, workspace)
    config = naming_config(recipe)
    recorded = {
        "naming": config.as_dict(),
        "examples": recipe.examples,
        "class_prompts": list(recipe.templates),
    }
    inputs = {
        "embeddings": embeddings.manifest.fingerprint,
        "encoder": encoder.fingerprint,
        "sae": sae.manifest.fingerprint,
        "vocabulary": load_manifest(workspace.vocabulary, "vocabulary").fingerprint,
    }
    if is_current(workspace.dictionary, "dictionary", recorded, inputs):
        try:
            return load_dictionary(workspace.dictionary)
        except ArtifactError as error:
            logger.warning("%s Making it again.", error)
    rows = train_rows(embeddings)
    train = ShardRows(embeddings.shards, rows)
    codes = encode_rows(sae.model, train, progress=progress)
    dictionary = sae.model.dictionary.detach()
    statistics = concept_statistics(codes)
    density = statistics["density"].to_numpy()
    needs_mean = config.centring == "words+directions"
    name = partial(
        name_dictionary,
        naming_directions(config.direction, dictionary, codes, chunks(train)),
        config=config,
        image_mean=mean_embedding(embeddings, rows) if needs_mean else None,
        active=torch.from_numpy(density > 0),
        labelled=labelled_concepts(recipe, embeddings, rows, codes, encoder),
        encoder_fingerprint=encoder.fingerprint,
        saved=workspace.vocabulary / INDEX,
    )
    naming = name(vocabulary)
    examples = top_examples(codes, recipe.examples, rows=rows, item_ids=item_ids(embeddings, rows))
    thumbnails = _thumbnails(recipe, embeddings, examples, workspace, progress)
    added = _proposed(config, naming, examples, thumbnails) if config.proposer else []
    if added:
        naming = name(extended(vocabulary, added, encoder.encode_texts))
    save_dictionary(
        workspace.dictionary,
        directions=dictionary,
        names=naming.names,
        space=naming.space,
        statistics=statistics,
        examples=examples,
        config=recorded | {"threshold": naming.threshold, "proposed": added},
        inputs=inputs,
        thumbnails=thumbnails,
        metrics={"naming": naming_metrics(naming.names, density) | _how(naming)},
    )
    return load_dictionary(workspace.dictionary)


def _how(naming: Naming) -> dict[str, Any]:
    """What the names were decided by and how far they can be trusted."""
    return {
        "threshold": naming.threshold,
        "index": naming.index,
        "index_recall": naming.index_recall,
        "hubness": naming.hubness,
        "trust": naming.trust,
    }


def labelled_concepts(
    recipe: Recipe,
    embeddings: EmbeddingsArtifact,
    rows: np.ndarray,
    codes: sp.csr_matrix,
    encoder: Encoder,
) -> Labelled | None:
    """Which class each concept stands for, by the labels of the given rows; None without labels."""
    classes = class_names(embeddings)
    if len(classes) < 2:
        return None
    number = {name: index for index, name in enumerate(classes)}
    labels = embeddings.labels()
    known = np.array([number.get(labels[row] or "", -1) for row in rows.tolist()])
    texts = encoder.encode_texts(
        [readable(name) for name in classes], templates=list(recipe.templates)
    )
    return Labelled(class_owners(codes, known), texts)


def _proposed(
    config: NamingConfig, naming: Naming, examples: pa.Table, thumbnails: Path | None
) -> list[str]:
    """What the user's endpoint says of concepts that no word names, sorted."""
    if thumbnails is None:
        logger.warning("The photos are gone, so nothing is shown to the name proposer.")
        return []
    proposer = HttpProposer(
        url=config.proposer, model=config.proposer_model, key=os.environ.get(PROPOSER_KEY)
    )
    shown: dict[int, list[bytes]] = {}
    best = examples.filter(np.asarray(examples["rank"]) < _PROPOSED_FROM)
    for concept, row in zip(best["concept"].to_pylist(), best["row"].to_pylist(), strict=True):
        if naming.names[concept].status == "unnamed":
            shown.setdefault(concept, []).append((thumbnails / f"{row}.jpg").read_bytes())
    found = proposals(proposer, shown.items())
    return sorted({phrase for phrases in found.values() for phrase in phrases})


def vocabulary_words(recipe: Recipe) -> list[str]:
    """The words that a recipe names concepts with.

    Raises:
        InvalidInput: unreadable list, or fewer than two usable words.
    """
    return clean_words(read_words(recipe.vocabulary))


def vocabulary_stage(recipe: Recipe, encoder: Encoder, workspace: Workspace) -> Vocabulary:
    """The vocabulary's text embeddings, embedded anew only when words or encoder changed."""
    words, templates = vocabulary_words(recipe), naming_config(recipe).templates
    if (workspace.vocabulary / "manifest.json").is_file():
        try:
            stored = load_vocabulary(workspace.vocabulary)
        except ArtifactError as error:
            logger.warning("%s Making it again.", error)
        else:
            same_words = set(stored.words) | stored.blocked == set(words)
            same = same_words and stored.templates == templates
            if same and stored.encoder_fingerprint == encoder.fingerprint:
                return stored
    vocabulary = build_vocabulary(
        words,
        encoder.encode_texts,
        encoder_fingerprint=encoder.fingerprint,
        templates=templates,
    )
    save_vocabulary(workspace.vocabulary, vocabulary)
    return load_vocabulary(workspace.vocabulary)


def mean_embedding(embeddings: EmbeddingsArtifact, rows: np.ndarray) -> torch.Tensor:
    """The mean (d,) of the given rows, summed block by block in float64."""
    total = np.zeros(embeddings.embed_dim)
    for start in range(0, len(rows), 4096):
        total += embeddings.load(rows[start : start + 4096]).sum(axis=0, dtype=np.float64)
    return torch.from_numpy((total / len(rows)).astype(np.float32))


def item_ids(embeddings: EmbeddingsArtifact, rows: np.ndarray) -> list[str]:
    """The id of the image behind each row."""
    by_row = records_by_row(embeddings)
    ids = embeddings.items["id"].to_pylist()
    return [ids[by_row[row]] for row in rows.tolist()]


def _thumbnails(
    recipe: Recipe,
    embeddings: EmbeddingsArtifact,
    examples: pa.Table,
    workspace: Workspace,
    progress: Progress,
) -> Path | None:
    """A folder of small pictures `<row>.jpg` of the example images; None without the photos."""
    source = embedded_source(recipe, embeddings)
    if source is None:
        return None
    folder = workspace.work / "thumbnails"
    with writing(folder):
        # what a run of another recipe left here must not get into the dictionary
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    by_row = records_by_row(embeddings)
    rows = sorted(set(examples["row"].to_pylist()))
    jobs = [(source, by_row[row], folder / f"{row}.jpg") for row in rows]
    with ThreadPoolExecutor(max_workers=max(recipe.workers, 1)) as pool:
        for done, _ in enumerate(pool.map(_write_thumbnail, jobs), start=1):
            progress("thumbnails", done, len(jobs))
    return folder


def _write_thumbnail(job: tuple[ImageSource, int, Path]) -> None:
    source, record, path = job
    image = read_photo(source, record)
    image.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    with writing(path):
        image.save(path, quality=85)
