"""The `dictionary` artifact: directions, names, statistics and top images of every concept."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dncbm.artifacts import Manifest, create_artifact, load_manifest, verify_files, writing
from dncbm.errors import ArtifactError, InvalidInput
from dncbm.types import ConceptName

DIRECTIONS = "directions.safetensors"
CONCEPTS = "concepts.parquet"
EXAMPLES = "examples.parquet"
THUMBNAILS = "thumbnails"

_WORD = pa.struct([("name", pa.string()), ("score", pa.float64())])
NAME_SCHEMA = pa.schema(
    [
        ("concept", pa.int32()),
        ("name", pa.string()),
        ("score", pa.float64()),
        ("margin", pa.float64()),
        ("alternatives", pa.list_(_WORD)),
        ("status", pa.string()),
        ("group", pa.int32()),
    ]
)
STATISTICS_SCHEMA = pa.schema(
    [
        ("concept", pa.int32()),
        ("density", pa.float32()),
        ("mean_code", pa.float32()),
        ("max_code", pa.float32()),
    ]
)
EXAMPLE_SCHEMA = pa.schema(
    [
        ("concept", pa.int32()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("row", pa.int64()),
        ("code", pa.float32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Dictionary:
    """A named dictionary as loaded from disk."""

    path: Path
    directions: Float[Tensor, "c d"]
    """Unit-norm rows."""
    names: list[ConceptName]
    statistics: pa.Table
    """concept, density, mean_code, max_code; one row per concept, in order."""
    examples: pa.Table
    """concept, rank, item_id, row, code; best image first."""
    manifest: Manifest

    def thumbnail(self, row: int) -> Path | None:
        """Small picture of an embedding row, or None where none was kept."""
        file = self.path / THUMBNAILS / f"{row}.jpg"
        return file if file.is_file() else None


def save_dictionary(  # noqa: PLR0913 - everything that the artifact holds
    path: Path,
    *,
    directions: Float[Tensor, "c d"],
    names: Sequence[ConceptName],
    statistics: pa.Table,
    examples: pa.Table,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    thumbnails: Path | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write a `dictionary` artifact; returns its manifest.

    Args:
        path: directory to write, atomically.
        directions: unit-norm decoder rows.
        names: one per row, in order.
        statistics: of `concept_statistics`.
        examples: of `top_examples`, with `item_id`.
        config: the naming options and whatever else is needed to make it again.
        inputs: fingerprints by role, for example sae, vocabulary, embeddings, encoder.
        thumbnails: folder of `<row>.jpg`, copied into the artifact.
        metrics: for the manifest, for example `{"naming": naming_metrics(names)}`.

    Raises:
        InvalidInput: names, statistics or examples do not fit the directions.
        Unavailable: the disk is full or not writable.
    """
    _check(directions, names, statistics, examples)
    concepts = _name_table(names)
    for column in STATISTICS_SCHEMA.names[1:]:
        concepts = concepts.append_column(
            STATISTICS_SCHEMA.field(column), statistics[column].cast(pa.float32())
        )
    with create_artifact(path, "dictionary", config=config, inputs=inputs) as draft, writing(path):
        save_file(
            {"directions": directions.detach().cpu().float().contiguous()}, draft.path / DIRECTIONS
        )
        pq.write_table(concepts, draft.path / CONCEPTS)
        pq.write_table(
            examples.select(EXAMPLE_SCHEMA.names).cast(EXAMPLE_SCHEMA), draft.path / EXAMPLES
        )
        if thumbnails is not None:
            shutil.copytree(thumbnails, draft.path / THUMBNAILS)
        draft.metrics.update(metrics or {})
    return load_manifest(path, "dictionary")


def load_dictionary(path: Path, *, verify: bool = True) -> Dictionary:
    """Read a `dictionary` artifact; `verify` compares every file with its recorded hash.

    Raises:
        ArtifactError: not a dictionary, or damaged.
    """
    manifest = load_manifest(path, "dictionary")
    if verify:
        verify_files(path, manifest)
    try:
        concepts = pq.read_table(path / CONCEPTS)
        return Dictionary(
            path=path,
            directions=load_file(path / DIRECTIONS)["directions"],
            names=[_name(row) for row in concepts.select(NAME_SCHEMA.names).to_pylist()],
            statistics=concepts.select(STATISTICS_SCHEMA.names),
            examples=pq.read_table(path / EXAMPLES),
            manifest=manifest,
        )
    except (KeyError, pa.ArrowException, SafetensorError) as error:
        raise ArtifactError(f"{path} is damaged: {error}. Name the concepts again.") from error


def _check(
    directions: Tensor, names: Sequence[ConceptName], statistics: pa.Table, examples: pa.Table
) -> None:
    count = len(directions)
    if not torch.isfinite(directions).all():
        raise InvalidInput("Dictionary directions hold NaN or infinity. Train the SAE again.")
    if [name.concept for name in names] != list(range(count)):
        raise InvalidInput(
            f"{len(names)} names came for {count} directions, or out of order; give one name per "
            "direction, in order."
        )
    if statistics.num_rows != count:
        raise InvalidInput(
            f"Statistics have {statistics.num_rows} rows for {count} directions; give one row "
            "per direction."
        )
    missing = [name for name in EXAMPLE_SCHEMA.names if name not in examples.column_names]
    if missing:
        raise InvalidInput(
            f"The examples table lacks {', '.join(missing)}. Make it with top_examples."
        )


def _name_table(names: Sequence[ConceptName]) -> pa.Table:
    rows = [
        {
            "concept": name.concept,
            "name": name.name,
            "score": name.score,
            "margin": name.margin,
            "alternatives": [{"name": word, "score": score} for word, score in name.alternatives],
            "status": name.status,
            "group": name.group,
        }
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=NAME_SCHEMA)


def _name(row: Mapping[str, Any]) -> ConceptName:
    words = tuple((entry["name"], entry["score"]) for entry in row["alternatives"])
    return ConceptName(**{**row, "alternatives": words})
