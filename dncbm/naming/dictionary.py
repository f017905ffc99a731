"""The `dictionary` artifact: directions, names, statistics and top images of every concept."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dncbm.artifacts import Manifest, create_artifact, load_manifest, verify_files, writing
from dncbm.errors import ArtifactError, InvalidInput
from dncbm.naming.space import NamingSpace
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
    space: NamingSpace
    """What the names were compared in."""
    statistics: pa.Table
    """concept, density, mean_code, max_code; one row per concept, in order."""
    examples: pa.Table
    """concept, rank, item_id, row, code; best image first."""
    manifest: Manifest

    def search(self, text: Float[Tensor, "d"], limit: int) -> list[tuple[int, float]]:
        """The concepts nearest to a text embedding, as (concept, cosine), best first.

        Compared as the names were. Blocked concepts and those that never fire are left out.
        """
        cosines = self.space.scores(text[None])[0].numpy()
        order = np.argsort(-cosines, kind="stable")
        fires = self.statistics["density"].to_numpy() > 0
        shown = (i for i in order if fires[i] and self.names[i].status != "blocked")
        return [(int(i), float(cosines[i])) for i in islice(shown, limit)]

    def thumbnail(self, row: int) -> Path | None:
        """Small picture of an embedding row, or None where none was kept."""
        file = self.path / THUMBNAILS / f"{row}.jpg"
        return file if file.is_file() else None


def save_dictionary(  # noqa: PLR0913 - everything that the artifact holds
    path: Path,
    *,
    directions: Float[Tensor, "c d"],
    names: Sequence[ConceptName],
    space: NamingSpace,
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
        space: what the names were compared in.
        statistics: of `concept_statistics`.
        examples: of `top_examples`, with `item_id`.
        config: the naming options and whatever else is needed to make it again.
        inputs: fingerprints by role, for example sae, vocabulary, embeddings, encoder.
        thumbnails: folder of `<row>.jpg`, copied into the artifact.
        metrics: for the manifest, for example `{"naming": naming_metrics(names)}`.

    Raises:
        InvalidInput: names, space, statistics or examples do not fit the directions.
        Unavailable: the disk is full or not writable.
    """
    _check(directions, names, statistics, examples)
    _check_space(directions, space)
    concepts = _name_table(names)
    for column in STATISTICS_SCHEMA.names[1:]:
        concepts = concepts.append_column(
            STATISTICS_SCHEMA.field(column), statistics[column].cast(pa.float32())
        )
    with create_artifact(path, "dictionary", config=config, inputs=inputs) as draft, writing(path):
        tensors = {
            "directions": directions,
            "compared": space.directions,
            "word_mean": space.word_mean,
        }
        save_file({k: _plain(v) for k, v in tensors.items()}, draft.path / DIRECTIONS)
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
        tensors = load_file(path / DIRECTIONS)
        return Dictionary(
            path=path,
            directions=tensors["directions"],
            space=NamingSpace(tensors["compared"], tensors["word_mean"]),
            names=[_name(row) for row in concepts.select(NAME_SCHEMA.names).to_pylist()],
            statistics=concepts.select(STATISTICS_SCHEMA.names),
            examples=pq.read_table(path / EXAMPLES),
            manifest=manifest,
        )
    except KeyError as error:
        raise ArtifactError(
            f"{path} has no {error}: it is damaged or of another version. Name the concepts again."
        ) from error
    except (pa.ArrowException, SafetensorError) as error:
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


def _check_space(directions: Tensor, space: NamingSpace) -> None:
    compared, mean = space.directions, space.word_mean
    if compared.shape != directions.shape or mean.shape != directions.shape[1:]:
        raise InvalidInput(
            f"Names were compared with {tuple(compared.shape)} directions and a mean word of "
            f"{tuple(mean.shape)}; the dictionary is {tuple(directions.shape)}. Name it again."
        )
    if not torch.isfinite(compared).all() or not torch.isfinite(mean).all():
        raise InvalidInput("What names were compared with holds NaN or infinity. Name again.")


def _plain(tensor: Tensor) -> Tensor:
    # A copy: safetensors refuses tensors that share memory, as rows compared as they are do.
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()


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
