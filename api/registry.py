"""The models that a service offers: loaded from a directory, joined by others while it runs."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.catalogue import ConceptCatalogue
from api.predicting import ServedPredictor
from dncbm.artifacts import slug
from dncbm.errors import ArtifactError, DncbmError, InvalidInput, UnknownName
from dncbm.registry.records import ModelRecord
from dncbm.registry.store import RegistryStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model; its dictionary of concepts has the same id."""

    id: str
    path: Path
    predictor: ServedPredictor
    catalogue: ConceptCatalogue
    edit: int | None = None
    """The edit that is served; None: the model as it was made."""
    unedited: "ServedModel | None" = None
    """The model as it was made, where an edit is served."""

    @property
    def base(self) -> "ServedModel":
        """The model as it was made."""
        return self.unedited or self

    @property
    def effective_concepts(self) -> list[int]:
        """Values that `nec` takes, smallest first."""
        return sorted(int(value) for value in self.predictor.cbm.nec_probes)

    def probe(self, nec: int | None) -> Any:
        """The dense probe, or the one with `nec` effective concepts per class.

        Raises:
            InvalidInput: the model has no probe of that size.
        """
        self.check_nec(nec)
        cbm = self.predictor.cbm
        return cbm.probe if nec is None else cbm.nec_probes[nec]

    def check_nec(self, nec: int | None) -> None:
        """Refuse a number of effective concepts that the model was not made with."""
        known = self.effective_concepts
        if nec is not None and nec not in known:
            values = ", ".join(map(str, known)) or "none"
            raise InvalidInput(
                f"nec={nec} is not available in model {self.id!r}. Available: {values}; "
                "leave nec out for the dense probe."
            )

    @property
    def report(self) -> Path:
        """Where the model's report lies, if it has one."""
        return self.path / "report" / "report.html"

    def thumbnail(self, row: int) -> Path:
        """Where the picture of an embedding row lies, if it has one."""
        return self.path / "dictionary" / "thumbnails" / f"{int(row)}.jpg"

    def thumbnail_address(self, row: int) -> str | None:
        """Where a client finds that picture; None where there is none."""
        address = f"/v1/dictionaries/{self.id}/thumbnails/{int(row)}.jpg"
        return address if self.thumbnail(row).is_file() else None

    def class_index(self, k: str) -> int:
        """A class by name first, since a class may be called 7, then by index.

        Raises:
            UnknownName: neither.
        """
        classes = self.predictor.classes
        if k in classes:
            return classes.index(k)
        if k.isascii() and k.isdigit() and len(k) < 10 and int(k) < len(classes):
            return int(k)
        raise UnknownName("class", k[:100], classes, f"Or give an index, 0 to {len(classes) - 1}.")


