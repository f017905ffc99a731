"""A finished model as the service serves it: with its active edit."""

from pathlib import Path
from typing import Any

from rich.text import Text

from dncbm.artifacts import slug
from dncbm.curation.apply import Edited
from dncbm.curation.store import CurationStore, ModelKey
from dncbm.curation.workbench import Workbench
from dncbm.database import Database
from dncbm.errors import Unavailable
from dncbm.naming.dictionary import load_dictionary
from dncbm.predictor import Predictor
from dncbm.probe.store import Cbm, load_cbm
from dncbm.registry.store import RegistryStore
from pipelines.console import stdout
from pipelines.state import existing_database, state_folder


def load_predictor(model: Path, *, device: str, edits: bool = True) -> tuple[Predictor, int | None]:
    """The model in a directory with its active edit, and the number of that edit.

    Args:
        model: directory.
        device: where the encoder runs.
        edits: False takes the model as it was made.

    Raises:
        ArtifactError: not a model directory, damaged or incomplete.
        Unavailable: the database of its edits does not answer.
    """
    predictor = Predictor.load(model, device=device)
    number, found = _active(model, Edited(predictor.cbm, predictor.dictionary), edits)
    if number is None:
        return predictor, None
    return predictor.edited(found.dictionary, found.cbm), number


def load_edited_cbm(model: Path, *, edits: bool = True) -> tuple[Cbm, int | None]:
    """The heads of a model with its active edit, without its encoder; see `load_predictor`."""
    cbm = load_cbm(model / "cbm")
    if not edits or not (model / "dictionary").is_dir():
        return cbm, None
    number, found = _active(model, Edited(cbm, load_dictionary(model / "dictionary")), edits)
    return found.cbm, number


def _active(model: Path, base: Edited, edits: bool) -> tuple[int | None, Edited]:
    if not edits:
        return None, base
    try:
        database = existing_database(model)
        if database is None:
            return None, base
        try:
            edit, found = bench_of(model, base, database).active()
        finally:
            database.close()
    except Unavailable as error:
        raise Unavailable(
            f"{error} Without it nobody knows whether {model} has an active edit; --no-edits takes "
            "the model as it was made."
        ) from error
    return (None, base) if edit is None else (edit.id, found)


def bench_of(model: Path, base: Edited, database: Database) -> Workbench:
    """Where edits of the model in a directory are made and measured."""
    key = ModelKey(_id_of(model.resolve(), base.cbm, database), base.cbm.manifest.fingerprint)
    return Workbench(CurationStore(database), key, base, model, state_folder(model))


def _id_of(model: Path, cbm: Cbm, database: Database) -> str:
    """Under which the service knows a directory: ids stay when directories are renamed."""
    records = RegistryStore(database, model.parent).models()
    ids = {item.path: item.id for item in records if item.cbm == cbm.manifest.fingerprint}
    return ids.get(model.name) or ids.get(".") or slug(model.name)


def say_edit(result: dict[str, Any]) -> None:
    """Tell in a line which edit a result holds for, where there is one."""
    if result["edit"] is not None:
        text = f"With edit {result['edit']}, which is active; --no-edits takes the model without."
        stdout.print(Text(text), soft_wrap=True)
