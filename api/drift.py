"""Which models are watched for drift, and where their statistics are kept."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dncbm.database import Database
from dncbm.drift.monitor import DriftMonitor, Flusher
from dncbm.drift.store import DriftStore

if TYPE_CHECKING:
    from dncbm.predictor import Predictor

DATABASE_FILE = "dncbm.sqlite"


class DriftWatch:
    """Monitors by model directory; their counts reach the database every `seconds`."""

    def __init__(self, database: Database, seconds: float) -> None:
        self._store = DriftStore(database)
        self._flusher = Flusher(seconds)
        self._by_path: dict[Path, DriftMonitor] = {}

    def watching(self, load: Callable[[Path], "Predictor"]) -> Callable[[Path], "Predictor"]:
        """The same loader; what it loads is watched from then on."""

        def loaded(path: Path) -> "Predictor":
            predictor = load(path)
            predictor.on_codes = self._monitor(path, predictor).observe
            return predictor

        return loaded

    def monitor(self, path: Path) -> DriftMonitor | None:
        """Of the model at `path`; None if it is not watched."""
        return self._by_path.get(path)

    def close(self) -> None:
        """Store what is not stored yet."""
        self._flusher.close()

    def _monitor(self, path: Path, predictor: "Predictor") -> DriftMonitor:
        from dncbm.drift.training import reference_of  # heavy, as models are

        reference, known = reference_of(predictor), self._by_path.get(path)
        if known is None or known.reference.fingerprint != reference.fingerprint:
            self._by_path[path] = DriftMonitor(reference, self._store)  # it was made anew
            self._flusher.add(self._by_path[path])
        return self._by_path[path]
