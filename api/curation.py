"""The models of a service with their active edits, followed across processes."""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api.catalogue import ConceptCatalogue
from api.errors import Overloaded
from api.registry import Registry, ServedModel
from dncbm.curation.apply import Edited
from dncbm.curation.store import CurationStore, ModelKey
from dncbm.curation.workbench import Workbench
from dncbm.errors import DncbmError

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0


class Curation:
    """Keeps a registry at the edits that are active in the database; safe between threads.

    Args:
        store: edits of all models.
        registry: what is served; edited models take the place of those in it.
        state: folder for refitted heads.
        every: seconds between two looks at the database.
        clock: tells seconds.
    """

    def __init__(
        self,
        store: CurationStore,
        registry: Registry,
        state: Path,
        *,
        every: float = CHECK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self._registry, self._state = registry, state
        self._every, self._clock = every, clock
        self._checked: float | None = None
        registry.prepare = self.prepared
        self._served: dict[ModelKey, tuple[int, Callable[[], Any]]] = {}
        """Version that is served, and a weak reference to what it was made from."""
        self._refused: dict[ModelKey, int] = {}
        self._swapping, self._measuring = threading.Lock(), threading.Lock()

    @property
    def is_due(self) -> bool:
        """Whether the last look at the database is so long ago that it is time for another."""
        return self._checked is None or self._clock() - self._checked >= self._every

    def refresh(self, *, wait: bool = False) -> None:
        """Serve what is active now; requests that run keep the model that they began with.

        A database that does not answer, or an edit that cannot be applied, is logged: the service
        goes on with what it has. Without `wait` nothing is done while another thread does it.
        """
        if not self._swapping.acquire(blocking=wait):
            return
        try:
            self._checked = self._clock()
            versions = self.store.versions()
            for model in self._registry.loaded:  # others come in through `prepared`
                self._follow(model, versions)
        except DncbmError as error:
            logger.warning("The active edits cannot be read: %s", error)
        finally:
            self._swapping.release()

    def _follow(self, model: ServedModel, versions: dict[ModelKey, int]) -> None:
        key = key_of(model)
        version = versions.get(key, 0)
        base = model.base.predictor
        served, made_from = self._served.get(key, (0, lambda: base))
        if version == served and made_from() is base:  # another base was loaded again, unedited
            return
        try:
            if not self._registry.add(self._edited(model.base), in_place_of=model):
                return  # it was made again or has gone meanwhile
        except DncbmError as error:
            if self._refused.get(key) != version:
                logger.error("The active edit of %s cannot be served: %s", model.id, error)
            self._refused[key] = version
            return
        self._served[key] = (version, weakref.ref(base))

    def prepared(self, model: ServedModel) -> ServedModel:
        """A model that was just loaded, with its active edit."""
        version = self.store.versions().get(key_of(model), 0)
        made = self._edited(model) if version else model
        self._served[key_of(model)] = (version, weakref.ref(model.predictor))
        return made

    def _edited(self, base: ServedModel) -> ServedModel:
        edit, made = self.workbench(base).active()
        if edit is None:
            return base
        return ServedModel(
            id=base.id,
            path=base.path,
            predictor=base.predictor.edited(made.dictionary, made.cbm),
            catalogue=ConceptCatalogue(made.dictionary, made.hidden),
            edit=edit.id,
            unedited=base,
        )

    def workbench(self, model: ServedModel) -> Workbench:
        """Where edits of a model are made and measured."""
        predictor = model.base.predictor
        base = Edited(predictor.cbm, predictor.dictionary)
        return Workbench(self.store, key_of(model), base, model.path, self._state)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """One edit is measured at a time: a refit takes a processor for long.

        Raises:
            Overloaded: another one is being measured.
        """
        if not self._measuring.acquire(blocking=False):
            raise Overloaded(
                "Another edit is being evaluated, which may take minutes with a refit. Try again "
                "when it is done."
            )
        try:
            yield
        finally:
            self._measuring.release()


def key_of(model: ServedModel) -> ModelKey:
    """Under which a served model's edits are kept."""
    return ModelKey(model.id, model.base.predictor.cbm.manifest.fingerprint)
