"""What one method at one layer in one setting came to, kept until the others are done."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dncbm.artifacts import write_bytes

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("method", "layer", "module", "setting")),
        *((name, pa.int32()) for name in ("side", "smooth", "grid", "cell")),
        ("class", pa.string()), ("score", pa.float64()), ("chance", pa.float64()),
        ("image", pa.string()), ("images", pa.list_(pa.string())),
    ]
)  # fmt: skip
"""Of the rows of `scores.parquet`, one per map."""


class Done(NamedTuple):
    """What a task came to."""

    rows: list[dict[str, Any]]
    arrays: dict[str, Tensor]
    reason: str
    """Why the method is not defined there; empty if it is."""


def keep(file: Path, done: Done) -> None:
    """Rows last: they say that the task is done."""
    write_bytes(file.with_suffix(".safetensors"), save(done.arrays))
    table = pa.Table.from_pylist(done.rows, schema=SCHEMA)
    table = table.replace_schema_metadata({"reason": done.reason})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    write_bytes(file.with_suffix(".parquet"), stream.getvalue())


def read(file: Path) -> Done | None:
    """What an earlier run kept of a task."""
    try:
        table = pq.read_table(file.with_suffix(".parquet"))
        arrays = load(file.with_suffix(".safetensors").read_bytes())
    except (OSError, ValueError, pa.ArrowInvalid, SafetensorError):
        return None
    reason = (table.schema.metadata or {}).get(b"reason", b"").decode()
    return Done(table.to_pylist(), arrays, reason)
