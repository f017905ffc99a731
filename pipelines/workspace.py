"""Where the artifacts of one model lie, and whether one of them is already there."""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dncbm.artifacts import MANIFEST, Kind, load_manifest, read_json, write_json, writing
from dncbm.errors import ArtifactError
from pipelines.recipes import Recipe

logger = logging.getLogger(__name__)

RECIPE = "recipe.json"
_OURS = ".dncbm"
"""Marks a `.work` directory as made here: nothing else is ever deleted."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A model directory: one sub-directory per artifact, checkpoints under `.work`."""

    root: Path

    @property
    def embeddings(self) -> Path:
        """Image embeddings."""
        return self.root / "embeddings"

    @property
    def vocabulary(self) -> Path:
        """Words and their text embeddings."""
        return self.root / "vocabulary"

    @property
    def sae(self) -> Path:
        """The sparse autoencoder."""
        return self.root / "sae"

    @property
    def dictionary(self) -> Path:
        """Concept directions, names, statistics and example images."""
        return self.root / "dictionary"

    @property
    def cbm(self) -> Path:
        """The probe: the classifier over concepts."""
        return self.root / "cbm"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.root / "report"

    @property
    def work(self) -> Path:
        """Checkpoints and whatever else is of no use once the stages are done."""
        return self.root / ".work"

    def checkpoint(self, stage: str) -> Path:
        """The file from which an interrupted stage resumes; its name begins with the stage's."""
        return self.work / f"{stage}.safetensors"

    def discard(self, stage: str) -> None:
        """Remove the checkpoints of a finished stage, also those of other recipes."""
        for left in self.work.glob(f"{stage}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def create(self) -> "Workspace":
        """Make the directory.

        Raises:
            Unavailable: it cannot be written.
            ArtifactError: it has a directory `.work` of somebody else.
        """
        if self.work.is_dir() and any(self.work.iterdir()) and not self._work_is_ours():
            raise ArtifactError(
                f"{self.work} was not made by dncbm, which would write into it and remove it. "
                "Choose another output directory."
            )
        with writing(self.root):
            self.work.mkdir(parents=True, exist_ok=True)
            (self.work / _OURS).write_text("")
        return self

    def _work_is_ours(self) -> bool:
        return (self.work / _OURS).is_file()

    def has_recipe(self) -> bool:
        """Whether a stage has run here before."""
        return (self.root / RECIPE).is_file()

    def read_recipe(self) -> Recipe:
        """The recipe that earlier stages of this model directory used."""
        if not self.has_recipe():
            raise ArtifactError(
                f"{self.root} is not a model directory: it has no {RECIPE}. "
                "Begin with `dncbm embed --out DIR` or `dncbm quickstart`."
            )
        return Recipe.of(read_json(self.root / RECIPE)).located(self.root)

    def write_recipe(self, recipe: Recipe) -> Recipe:
        """Remember the recipe, so that later stages need not be told again.

        What lies inside the model directory is remembered relative to it: it may be moved.
        """
        values = recipe.as_dict()
        for name in ("data", "vocabulary"):
            if values[name] and Path(values[name]).is_relative_to(self.root.absolute()):
                values[name] = str(Path(values[name]).relative_to(self.root.absolute()))
        write_json(self.root / RECIPE, values)
        return recipe

    def clean(self) -> None:
        """Remove the checkpoints of all stages."""
        if self._work_is_ours():
            shutil.rmtree(self.work, ignore_errors=True)


def is_current(
    path: Path, kind: Kind, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> bool:
    """Whether the artifact at `path` was made by this recipe from these inputs.

    The artifact's configuration may hold more than `config`, such as what was derived from it.
    """
    if not (path / MANIFEST).is_file():
        return False
    try:
        manifest = load_manifest(path, kind)
    except ArtifactError as error:
        logger.warning("%s Making it again.", error)
        return False
    plain = json.loads(json.dumps(dict(config)))
    same = all(manifest.config.get(key) == value for key, value in plain.items())
    return same and manifest.inputs == dict(inputs)


@dataclass(slots=True)
class Stopwatch:
    """Seconds per stage, in the order the stages ran."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time the block under the name `stage`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(time.perf_counter() - start, 2)
