"""Where the state of served models lies, as the command line finds it: edits, audit log."""

import os
from pathlib import Path

from dncbm.artifacts import writing
from dncbm.database import Database
from dncbm.registry.place import DATABASE, STATE


def state_folder(model: Path) -> Path:
    """`DNCBM_STATE_DIR`, else `.dncbm` of the folder of models that this one is in, else its own.

    That is where the service keeps it, which may serve one model or a folder of them.
    """
    chosen = os.environ.get("DNCBM_STATE_DIR")
    if chosen:
        return Path(chosen)
    together = model.resolve().parent / STATE
    return together if together.is_dir() else model.resolve() / STATE


def open_database(model: Path) -> Database:
    """`DNCBM_DATABASE_URL`, else SQLite in the state folder, made if there is none.

    Raises:
        Unavailable: the server does not answer, or the folder cannot be written.
    """
    found = existing_database(model)
    if found is not None:
        return found
    folder = state_folder(model)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return Database.of_file(folder / DATABASE)


def existing_database(model: Path) -> Database | None:
    """The same where there is one already; None, and nothing is made, where there is none.

    Raises:
        Unavailable: it does not answer, or cannot be written.
    """
    url = os.environ.get("DNCBM_DATABASE_URL")
    if url:
        return Database(url)
    file = state_folder(model) / DATABASE
    return Database.of_file(file) if file.is_file() else None
