"""Where the concepts of a dictionary lie on a plane: roughly at once, and well once computed."""

import atexit
import hashlib
import io
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dncbm.artifacts import read_json, write_json
from dncbm.errors import ArtifactError, Unavailable

if TYPE_CHECKING:  # heavy: imported when something is computed
    from dncbm.naming.map import ConceptMap

logger = logging.getLogger(__name__)

AT_ONCE = 300
"""So many concepts take half a second; 8,000 take most of a minute."""
_METHODS = ("pca", "pca+tsne")
_turn = threading.Lock()
"""One process that lays out at a time, however many models are looked at."""
_turn_here = threading.Lock()
"""The number of threads that a layout computes with is that of the whole process."""


class Layout:
    """The map of one dictionary. What takes long is computed by a process behind this one.

    Args:
        directions: (c, d), unit norm.
        state: folder in which maps are kept, if there is one.
    """

    def __init__(self, directions: np.ndarray, state: Path | None) -> None:
        from dncbm.naming.map import MOST_FOR_TSNE, rough_map

        self._directions = directions
        self._kept = None if state is None else _file(state, directions)
        found = self._read()
        self._is_final = found is not None or not AT_ONCE < len(directions) <= MOST_FOR_TSNE
        if found is None:
            found = self._made_here() if self._is_final else rough_map(directions)
        self._best: ConceptMap = found
        if not self._is_final:
            threading.Thread(target=self._improve, name="layout", daemon=True).start()

    @property
    def now(self) -> tuple["ConceptMap", bool]:
        """The places as they are known now, and False while better ones are being computed."""
        is_final = self._is_final  # first: it is set last
        return self._best, is_final

    def _made_here(self) -> "ConceptMap":
        from dncbm.naming.map import concept_map

        with _turn_here:
            found = concept_map(self._directions)
        self._keep(found)
        return found

    def _improve(self) -> None:
        try:
            with _turn:
                found = self._read()  # by the turn before, of the same directions
                if found is None:
                    found = map_apart(self._directions)
                    self._keep(found)
                self._best = found
        except Exception:  # no memory, say: places by PCA are right, too
            logger.exception("The map of %d concepts stays rough", len(self._directions))
        self._is_final = True

    def _read(self) -> "ConceptMap | None":
        return None if self._kept is None else _read(self._kept, len(self._directions))

    def _keep(self, found: "ConceptMap") -> None:
        if self._kept is None:
            return
        try:
            write_json(self._kept, {"method": found.method, "places": found.places.tolist()})
        except Unavailable as error:
            logger.info("The map of concepts is kept in memory only. %s", error)


def map_apart(directions: np.ndarray) -> "ConceptMap":
    """`concept_map` in a process of its own: for seconds at a time it lets no other thread run.

    Raises:
        ChildProcessError: it ended otherwise than with a map.
    """
    from dncbm.naming.map import ConceptMap

    given = io.BytesIO()
    np.save(given, directions, allow_pickle=False)
    command = [sys.executable, "-m", "dncbm.naming.map"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        atexit.register(process.kill)  # a service that ends does not leave it behind
        try:
            out, told = process.communicate(given.getvalue())
        finally:
            process.kill()
            atexit.unregister(process.kill)
    if process.returncode:
        raise ChildProcessError(told.decode(errors="replace")[-500:])
    places = np.load(io.BytesIO(out), allow_pickle=False)
    return ConceptMap(method="pca+tsne", places=places)


def _file(state: Path, directions: np.ndarray) -> Path:
    digest = hashlib.sha256(np.ascontiguousarray(directions).tobytes()).hexdigest()
    return state / "maps" / f"{digest}.json"


def _read(file: Path, count: int) -> "ConceptMap | None":
    """The map in a file; None where there is none that fits."""
    from dncbm.naming.map import ConceptMap

    try:
        data = read_json(file) if file.is_file() else {}
        places = np.array(data.get("places", []), dtype=np.float64)
    except (ArtifactError, ValueError, AttributeError):
        return None
    fits = places.shape == (count, 2) and np.isfinite(places).all()
    return ConceptMap(method=data["method"], places=places) if fits and _is_map(data) else None


def _is_map(data: dict[str, Any]) -> bool:
    return data.get("method") in _METHODS
