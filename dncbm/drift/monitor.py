"""Counts codes as they are served, and hands the counts to the database now and then."""

import logging
import threading
from datetime import datetime
from typing import Any, final

from dncbm.drift.compare import Comparison, compare
from dncbm.drift.reference import Reference
from dncbm.drift.statistics import CodeStatistics
from dncbm.drift.store import DriftStore
from dncbm.errors import DncbmError

_log = logging.getLogger(__name__)


@final
class DriftMonitor:
    """The live statistics of one model; every method may be called from several threads."""

    def __init__(self, reference: Reference, store: DriftStore) -> None:
        self.reference = reference
        self._store = store
        self._counting = threading.Lock()
        self._flushing = threading.Lock()
        self._part = CodeStatistics.empty(reference.edges)
        self._latest: Comparison | None = None

    def observe(self, codes: Any) -> None:
        """Count the codes (n, c) of images that were served; a failure is logged, not raised."""
        try:
            found = CodeStatistics.of(codes.detach().cpu().numpy(), self.reference.edges)
        except DncbmError as error:
            _log.warning("Codes were not counted for drift: %s", error)
            return
        with self._counting:
            self._part = self._part + found

    def flush(self) -> None:
        """Store what was counted since last time, if anything.

        Raises:
            Unavailable: the database does not answer; the counts are kept for the next time.
        """
        with self._flushing:
            part = self._taken()
            if part.images == 0:
                return
            try:
                stored = self._store.add(self.reference.fingerprint, part)
            except Exception:
                with self._counting:
                    self._part = self._part + part
                raise
            self._latest = compare(stored.statistics, self.reference)

    def read(self) -> tuple[CodeStatistics, datetime | None]:
        """All live statistics, of every process, and since when they are counted."""
        self.flush()
        stored = self._store.read(self.reference.fingerprint, self.reference.edges)
        if stored is None:
            return CodeStatistics.empty(self.reference.edges), None
        return stored.statistics, stored.since

    def reset(self) -> None:
        """Begin anew; what other processes have not stored yet is counted as new."""
        with self._flushing:
            self._taken()
            self._store.reset(self.reference.fingerprint)
            self._latest = None

    @property
    def share_shifted(self) -> float | None:
        """When the counts were last stored; None before that or where nothing is tested."""
        latest = self._latest
        return None if latest is None else latest.share_shifted

    def _taken(self) -> CodeStatistics:
        with self._counting:
            part, self._part = self._part, CodeStatistics.empty(self.reference.edges)
        return part


@final
class Flusher:
    """A thread that flushes monitors every `seconds`, and once more when it is closed."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._monitors: list[DriftMonitor] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, monitor: DriftMonitor) -> None:
        """Flush this one too; the first starts the thread."""
        self._monitors.append(monitor)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="drift", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Flush a last time and end."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._flush()

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            self._flush()

    def _flush(self) -> None:
        for monitor in list(self._monitors):
            try:
                monitor.flush()
            except Exception as error:  # the next turn tries again; serving goes on
                _log.warning("Drift was not stored: %s", error)