class Registry:
    """Models by id; safe to share between threads.

    Ids come from this mapping and the store only, never from the file system.

    Args:
        models: already loaded.
        store: where other models and aliases are found, also those of jobs that finish later.
        load: reads a model directory; needed with a store.
    """

    def __init__(
        self,
        models: Sequence[ServedModel] = (),
        *,
        store: RegistryStore | None = None,
        load: "Load | None" = None,
    ) -> None:
        self.store = store
        self._load = load
        self._when_gone: list[Callable[[Sequence[ServedModel]], None]] = []
        self._some_gone = False  # which nobody was told of yet
        self._models = {model.id: model for model in models}
        self._versions: dict[str, str] = {}  # fingerprint of the cbm each was loaded from
        self._known: set[str] = set()  # ids of the store that can be loaded
        self._refused: dict[str, tuple[str, str]] = {}
        """Fingerprint that could not be loaded, and why, by id."""
        self._damaged: dict[str, str] = {}  # why the last look at the directories refused it
        self._on_model: Callable[[ServedModel], None] = lambda _: None
        self.prepare: Callable[[ServedModel], ServedModel] = lambda model: model
        """What a model goes through before anyone sees it: its active edit, say."""
        self._lock = threading.Lock()
        self._loading = threading.Lock()  # one at a time: each takes seconds and memory

    @property
    def models(self) -> list[ServedModel]:
        """All models, by id; may ask the database and load what was registered meanwhile."""
        self.refresh()
        return self.loaded

    @property
    def ids(self) -> list[str]:
        """Ids of what is loaded, or would be when asked for; never waits."""
        with self._lock:
            return sorted(self._models.keys() | self._known)

    @property
    def refused(self) -> dict[str, str]:
        """Why a model is not served, by id; paths are relative to the root. Never waits."""
        with self._lock:
            found = self._damaged | {key: reason for key, (_, reason) in self._refused.items()}
        root = f"{self.store.root}/" if self.store is not None else ""
        return {
            key: reason.replace(root, "") if root else reason
            for key, reason in sorted(found.items())
            if self.get(key) is None
        }

    def tell_damaged(self, reasons: Mapping[str, str]) -> None:
        """Keep what a scan said of directories that are not whole, by directory below the root."""
        records = [] if self.store is None else self.store.models()
        ids = {record.path: record.id for record in records}
        with self._lock:
            self._damaged = {ids.get(place, slug(place)): why for place, why in reasons.items()}

    @property
    def loaded(self) -> list[ServedModel]:
        """All that is in memory now, by id; never waits."""
        with self._lock:
            return [self._models[key] for key in sorted(self._models)]

    def get(self, model_id: str) -> ServedModel | None:
        """The model of that id if it is loaded; never waits, and knows no aliases."""
        with self._lock:
            return self._models.get(model_id)

    def model(self, model_id: str, *, what: str = "model") -> ServedModel:
        """The model (or the owner of the dictionary) of that id or alias, loaded if need be.

        Raises:
            UnknownName: no such id or alias; the message lists the nearest.
            DncbmError: it is registered, but its directory is damaged.
        """
        found = self.get(model_id)
        if found is not None:
            return found
        if self.store is None:
            raise UnknownName(what, model_id[:100], self.ids)
        try:
            record = self.store.model(model_id, what=what)
        except UnknownName:
            if model_id in self.refused:  # it never was whole, so it never got an id
                raise ArtifactError(self.refused[model_id]) from None
            raise
        return self.get(record.id) or self._loaded(record, what)

    def add(self, model: ServedModel, *, in_place_of: ServedModel | None = None) -> bool:
        """Offer a model, in place of one of the same id; requests under way keep the old one.

        Where `in_place_of` is not what is served any more, nothing is done, and False comes back.
        """
        with self._lock:
            if in_place_of is not None and self._models.get(model.id) is not in_place_of:
                return False
            self._models[model.id] = model
            return True

    def follow(self, on_model: Callable[[ServedModel], None]) -> None:
        """Call `on_model` for each model in memory, and for each that is loaded later."""
        self._on_model = on_model
        for model in self.loaded:
            on_model(model)

    def when_gone(self, told: "Callable[[Sequence[ServedModel]], None]") -> None:
        """Call `told` with all models in memory once another has gone, but never during a load."""
        self._when_gone.append(told)

    def refresh(self) -> None:
        """Load what is not yet, or was made again; drop what vanished. One failure stops nothing.

        What could not be loaded is not tried again until it is made again or asked for by name.
        """
        for record in self.look():
            if self._is_due(record):
                try:
                    self._loaded(record, "model")
                except (DncbmError, OSError) as error:
                    logger.warning("model %s is not served: %s", record.id, error)

    def look(self) -> list[ModelRecord]:
        """What the store says is ready, without loading any of it; drops what vanished."""
        records = [] if self.store is None else self.store.models()
        self._drop({record.id for record in records if record.state == "missing"})
        if self._loading.acquire(blocking=False):  # else at the next look
            try:
                self._tell_gone()
            finally:
                self._loading.release()
        ready = [record for record in records if record.state == "ready"]
        with self._lock:
            self._known = {record.id for record in ready}
            self._damaged = {k: why for k, why in self._damaged.items() if k not in self._known}
        return ready

    def _is_due(self, record: ModelRecord) -> bool:
        with self._lock:
            if self._refused.get(record.id, ("", ""))[0] == record.cbm:
                return False
            if record.id not in self._models:
                return True
            return self._versions.get(record.id, record.cbm) != record.cbm

    def _loaded(self, record: ModelRecord, what: str) -> ServedModel:
        """The model of a record, loaded unless another thread was faster."""
        assert self.store is not None
        with self._loading:
            found = self.get(record.id)
            if found is not None and self._versions.get(record.id, record.cbm) == record.cbm:
                return found
            if record.state == "missing" or self._load is None:
                hint = f"{record.id!r} was registered, but its directory is gone."
                raise UnknownName(what, record.id, self.ids, hint)
            path = self.store.directory(record)
            try:
                made = self.prepare(serve_model(record.id, path, self._load(path)))
            except Exception as error:  # no memory for it, say: the other models go on
                with self._lock:
                    self._refused[record.id] = (record.cbm, str(error))
                    self._some_gone = True  # its encoder may be in memory already
                if isinstance(error, DncbmError | OSError):
                    raise
                raise ArtifactError(f"{path} cannot be loaded: {error}") from error
            with self._lock:
                self._some_gone |= record.id in self._models
                self._models[record.id] = made
                self._versions[record.id] = record.cbm
                self._refused.pop(record.id, None)
            self._on_model(made)
            self._tell_gone()
            return made

    def _tell_gone(self) -> None:
        """Say what is still in memory if anything has gone; under the lock of loading."""
        with self._lock:
            some_gone, self._some_gone = self._some_gone, False
        if some_gone:
            for told in self._when_gone:
                told(self.loaded)

    def _drop(self, missing: set[str]) -> None:
        with self._lock:
            for model_id in missing & self._versions.keys():
                self._models.pop(model_id, None)
                del self._versions[model_id]
                self._some_gone = True


