"""A small concept world, and the `dncbm` command as a user runs it."""

import atexit
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dncbm.data.concept_world import CLASSES, CONCEPTS, write_concept_world
from pipelines.cli import app
from pipelines.console import run_guarded

# words enough for the concept world; the bundled list would take most of the tests' time
_SCRATCH = tempfile.TemporaryDirectory(prefix="dncbm-test-")
atexit.register(_SCRATCH.cleanup)
WORDS = Path(_SCRATCH.name) / "words.txt"
WORDS.write_text("\n".join((*CONCEPTS, *CLASSES)))

SMALL = [
    "--set", "sae.num_concepts=48", "--set", "sae.epochs=30", "--vocabulary", str(WORDS),
    "--workers", "0",
]  # fmt: skip


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.strip().splitlines()[-1])

    @property
    def message(self) -> str:
        return " ".join(self.err.split())


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def run(*arguments: object) -> Finished:
    """The command in this process: what `main` does, without the start of a new Python."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = run_guarded(lambda: app([str(argument) for argument in arguments]))
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Finished(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def dncbm() -> Iterator[Callable[..., Finished]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        yield run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "world"
    write_concept_world(path, num_images=120, size=64, seed=1)
    return path


@pytest.fixture(scope="session")
def finished(
    dncbm: Callable[..., Finished], photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Finished]:
    """A model directory left by `dncbm quickstart`, and what the command said."""
    out = tmp_path_factory.mktemp("models") / "world"
    done = dncbm("quickstart", "--data", photos, "--out", out, "--json", *SMALL)
    assert done.code == 0, done.err
    return out, done
