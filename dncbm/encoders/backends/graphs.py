"""The image tower as a graph for other runtimes, kept beside the cache of models.

A graph is a folder named by the encoder's fingerprint, the format and the version of what wrote
it. It is written under a hidden name and renamed, and a note of SHA-256 sums tells a damaged one,
which is made again.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HOME

from dncbm.artifacts import file_sha256, read_json, write_json
from dncbm.encoders.clip import Encoder
from dncbm.errors import ArtifactError
from dncbm.files import draft_of, publish

_log = logging.getLogger(__name__)

CACHE = "DNCBM_CACHE"
"""Environment variable: another folder for what can be made again."""
_NOTE = "graph.json"
_EXAMPLES = 2
"""Images of the example batch; one would be taken for a fixed size."""


def graph_folder() -> Path:
    """Where graphs are kept: `dncbm/graphs` beside the hub's folder, or below `$DNCBM_CACHE`."""
    base = os.environ.get(CACHE)
    return (Path(base) if base else Path(HF_HOME).parent / "dncbm") / "graphs"


def cached_graph(encoder: Encoder, kind: str, write: Callable[[Path], None]) -> Path:
    """The folder of a graph of `encoder`, written by `write` unless it is there and whole.

    Args:
        encoder: whose image tower it is.
        kind: format and versions; another kind is another graph.
        write: fills an empty folder.
    """
    folder = graph_folder() / f"{encoder.fingerprint[:32]}-{kind}"
    if _is_whole(folder):
        return folder
    _log.info("Exporting the image tower of %s to %s", encoder.spec, folder)
    with draft_of(folder) as draft:
        write(draft)
        sums = {file.name: file_sha256(file) for file in _files(draft)}
        write_json(draft / _NOTE, sums)
        publish(draft, folder)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        expected = read_json(folder / _NOTE)
    except ArtifactError:
        return False
    return {file.name: file_sha256(file) for file in _files(folder)} == expected


def _files(folder: Path) -> list[Path]:
    hidden = (_NOTE,)
    return [f for f in folder.iterdir() if f.name not in hidden and not f.name.startswith(".")]


def exported_tower(encoder: Encoder) -> torch.export.ExportedProgram:
    """The image tower as an exported program; the number of images is free."""
    example = torch.zeros(_EXAMPLES, 3, *encoder.image_size)
    with quiet_export():
        return torch.export.export(
            encoder.image_tower(),
            (example,),
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        )


@contextmanager
def quiet_export() -> Iterator[None]:
    """Keep exporters' notes about themselves from users; failures are raised anyway."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    # the fused attention kernel has no counterpart in a graph
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