Load = Callable[[Path], ServedPredictor]


def serve_model(model_id: str, path: Path, predictor: ServedPredictor) -> ServedModel:
    """A registry entry for a loaded predictor."""
    return ServedModel(model_id, path, predictor, ConceptCatalogue(predictor.dictionary))


def open_registry(
    root: Path, load: Load, *, store: RegistryStore | None = None, lazy: bool = False
) -> Registry:
    """Load the model at `root`, or every model one level below it.

    Args:
        root: a model directory, or a folder of several.
        load: reads one.
        store: of the same root; gives ids that stay, aliases, and models of later jobs.
        lazy: with a store, load a model when it is first asked for, alone or in a list.

    Raises:
        InvalidInput: neither `root` nor a folder in it is a model directory.
        ArtifactError: there are model directories, and none of them is whole.
    """
    if store is not None:
        return _open_store(root, Registry(store=store, load=load), store, lazy)
    paths = find_models(root)
    ids = unique_slugs([path.name for path in paths])
    return Registry(
        [serve_model(model_id, path, load(path)) for model_id, path in zip(ids, paths, strict=True)]
    )


def _open_store(root: Path, registry: Registry, store: RegistryStore, lazy: bool) -> Registry:
    found = store.scan()
    for place, reason in found.refused.items():
        logger.warning("%s is not served: %s", place, reason)
    if not found.models:
        find_models(root)  # says so where there is none at all
        raise ArtifactError(next(iter(found.refused.values()), f"No model in {root} is whole."))
    registry.tell_damaged(found.refused)
    if lazy:
        registry.look()
        return registry
    if not registry.models:
        registry.model(found.models[0])  # says why it cannot be served
    return registry


def find_models(root: Path) -> list[Path]:
    """Model directories: `root` itself or its direct children, sorted by name."""
    root = root.resolve()
    if _is_model(root):
        return [root]
    folders = root.iterdir() if root.is_dir() else ()
    # what begins with a dot is still being written
    found = sorted(path for path in folders if path.name[:1] != "." and _is_model(path))
    if not found:
        raise InvalidInput(
            f"{root} is not a model directory and holds none: there is no `cbm` artifact. Give the "
            "directory that `dncbm quickstart --out DIR` left, or the folder of several."
        )
    return found


def _is_model(path: Path) -> bool:
    return (path / "cbm" / "manifest.json").is_file()


def unique_slugs(names: Sequence[str]) -> list[str]:
    """One slug per name, later duplicates numbered from 2."""
    taken: list[str] = []
    for name in names:
        base, number = slug(name), 1
        candidate = base
        while candidate in taken:
            number += 1
            candidate = f"{base}-{number}"
        taken.append(candidate)
    return taken
