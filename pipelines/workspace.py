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

    def checkpoint(self, stage: str) -> Path:
        """The file from which an interrupted stage resumes."""
        return self.root / ".work" / f"{stage}.safetensors"

    def create(self) -> "Workspace":
        """Make the directory, refusing one that cannot be written or is not ours."""
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / ".work").mkdir(exist_ok=True)
            probe = self.root / ".work" / "writable"
            probe.write_text("")
            probe.unlink()
        return self

    def read_recipe(self) -> Recipe:
        """The recipe that earlier stages of this model directory used."""
        if not (self.root / RECIPE).is_file():
            raise ArtifactError(
                f"{self.root} is not a model directory: it has no {RECIPE}. "
                "Begin with `dncbm embed --out DIR` or `dncbm quickstart`."
            )
        values = read_json(self.root / RECIPE)
        for name in ("blocked_words", "templates"):
            values[name] = tuple(values[name])
        return Recipe(**values)

    def write_recipe(self, recipe: Recipe) -> Recipe:
        """Remember the recipe, so that later stages need not be told again."""
        write_json(self.root / RECIPE, recipe.as_dict())
        return recipe

    def clean(self) -> None:
        """Remove the checkpoints of finished stages."""
        shutil.rmtree(self.root / ".work", ignore_errors=True)


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
