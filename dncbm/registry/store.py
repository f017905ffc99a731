"""The registry: which artifacts and models lie under a root, and what aliases stand for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dncbm.artifacts import MANIFEST
from dncbm.database import Database, now
from dncbm.errors import ArtifactError, InvalidInput, UnknownName
from dncbm.registry import aliases
from dncbm.registry.names import free_id, is_possible
from dncbm.registry.reading import (
    FoundArtifact,
    finite,
    has_artifacts,
    read_directory,
    require_model,
    seed_of,
)
from dncbm.registry.records import (
    AliasChange,
    AliasRecord,
    ArtifactRecord,
    Lineage,
    ModelRecord,
    Scan,
)
from dncbm.registry.tables import AliasRow, ArtifactRow, InputRow, ModelRow, PlaceRow

_LOCK = 0x7265676973747279
"""Of Postgres; the letters registry."""
_DEEPEST = 100
"""Steps of a lineage: edits of edits make long ones."""


class RegistryStore:
    """The record of what lies under `root`, in a database; safe to share between threads.

    Writers take turns, also those of other processes. What was registered is never forgotten:
    models keep their ids and artifacts their lineage when their directories vanish.

    Args:
        database: holds the tables.
        root: a model directory, or a folder of several; paths are kept relative to it.

    Raises:
        InvalidInput: `root` is not a directory.
    """

    def __init__(self, database: Database, root: str | Path) -> None:
        self.database = database
        self.root = Path(root).resolve()
        if not self.root.is_dir():
            raise InvalidInput(f"{root} is not a directory. Give the folder of the models.")

    def register(self, path: str | Path) -> ModelRecord:
        """Record a finished model directory and its artifacts; again changes nothing.

        Raises:
            InvalidInput: the directory is not under the root.
            ArtifactError: half written, damaged, or no finished model.
            ArtifactMismatch: its parts do not belong together.
        """
        folder, place = self._located(path)
        with self._writing() as session:
            found = read_directory(folder)
            require_model(folder, {kind: item.manifest for kind, item in found.items()})
            _put_artifacts(session, place, found)
            return self._put_model(session, place, found["cbm"])

    def register_artifacts(self, path: str | Path) -> list[str]:
        """Record the artifacts of a directory that is no finished model; their fingerprints.

        Raises:
            InvalidInput: the directory is not under the root.
            ArtifactError: half written or damaged.
        """
        folder, place = self._located(path)
        with self._writing() as session:
            found = read_directory(folder)
            _put_artifacts(session, place, found)
            return [item.manifest.fingerprint for item in found.values()]

    def scan(self) -> Scan:
        """Register what lies under the root, mark what vanished, name what is not whole."""
        refused = {}
        for folder in self._candidates():
            place = folder.relative_to(self.root).as_posix()
            try:
                if (folder / "cbm").is_dir():
                    self.register(folder)
                else:
                    self.register_artifacts(folder)
            except ArtifactError as error:
                refused[place] = str(error)
        with self._writing() as session:
            self._mark(session, refused)
            rows = session.scalars(select(ModelRow).order_by(ModelRow.id)).all()
        return Scan(
            models=tuple(row.id for row in rows if row.state == "ready"),
            missing=tuple(row.id for row in rows if row.state == "missing"),
            refused=refused,
        )

    def models(self) -> list[ModelRecord]:
        """All models that were ever registered, by id."""
        with self.database.session() as session:
            rows = session.scalars(select(ModelRow).order_by(ModelRow.id))
            return [_model_record(row) for row in rows]

    def model(self, name: str, *, what: str = "model") -> ModelRecord:
        """The model of an id or an alias.

        Raises:
            UnknownName: neither; the message lists the nearest of both.
        """
        with self.database.session() as session:
            found = aliases.model_id(session, name, what)
            return _model_record(session.get_one(ModelRow, found))

    def directory(self, model: ModelRecord) -> Path:
        """Where a model lies."""
        return self.root / model.path

    def artifacts(
        self, kind: str | None = None, *, limit: int = 50, offset: int = 0
    ) -> tuple[list[ArtifactRecord], int]:
        """A part of the artifacts, of one kind or of all, the newest first; and how many in all."""
        wanted = select(ArtifactRow)
        if kind is not None:
            wanted = wanted.where(ArtifactRow.kind == kind)
        order = (ArtifactRow.created.is_(None), ArtifactRow.created.desc(), ArtifactRow.fingerprint)
        with self.database.session() as session:
            total = session.scalar(select(func.count()).select_from(wanted.subquery())) or 0
            rows = session.scalars(wanted.order_by(*order).limit(limit).offset(offset))
            return [_artifact_record(session, row) for row in rows.all()], total

    def artifact(self, fingerprint: str) -> ArtifactRecord:
        """One artifact.

        Raises:
            UnknownName: none of that fingerprint was registered.
        """
        with self.database.session() as session:
            return _artifact_record(session, _artifact_row(session, fingerprint))

    def lineage(self, fingerprint: str) -> Lineage:
        """What an artifact was made from, and that in turn, down to data and encoder.

        Raises:
            UnknownName: no artifact of that fingerprint was registered.
        """
        with self.database.session() as session:
            top = _artifact_row(session, fingerprint)
            return _lineage(session, top.kind, fingerprint, set(), _DEEPEST)

    def set_alias(self, name: str, model: str, *, author: str, reason: str) -> AliasRecord:
        """Let `name` stand for a model; see `dncbm.registry.aliases`."""
        with self._writing() as session:
            return aliases.set_alias(session, name, model, author, reason)

    def delete_alias(self, name: str, *, author: str, reason: str) -> AliasChange:
        """Remove an alias; its history stays, with this as its last entry."""
        with self._writing() as session:
            return aliases.delete_alias(session, name, author, reason)

    def aliases(self) -> list[AliasRecord]:
        """All aliases, by name."""
        with self.database.session() as session:
            return aliases.list_aliases(session)

    def alias(self, name: str) -> AliasRecord:
        """One alias; UnknownName where there is none."""
        with self.database.session() as session:
            return aliases.get_alias(session, name)

    def alias_history(self, name: str) -> list[AliasChange]:
        """Every change of an alias, the latest first, also of one that was removed."""
        with self.database.session() as session:
            return aliases.alias_history(session, name)

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """A transaction with no other writer of the registry beside it."""
        with self.database.session() as session:
            if not self.database.is_sqlite:  # SQLite lets one transaction in at a time anyway
                session.connection().exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            yield session

    def _located(self, path: str | Path) -> tuple[Path, str]:
        """The directory, and its path relative to the root."""
        given = Path(path).absolute()
        # The parent alone is resolved: a model may be linked into the root by its owner.
        folder = self.root if given.resolve() == self.root else given.parent.resolve() / given.name
        if not folder.is_relative_to(self.root):
            raise InvalidInput(
                f"{path} does not lie under {self.root}, the folder of this registry. Move or "
                "copy it there: `dncbm import` does."
            )
        if not folder.is_dir():
            raise ArtifactError(f"{path} is not a directory. Give a model directory.")
        return folder, folder.relative_to(self.root).as_posix()

    def _candidates(self) -> list[Path]:
        """The root if it holds artifacts itself, else its visible folders that do."""
        if has_artifacts(self.root):
            return [self.root]
        visible = (path for path in self.root.iterdir() if not path.name.startswith("."))
        return sorted(path for path in visible if has_artifacts(path))

    def _put_model(self, session: Session, place: str, cbm: FoundArtifact) -> ModelRecord:
        row = session.scalar(select(ModelRow).where(ModelRow.path == place))
        row = row or self._moved(session, cbm.manifest.fingerprint)
        if row is None:
            taken = {*session.scalars(select(ModelRow.id)), *session.scalars(select(AliasRow.name))}
            name = free_id((self.root / place).name, taken)
            row = ModelRow(id=name, registered=now())
            session.add(row)
        row.path, row.cbm, row.created = place, cbm.manifest.fingerprint, cbm.created
        row.state = "ready"
        return _model_record(row)

    def _moved(self, session: Session, cbm: str) -> ModelRow | None:
        """A model of the same bottleneck whose directory is gone: it was moved and keeps its id."""
        rows = session.scalars(
            select(ModelRow).where(ModelRow.cbm == cbm).order_by(ModelRow.registered, ModelRow.id)
        )
        return next((row for row in rows if not self._holds(f"{row.path}/cbm")), None)

    def _mark(self, session: Session, refused: dict[str, str]) -> None:
        for place in session.scalars(select(PlaceRow)).all():
            if not self._holds(place.path):
                session.delete(place)
        for model in session.scalars(select(ModelRow)).all():
            if not self._holds(f"{model.path}/cbm"):
                model.state = "missing"
            elif model.path in refused:
                model.state = "damaged"

    def _holds(self, place: str) -> bool:
        return (self.root / place / MANIFEST).is_file()


def _put_artifacts(session: Session, place: str, found: dict[str, FoundArtifact]) -> None:
    for item in found.values():
        if session.get(ArtifactRow, item.manifest.fingerprint) is None:
            _add_artifact(session, item)
    session.flush()
    for kind, item in found.items():
        path = kind if place == "." else f"{place}/{kind}"
        session.merge(PlaceRow(path=path, fingerprint=item.manifest.fingerprint))


def _add_artifact(session: Session, item: FoundArtifact) -> None:
    manifest = item.manifest
    session.add(
        ArtifactRow(
            fingerprint=manifest.fingerprint,
            kind=manifest.kind,
            created=item.created,
            dncbm_version=manifest.dncbm_version,
            seed=seed_of(manifest.config),
            encoder=item.encoder,
            config=finite(manifest.config),
            metrics=finite(manifest.metrics),
            size_bytes=item.size_bytes,
            registered=now(),
        )
    )
    session.flush()  # the rows below refer to it
    session.add_all(
        InputRow(artifact=manifest.fingerprint, role=role, fingerprint=fingerprint)
        for role, fingerprint in manifest.inputs.items()
    )


def _artifact_row(session: Session, fingerprint: str) -> ArtifactRow:
    row = session.get(ArtifactRow, fingerprint) if is_possible(fingerprint) else None
    if row is None:
        known = session.scalars(select(ArtifactRow.fingerprint).limit(1000))
        raise UnknownName("artifact", fingerprint[:100], known)
    return row


def _artifact_record(session: Session, row: ArtifactRow) -> ArtifactRecord:
    of_inputs = select(InputRow).where(InputRow.artifact == row.fingerprint).order_by(InputRow.role)
    of_places = select(PlaceRow.path).where(PlaceRow.fingerprint == row.fingerprint)
    return ArtifactRecord(
        fingerprint=row.fingerprint,
        kind=row.kind,
        paths=tuple(session.scalars(of_places.order_by(PlaceRow.path))),
        created=row.created,
        dncbm_version=row.dncbm_version,
        seed=row.seed,
        encoder=row.encoder,
        config=row.config,
        inputs={item.role: item.fingerprint for item in session.scalars(of_inputs)},
        metrics=row.metrics,
        size_bytes=row.size_bytes,
    )


def _lineage(session: Session, role: str, fingerprint: str, seen: set[str], depth: int) -> Lineage:
    """The tree below one artifact; each is taken apart once, so its size stays in bounds."""
    row = session.get(ArtifactRow, fingerprint)
    if row is None:
        return Lineage(role=role, fingerprint=fingerprint, artifact=None)
    record = _artifact_record(session, row)
    listed = fingerprint not in seen and depth > 0
    seen.add(fingerprint)
    return Lineage(
        role=role,
        fingerprint=fingerprint,
        artifact=record,
        inputs=tuple(
            _lineage(session, part, value, seen, depth - 1)
            for part, value in (record.inputs.items() if listed else ())
        ),
        more=not listed and bool(record.inputs),
    )


def _model_record(row: ModelRow) -> ModelRecord:
    return ModelRecord(
        id=row.id,
        path=row.path,
        cbm=row.cbm,
        created=row.created,
        state=row.state,  # type: ignore[arg-type]  # written above only
    )
