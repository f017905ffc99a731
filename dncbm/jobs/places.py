"""Where jobs read and write, and where what is known of them lies."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dncbm.artifacts import slug, writing
from dncbm.errors import InvalidInput

HEARTBEAT = "worker.alive"
"""File in the state folder that every worker touches; its time of change is the heartbeat."""
WORK = ".jobs"
"""Folder of the model root in which unfinished models lie, one folder per job."""
KEEP_FAILED_HOURS = 168.0
"""A week."""
_MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_LONGEST_NAME = 100
_KEEP = "DNCBM_JOBS_KEEP_FAILED_HOURS"
_MOST_HOURS = 1_000_000


@dataclass(frozen=True, slots=True)
class Places:
    """Folders and the database of one installation."""

    models: Path
    """The model root: each job makes a directory here."""
    state: Path
    """For databases and locks."""
    database: str
    """URL of the database of progress and logs."""
    data: Path | None = None
    """The only folder that photos and word lists of confined jobs may come from."""
    network: bool = False
    """Whether confined jobs may fetch data sets and weights, and ask other services."""
    keep_failed_hours: float = KEEP_FAILED_HOURS
    """How long what a failed or cancelled job finished is kept for a retry."""

    @classmethod
    def of(
        cls,
        models: Path,
        *,
        state: Path | None = None,
        database: str | None = None,
        data: Path | None = None,
        network: bool = False,
        keep_failed_hours: float = KEEP_FAILED_HOURS,
    ) -> "Places":
        """The usual places below the model root where nothing else is said.

        Raises:
            Unavailable: the state folder cannot be made.
        """
        models = models.resolve()
        state = (state or models / ".dncbm").resolve()
        with writing(state):
            state.mkdir(parents=True, exist_ok=True)
        url = database or f"sqlite:///{state / 'dncbm.sqlite'}"
        return cls(models, state, url, data and data.resolve(), network, keep_failed_hours)

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], models: Path | None = None
    ) -> "Places":
        """The places that the variables `DNCBM_*` name.

        Args:
            environment: variables.
            models: model root in place of `DNCBM_MODEL_DIR`.

        Raises:
            InvalidInput: no model root, or one that is no folder; hours that are no number.
            Unavailable: the state folder cannot be made.
        """
        named = environment.get("DNCBM_MODEL_DIR")
        root = models or (Path(named) if named else None)
        if root is None:
            raise InvalidInput("No model root is given. Set DNCBM_MODEL_DIR, or name the folder.")
        if not root.is_dir():
            raise InvalidInput(f"The model root {root} is not a folder. Make it first.")
        state, data = environment.get("DNCBM_STATE_DIR"), environment.get("DNCBM_DATA_DIR")
        return cls.of(
            root,
            state=Path(state) if state else None,
            database=environment.get("DNCBM_DATABASE_URL"),
            data=Path(data) if data else None,
            network=environment.get("DNCBM_JOBS_NETWORK", "").lower() in ("1", "true", "yes"),
            keep_failed_hours=_hours(environment.get(_KEEP) or str(KEEP_FAILED_HOURS)),
        )

    def show_worker(self) -> None:
        """Tell who looks at the state folder that a worker runs.

        Raises:
            Unavailable: the folder cannot be written.
        """
        with writing(self.state / HEARTBEAT):
            (self.state / HEARTBEAT).touch()

    def target(self, model: str) -> Path:
        """The directory of a model."""
        return self.models / model

    @property
    def work_root(self) -> Path:
        """The folder in which each job has one, by its id, while it works."""
        return self.models / WORK

    def work(self, job: str, model: str) -> Path:
        """The directory in which a job works until its model is whole."""
        return self.work_root / job / model

    def job_lock(self, job: str) -> Path:
        """The file that the process of a job holds while it lives."""
        return self.state / "workers" / f"job-{job}"

    def new_model(self, name: str) -> str:
        """The directory name for a model called `name`.

        Raises:
            InvalidInput: no usable name, one that exists, or a root that is itself a model.
        """
        if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
            raise InvalidInput(
                f"The name is {name[:_LONGEST_NAME]!r}; give 1 to {_LONGEST_NAME} printable "
                "characters."
            )
        self.require_root()
        model = slug(name)
        if self.target(model).exists():
            raise InvalidInput(
                f"A model {model!r} exists already in {self.models}. Choose another name, or "
                "remove it first."
            )
        return model

    def require_root(self) -> None:
        """Refuse a model root that is itself a model: jobs write models beside each other."""
        if (self.models / "cbm" / "manifest.json").is_file():
            raise InvalidInput(
                f"{self.models} is a model, not a folder of models, so a job has no place to "
                "write one. Serve the folder that holds it."
            )

    def existing_model(self, name: str) -> Path:
        """The directory of a model that a job starts from.

        Raises:
            InvalidInput: no such directory below the model root, or not one that `dncbm` made.
        """
        path = self.models / name
        if not _MODEL_NAME.fullmatch(name) or not (path / "recipe.json").is_file():
            known = sorted(p.parent.name for p in self.models.glob("*/recipe.json"))
            shown = ", ".join(known[:10]) or "none"
            raise InvalidInput(f"There is no model {name[:100]!r} to start from. Known: {shown}.")
        return path


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 <= hours < _MOST_HOURS:
        raise InvalidInput(
            f"{_KEEP} is {text[:100]!r}; it must be a number of hours from 0 to {_MOST_HOURS:,}, "
            "for example 168 for a week."
        )
    return hours
